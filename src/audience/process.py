"""What every process of the service does: it logs, ends on signals, and ends with the process that started it."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


def log_to_stderr() -> None:
    """Logs to standard error, one line a record, for people and for log collectors."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
    )


def end_on_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


@contextlib.contextmanager
def told_of_ctrl_c() -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets, in place of an interrupt in the middle of anything; the next one ends
    the program."""
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
    """Ends this process with SIGTERM when its parent is gone, however that ended: the parent's end of our standard
    input is closed then."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read(): its lock would be held when this process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    SystemThread(wait, "tied").start()


class SystemThread:
    """A thread of the operating system, also where gevent makes greenlets of threads: a greenlet that waits for a
    database would let all others wait too. It does not keep the process alive."""

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
