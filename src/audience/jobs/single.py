"""Operations of one job: how they end. `source_test`, `export` and `sweep` are such."""

import sqlalchemy as sa

from audience.jobs.kinds import Outcome
from audience.store import operations
from audience.store.database import Record


def done(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    """Ends the operation with its job."""
    operations.end(connection, job["operation_id"], "done")


def failed(connection: sa.Connection, job: Record, reason: str) -> None:
    """Ends the operation with its job, for a reason that will not pass."""
    operations.end(connection, job["operation_id"], "failed", reason)
