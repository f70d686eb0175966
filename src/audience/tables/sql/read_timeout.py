"""Ends the wait for a server that sends nothing, in drivers that cannot be interrupted.

The sockets that were opened to the server since are shut down, so that the driver itself fails. Where that does not
free it (or the system does not say which sockets a process has), the process ends: its lease runs out, and another
worker goes on."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from audience.errors import Transient

log = logging.getLogger(__name__)

DESCRIPTORS = Path("/proc/self/fd")
GRACE_S = 30.0
EXIT_STATUS = 75
"""As BSD has it: a failure that may pass."""


@contextlib.contextmanager
def read_timeout(host: str, port: int, timeout_s: float, before: Container[int] | None = None) -> Iterator[None]:
    """Ends what goes on inside after `timeout_s`: its connections are cut, and Transient is raised. `before`: the
    sockets there were before the connection was opened; by default those there are now. Connections that other threads
    opened to the same server since are cut as well; what used them is tried again."""
    before = sockets() if before is None else before
    fired = threading.Event()

    def cut() -> None:
        fired.set()
        log.warning("action=silent_connection_cut server=%s:%s timeout_s=%s", host, port, timeout_s)
        cut_connections(host, port, before)

    with _after(timeout_s, cut), _after(timeout_s + GRACE_S, _end_process):
        try:
            yield
        except Exception as error:
            if fired.is_set():
                raise Transient(
                    f"the server {host}:{port} sent nothing for {timeout_s:g} s (read_timeout_s)"
                ) from error
            raise


def cut_connections(host: str, port: int, before: Container[int]) -> None:
    """Shuts down the connections to a server that this process has opened since; `before`: the sockets there were."""
    for number, descriptor in sockets().items():
        if number not in before:
            _shut_down(descriptor, host, port)


@contextlib.contextmanager
def _after(delay_s: float, what: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(delay_s, what)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def sockets() -> dict[int, int]:
    """Returns the sockets of this process: inode -> descriptor. Inodes are not used again as soon as descriptors
    are."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                kind, _, number = str(entry.readlink()).partition(":")
                if kind == "socket":
                    found[int(number.strip("[]"))] = int(entry.name)
    return found


def _shut_down(descriptor: int, host: str, port: int) -> None:
    """Shuts down a socket that leads to the server; others stay as they are."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, port)}
        peer = connection.getpeername()
        if isinstance(peer, tuple) and peer[0].removeprefix("::ffff:") in addresses and peer[1] == port:
            connection.shutdown(socket.SHUT_RDWR)


def _end_process() -> None:
    log.critical("action=process_ended reason=a driver waits for a silent server and cannot be interrupted")
    os._exit(EXIT_STATUS)
