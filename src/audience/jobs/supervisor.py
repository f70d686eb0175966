"""Keeps child processes running: the API and workers of `audience up`."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

LOOK_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
SETTLED_S = 60.0
"""A child that lived longer is started again after the shortest pause."""


@dataclass
class Child:
    """A process of this program with these arguments, which inherits these file descriptors. A `polite` one has a lower
    scheduling priority."""

    name: str
    arguments: Sequence[str]
    polite: bool = False
    inherits: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = 0.0
    due_at: float = field(default=0.0)

    def start(self) -> None:
        """Starts the process. It ends when this process does, because its standard input is closed then."""
        command = [sys.executable, "-m", "audience", *self.arguments, "--tied"]
        # A pipe to its standard input, and not a signal: it closes however this process ends, also by SIGKILL.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=self.inherits)
        self.started_at = time.monotonic()
        if self.polite and hasattr(os, "setpriority"):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, 5)
        log.info("action=child_started name=%s pid=%s", self.name, self.process.pid)

    def look(self, now: float) -> int | None:
        """Starts the process when it is due; when it has ended, plans its next start, with a pause that grows while it
        ends soon. Returns the pid of one that was found ended."""
        if self.process is None:
            if now >= self.due_at:
                self.start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        lived = now - self.started_at
        self.pause_s = (
            FIRST_PAUSE_S if lived > SETTLED_S else min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        )
        self.due_at = now + self.pause_s
        log.warning("action=child_ended name=%s status=%s again_in_s=%s", self.name, status, self.pause_s)
        pid = self.process.pid
        self.close()
        return pid

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.process = None


class Supervisor:
    """Starts children, starts them again when they end, and ends them together. `ended` is called with the pid of one
    that ended by itself."""

    def __init__(self, children: Sequence[Child], stop_s: float, ended: Callable[[int], None]) -> None:
        self.children = children
        self.stop_s = stop_s
        self._ended = ended
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Keeps the children running until `stop` is called."""
        try:
            while not self._stop.wait(LOOK_S):
                for child in self.children:
                    if (pid := child.look(time.monotonic())) is not None:
                        self._ended(pid)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        running = [child for child in self.children if child.process is not None and child.process.poll() is None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        deadline = time.monotonic() + 2 * self.stop_s + 5
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.close()
