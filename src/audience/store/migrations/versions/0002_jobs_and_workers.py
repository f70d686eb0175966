"""Jobs, workers, fences; saved groups; answers to repeated requests."""

import sqlalchemy as sa
from alembic import op

from audience.store.migrations.ddl import add_column, create_index, create_table
from audience.store.types import DOCUMENT, REAL, SERIAL, Exact, Prose

revision = "0002"
down_revision = "0001"

ID, NAME, STATE, TIME = Exact(32), Exact(100), Exact(16), Exact(32)


def upgrade() -> None:
    add_column("run", sa.Column("started_at", TIME, nullable=True))
    add_column("run", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    add_column("run", sa.Column("served", sa.BigInteger, nullable=False, server_default="0"))
    add_column("task", sa.Column("fence", sa.Integer, nullable=False, server_default="0"))
    add_column("task", sa.Column("touched", sa.Boolean, nullable=False, server_default="0"))
    add_column("task", sa.Column("started_at", TIME, nullable=True))
    add_column("task", sa.Column("worked_s", REAL, nullable=False, server_default="0"))
    add_column("task", sa.Column("by_author", sa.Boolean, nullable=True))
    add_column("task", sa.Column("peak_mb", REAL, nullable=True))
    add_column("task", sa.Column("peak_by", Exact(40), nullable=True))
    create_index("ix_audit_subject", "audit", ["subject"])
    _create_tables()
    _end_what_nobody_works_on()


def _create_tables() -> None:
    create_table(
        "job",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("task_id", ID, sa.ForeignKey("task.id"), nullable=True),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("urgent", sa.Boolean, nullable=False),
        sa.Column("worker", ID, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("delay_s", REAL, nullable=False),
        sa.Column("n_read", sa.BigInteger, nullable=False),
        sa.Column("counts", DOCUMENT, nullable=True),
        sa.Column("error", Prose(), nullable=True),
        sa.Column("after", STATE, nullable=True),
        sqlite_autoincrement=True,
    )
    create_index("ix_job_run_id", "job", ["run_id"])
    create_index("job_by_state", "job", ["state", "run_id"])
    create_index("job_by_task", "job", ["task_id", "kind", "state"])
    create_table(
        "worker",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
    )
    create_table(
        "mapping",
        sa.Column("kind", Exact(20), primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.Column("definition", DOCUMENT, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    create_table(
        "answer",
        sa.Column("idempotency_key", Exact(200), primary_key=True),
        sa.Column("digest", Exact(64), nullable=False),
        sa.Column("body", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )


def _end_what_nobody_works_on() -> None:
    """Before this revision a run lived in one process; one that it left unfinished can now be resumed. Its results
    were written with the fence 1."""
    op.execute("UPDATE task SET fence = 1, touched = true")
    for table in ("run", "task"):
        op.execute(f"UPDATE {table} SET state = 'aborted' WHERE state IN ('planned', 'running', 'producing')")
