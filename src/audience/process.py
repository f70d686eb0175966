"""What every process of the service does: it logs, ends when it is told to, and ends with the one that started it."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


def log_to_stderr() -> None:
    """One line a record, for people and for log collectors."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
    )


def end_on_signals(stop: Callable[[], None]) -> None:
    """Ctrl-C and SIGTERM end the program in good order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


@contextlib.contextmanager
def told_of_ctrl_c() -> Iterator[threading.Event]:
    """Set at the first Ctrl-C, which would otherwise come in the middle of anything; the next one ends the program."""
    pressed, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def end_with_parent() -> None:
    """Ends this process as SIGTERM does when the one that started it is gone, however it ended: its end of our
    standard input is closed then."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read(): its lock would be held when this process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    SystemThread(wait, "tied").start()


class SystemThread:
    """A thread of the operating system, also where gevent makes greenlets of threads: what waits for a database in one
    of those lets all others wait too. It does not keep the process alive."""

    def __init__(self, body: Callable[[], None], name: str) -> None:
        self._body = body
        self._name = name
        self._ended = threading.Event()

    def start(self) -> None:
        if _threads_are_greenlets():
            from gevent import monkey

            monkey.get_original("_thread", "start_new_thread")(self._run, ())
        else:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._body()
        finally:
            self._ended.set()

    def join(self, timeout_s: float) -> None:
        self._ended.wait(timeout_s)


def _threads_are_greenlets() -> bool:
    patches = sys.modules.get("gevent.monkey")
    return patches is not None and bool(patches.is_module_patched("threading"))
