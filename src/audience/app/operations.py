"""Operations: whatever a user waits for and may cancel, of every kind."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from audience.errors import Conflict, NotFound
from audience.jobs.kinds import JobKind, OperationKind
from audience.jobs.leases import RetryPolicy
from audience.jobs.local_worker import LocalWorker
from audience.jobs.worker_status import worker_status
from audience.settings import Settings
from audience.store.database import Record
from audience.store.queues import parse_lanes
from audience.store.records import Store
from audience.store.states import FINAL

LOOK_S = 0.1
PROGRESS_S = 0.5
SOON_S = 10.0
"""Seconds that a request over HTTP waits for an operation."""


class Operations:
    """Finds, watches, cancels and carries out operations. A reference is the beginning of an id, or `last`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        job_kinds: Callable[[], Mapping[str, JobKind]],
        operation_kinds: Mapping[str, OperationKind],
    ) -> None:
        self.settings = settings
        self.store = store
        self._job_kinds = job_kinds
        self._operation_kinds = operation_kinds

    def find(self, reference: str) -> str:
        """Returns the id of an operation."""
        return str(self.store.operations.find(reference)["id"])

    def get(self, reference: str) -> Record:
        """Returns an operation with its progress, `warnings` and, when it is done, its `result`."""
        found = self.store.operations.get(self.find(reference))
        result = self.store.operations.result(found["id"]) if found["state"] == "done" else None
        return {**found, "warnings": self.store.workers.lacking(found["queue"], found["state"]), "result": result}

    def page(
        self,
        limit: int = 50,
        kinds: Sequence[str] = (),
        states: Sequence[str] = (),
        created_by: str | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[Record]:
        """Returns operations, newest first: those before (created_at, id), of these kinds, states and this actor."""
        return self.store.operations.page(limit, kinds, states, created_by, before)

    def counts(self) -> dict[tuple[str, str], int]:
        """Returns (kind, state) -> number of operations."""
        return self.store.operations.counts()

    def job_counts(self) -> dict[tuple[str, str], int]:
        """Returns (kind, state) -> number of jobs."""
        return self.store.jobs.counts()

    def moves(self, subjects: list[str], after: int = 0) -> list[Record]:
        """Returns the audit rows of these records after the row `after`, oldest first."""
        return self.store.audit(subjects, after)

    def cancel(self, reference: str, actor: str) -> str:
        """Cancels an operation of any kind, whoever works on it; returns its id. Raises Conflict when it has ended."""
        found = self.store.operations.find(reference)
        kind = self._operation_kinds.get(found["kind"], OperationKind())
        self.store.operations.cancel(found["id"], actor, kind.cancelling)
        return str(found["id"])

    # the work

    def worker(
        self, threads: int | None = None, operation_id: str | None = None, queues: Sequence[str] | None = None
    ) -> LocalWorker:
        """Makes a worker in this process, not started; with `operation_id` for that operation only, whatever its
        queue."""
        return LocalWorker(
            self.store,
            self._job_kinds(),
            threads=threads or self.settings.threads,
            policy=RetryPolicy.of(self.settings),
            lanes=parse_lanes(queues or self.settings.queues),
            operation_id=operation_id,
            environment=self.settings.environment(),
        )

    def workers(self) -> list[Record]:
        """Returns the workers and what they work on; takes a moment to see whether they are alive."""
        return worker_status(self.store, self.settings.lease_s)

    def workers_alive(self) -> list[Record]:
        """Returns the workers that are thought alive, with the number of jobs that each works on."""
        return self.store.workers.all()

    def work_on(self, operation_id: str, progress: Callable[[], bool | None] | None = None) -> None:
        """Carries out an operation in this process until it has ended, beside other workers. `progress` is called every
        `PROGRESS_S`; when it returns true, the rest is left to others. No more often: what it asks of our records takes
        Python's lock from the threads that label."""
        worker, grace_s = self.worker(operation_id=operation_id), None
        worker.start()
        shown = -PROGRESS_S
        try:
            while not self.has_ended(operation_id):
                if progress and time.monotonic() - shown >= PROGRESS_S:
                    shown = time.monotonic()
                    if progress():
                        grace_s = 0.0
                        return
                time.sleep(LOOK_S)
        finally:
            worker.stop(grace_s)

    def ends_soon(self, operation_id: str) -> bool:
        """Works on an operation in this process for `SOON_S`; returns whether it has ended. Otherwise the rest is left
        to others."""
        deadline = time.monotonic() + SOON_S
        self.work_on(operation_id, lambda: time.monotonic() > deadline)
        return self.has_ended(operation_id)

    def has_ended(self, operation_id: str) -> bool:
        """Returns whether the operation is in a final state, or is gone."""
        try:
            state = self.store.operations.get(operation_id)["state"]
        except NotFound:
            return True
        return state in FINAL and not self.store.jobs.is_open(operation_id)

    def check_done(self, operation_id: str) -> Record:
        """Returns the operation, which is done. Raises Conflict with its error when it failed or was aborted."""
        found = self.get(operation_id)
        if found["state"] != "done":
            raise Conflict(found["error"] or f"the {found['kind']} was {found['state']}", found["state"])
        return found

    def fetch(self, reference: str) -> tuple[str, Iterator[bytes]]:
        """Returns (layout, the bytes) of the file that an export has made."""
        found = self.check_done(self.find(reference))
        if not isinstance(found["result"], dict) or "blob" not in found["result"]:
            raise NotFound(f"the operation {found['id'][:12]} has made no file")
        return found["result"]["layout"], self.store.blobs.read(found["result"]["blob"])
