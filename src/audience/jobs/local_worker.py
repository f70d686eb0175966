"""A local worker: its threads look for jobs in our records, and carry them out. It needs no broker."""

import logging
import threading
import time
from collections.abc import Mapping

from audience.errors import AudienceError
from audience.jobs.kinds import JobKind
from audience.jobs.leases import RetryPolicy
from audience.jobs.worker import LOOK_AGAIN_S, POLL_S, Worker
from audience.store.database import Record
from audience.store.queues import DEFAULT, Lane, parse_lanes
from audience.store.records import Store

log = logging.getLogger(__name__)


class LocalWorker(Worker):
    """Takes jobs of its lanes until it is stopped; with `operation_id` only those of that operation, whatever its
    queue."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        *,
        threads: int,
        policy: RetryPolicy,
        lanes: tuple[Lane, ...] = parse_lanes([DEFAULT]),
        operation_id: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(store, kinds, threads=threads, policy=policy, lanes=lanes, environment=environment)
        self.operation_id = operation_id
        self.lasts = operation_id is None
        self._looking = threading.Lock()
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begins to take jobs, in threads of its own."""
        super().start()
        for _ in range(self.threads):
            self._start_thread(self._keep_working)

    def stop(self, grace_s: float | None = None) -> None:
        """Takes no more jobs, then stops as every worker does."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        super().stop(grace_s)

    def handle(self, job: Record) -> None:
        """Carries out a job, then wakes the other threads: its end may have added jobs."""
        super().handle(job)
        with self._changed:
            self._changed.notify_all()

    def _keep_working(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._take()
                if job is not None:
                    self.handle(job)
                    continue
            except AudienceError as error:
                log.warning("action=take_failed worker=%s reason=%s", self._id, error)
                self._stopping.wait(LOOK_AGAIN_S)
            except Exception:
                log.exception("action=worker_thread_crashed worker=%s", self._id)
            with self._changed:
                self._changed.wait(POLL_S)

    def _take(self) -> Record | None:
        """Takes the next job, or returns None. One thread looks at a time; when it finds one, it wakes the others."""
        if not self._looking.acquire(blocking=False):
            return None
        try:
            lanes = None if self.operation_id else self.lanes
            without = self._backoff.operations(time.monotonic())
            job = self.store.jobs.take(self._id, self.operation_id, lanes, without)
        finally:
            self._looking.release()
        if job is not None:
            with self._changed:
                self._changed.notify_all()
        return job
