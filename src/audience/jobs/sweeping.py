"""The job that removes what nobody needs any more: blobs without a record, answers to old requests, and operations that
keep nothing of lasting use. It runs once a day."""

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from audience.jobs import single
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.store import sweeps
from audience.store.database import Record
from audience.store.records import Store

BLOB_AGE = dt.timedelta(days=1)
"""Younger blobs stay: a blob is written before the record that names it."""


@dataclass(frozen=True)
class SweepingJobs:
    """Carries out sweeps with what the app hands it: the store."""

    store: Store

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of sweeps, by name."""
        return {sweeps.KIND: JobKind(self.sweep, _done, _failed)}

    def sweep(self, job: Record, control: JobControl) -> Outcome:
        """Removes old operations and answers first, so that the blobs that only they named go too."""
        self.store.operations.start(job["operation_id"])
        found = {"answers": self.store.answers.sweep(), "operations": self.store.sweeps.remove_operations(), "blobs": 0}
        for digest in self.store.blobs.old(dt.datetime.now(dt.UTC) - BLOB_AGE):
            control.check()
            found["blobs"] += self.store.sweeps.remove_blob(digest)
        return Outcome(found)


def _done(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    single.done(connection, job, outcome)
    sweeps.plan_next(connection)


def _failed(connection: sa.Connection, job: Record, reason: str) -> None:
    single.failed(connection, job, reason)
    sweeps.plan_next(connection)
