"""The daily operation that removes what nobody needs any more, and what it may remove."""

import datetime as dt
from typing import Any

import sqlalchemy as sa

from audience.store import operations, schema
from audience.store.blobs import Blobs
from audience.store.database import Database, now
from audience.store.operations import WORKER, add_operation
from audience.store.queue_rows import add_jobs
from audience.store.states import FINAL

KIND = "sweep"
EVERY_S = 86_400.0
KEPT = dt.timedelta(days=7)
"""For how long operations are kept whose result is of no lasting use."""
PASSING = ("source_test", "model", "export", KIND)


class Sweeps:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database = database
        self.blobs = blobs

    def ensure(self) -> None:
        """Plans a sweep unless one is planned: somebody may have cancelled the last."""
        if not self._is_planned():
            with self.database.writing() as connection:
                plan_next(connection)

    def _is_planned(self) -> bool:
        with self.database.reading() as connection:
            return _is_planned(connection)

    def remove_operations(self) -> int:
        """Removes passing operations that ended long ago; returns how many."""
        c = schema.operation.c
        old = sa.select(c.id).where(c.kind.in_(PASSING), c.state.in_(FINAL), c.finished_at < now(ago=KEPT))
        with self.database.writing() as connection:
            ids = connection.execute(old).scalars().all()
            operations.remove(connection, ids)
        return len(ids)

    def remove_blob(self, digest: str) -> bool:
        """Removes a blob that no record names. It holds the write lock: a writer that is about to name the blob waits,
        and then looks whether it is still there."""
        with self.database.writing() as connection:
            if _is_named(connection, digest):
                return False
            self.blobs.delete(digest)
            return True


def plan_next(connection: sa.Connection) -> None:
    """Plans the next sweep, unless one is planned."""
    if not _is_planned(connection):
        row = add_operation(connection, KIND, WORKER)
        add_jobs(connection, row["id"], KIND, delay_s=EVERY_S)


def _is_planned(connection: sa.Connection) -> bool:
    c = schema.operation.c
    return connection.execute(sa.select(c.id).where(c.kind == KIND, c.state.not_in(FINAL))).first() is not None


def _is_named(connection: sa.Connection, digest: str) -> bool:
    """Returns whether a model, the request for one or the result of an export names the blob."""
    model, job = schema.model.c, schema.job.c
    named: list[sa.Select[Any]] = [sa.select(model.name).where(sa.cast(model.artifacts, sa.Text).contains(digest))]
    named.append(sa.select(job.id).where(job.kind == "export", sa.cast(job.result, sa.Text).contains(digest)))
    named.append(sa.select(job.id).where(job.kind == "model", sa.cast(job.arguments, sa.Text).contains(digest)))
    return any(connection.execute(query.limit(1)).first() is not None for query in named)
