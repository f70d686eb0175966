"""The ends of operations of one job: `source_test`, `model`, `export` and `sweep`."""

import sqlalchemy as sa

from audience.jobs.kinds import Outcome
from audience.store import operations
from audience.store.database import Record


def done(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    """Ends the operation with its job."""
    operations.end(connection, job["operation_id"], "done")


def failed(connection: sa.Connection, job: Record, reason: str) -> None:
    """Fails the operation with its job, after an error that retrying does not cure."""
    operations.end(connection, job["operation_id"], "failed", reason)
