"""Keeps jobs away from greenlets. With the pool `gevent`, Celery's process only hands each job on and waits; a process
of its own, without greenlets, carries it out. Where gevent replaces threads and locks, a real thread may wait for ever
for a lock that another has released, so nothing of ours lives there.

Both sides speak over a pair of sockets, line by line: `NUMBER JOB` one way, `NUMBER` back when the job is over, and
before all others the number 0: ready. A side that closes its socket ends the other."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

log = logging.getLogger(__name__)

READY = 0


class GeventBridge:
    """Celery's side of the bridge, among greenlets."""

    def __init__(self, command: list[str]) -> None:
        """Starts the other process, and waits until it is ready. Raises EOFError when it ends before."""
        import gevent
        from gevent.event import Event

        self._event = Event
        self._numbers = count(READY + 1)
        self._waiting: dict[int, Any] = {}
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, *command], stdin=theirs.fileno())
        self._answers = self._line.makefile("r")
        if not self._answers.readline():
            raise EOFError("the process that works ended at once")
        gevent.spawn(self._hear)

    def receive(self, job_id: int) -> None:
        """Hands a job on, and returns when it is over."""
        number = next(self._numbers)
        self._waiting[number] = over = self._event()
        self._line.sendall(f"{number} {job_id}\n".encode())
        over.wait()

    def _hear(self) -> None:
        for answer in self._answers:
            self._waiting.pop(int(answer)).set()
        code = self._process.wait()
        log.log(logging.ERROR if code else logging.INFO, "action=process_ended code=%s", code)
        os._exit(int(code != 0))  # messages that were not followed come again

    def hang_up(self) -> None:
        """Lets the other process end, with its jobs finished or not. Does not wait."""
        self._line.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        self._process.kill()


def carry_out(receive: Callable[[int], None], threads: int) -> None:
    """Runs the working side: follows lines until the other side hangs up; jobs under way then go on."""
    for end in (signal.SIGINT, signal.SIGTERM):  # a terminal tells both of us; the other decides
        signal.signal(end, signal.SIG_IGN)
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))

    def answer(number: int) -> None:
        line.sendall(f"{number}\n".encode())

    def follow(number: int, job_id: int) -> None:
        try:
            receive(job_id)
        finally:
            answer(number)

    pool = ThreadPoolExecutor(threads)
    answer(READY)
    with line.makefile("r") as asked:
        for each in asked:
            number, job_id = map(int, each.split())
            pool.submit(follow, number, job_id)
    pool.shutdown(wait=False, cancel_futures=True)
