"""Jobs, workers, fences; saved groups; answers to repeated requests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID, NAME, STATE, TIME = sa.String(32), sa.String(100), sa.String(16), sa.String(32)


def upgrade() -> None:
    op.add_column("run", sa.Column("started_at", TIME, nullable=True))
    op.add_column("run", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("run", sa.Column("served", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("task", sa.Column("fence", sa.Integer, nullable=False, server_default="0"))
    op.add_column("task", sa.Column("touched", sa.Boolean, nullable=False, server_default="0"))
    op.add_column("task", sa.Column("started_at", TIME, nullable=True))
    op.add_column("task", sa.Column("worked_s", sa.Float, nullable=False, server_default="0"))
    op.add_column("task", sa.Column("by_author", sa.Boolean, nullable=True))
    op.add_column("task", sa.Column("peak_mb", sa.Float, nullable=True))
    op.add_column("task", sa.Column("peak_by", sa.String(40), nullable=True))
    op.create_index("ix_audit_subject", "audit", ["subject"])
    _create_tables()
    _end_what_nobody_works_on()


def _create_tables() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False, index=True),
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
        sa.Column("delay_s", sa.Float, nullable=False),
        sa.Column("n_read", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.JSON, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("after", STATE, nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("job_by_state", "job", ["state", "run_id"])
    op.create_index("job_by_task", "job", ["task_id", "kind", "state"])
    op.create_table(
        "worker",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
    )
    op.create_table(
        "mapping",
        sa.Column("kind", sa.String(20), primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "answer",
        sa.Column("idempotency_key", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )


def _end_what_nobody_works_on() -> None:
    """Before this revision a run lived in one process; one that it left unfinished can now be resumed. Its results
    were written with the fence 1."""
    op.execute("UPDATE task SET fence = 1, touched = true")
    for table in ("run", "task"):
        op.execute(f"UPDATE {table} SET state = 'aborted' WHERE state IN ('planned', 'running', 'producing')")
