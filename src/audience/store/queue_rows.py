"""Adds rows to the queue, for every noun that has jobs, in that noun's own transaction."""

from collections.abc import Iterable

import sqlalchemy as sa

from audience.store import schema
from audience.store.clock import clock_s
from audience.store.database import Record


def add_jobs(
    connection: sa.Connection,
    operation_id: str,
    kind: str,
    *,
    lane: str = "manage",
    subject: str | None = None,
    arguments: Record | None = None,
    urgent: bool = False,
    delay_s: float = 0.0,
    jobs: Iterable[Record] = ({},),
) -> None:
    """Adds jobs that wait to be claimed; `jobs` holds the values in which they differ."""
    row: Record = {"operation_id": operation_id, "subject": subject, "number": 0, "kind": kind, "lane": lane}
    row |= {"arguments": arguments or {}, "state": "waiting", "urgent": urgent, "sent": 0}
    row |= {"attempts": 0, "failures": 0, "losses": 0, "delay_s": delay_s, "due_at": 0.0}
    row |= {"progress": 0, "total": None, "result": None}
    if rows := [{**row, **job} for job in jobs]:
        connection.execute(sa.insert(schema.job), rows)
    if delay_s:
        job = schema.job
        added = (job.c.operation_id == operation_id, job.c.kind == kind, job.c.state == "waiting", job.c.due_at == 0.0)
        connection.execute(sa.update(job).where(*added).values(due_in(delay_s)))


def due_in(delay_s: float) -> Record:
    return {"delay_s": delay_s, "due_at": clock_s() + delay_s if delay_s else 0.0}


def last_turn(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.max(schema.operation.c.last_turn))).scalar() or 0
