"""A small relay between a client and a server, whose connections a test can cut or silence after so many bytes."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Passes on what comes. `cut_after`, `silent_after`: bytes from the server, over all connections, after which each
    connection is closed, or nothing more is passed on."""

    def __init__(self, host: str, port: int) -> None:
        self.server = (host, port)
        self.cut_after: int | None = None
        self.silent_after: int | None = None
        self.n_bytes = 0
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                client.setblocking(True)
                upstream = socket.create_connection(self.server)
                for source, sink, counted in ((client, upstream, False), (upstream, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, counted), daemon=True).start()
        self._listener.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.n_bytes += len(data) if counted else 0
                if counted and self.silent_after is not None and self.n_bytes > self.silent_after:
                    self._closing.wait()
                if counted and self.cut_after is not None and self.n_bytes > self.cut_after:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def relayed(host: str, port: int) -> Iterator[Relay]:
    relay = Relay(host, port)
    try:
        yield relay
    finally:
        relay.close()
