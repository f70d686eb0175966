"""Sources, models, runs, tasks, partitions and the audit."""

import sqlalchemy as sa

from audience.store.migrations.ddl import create_index, create_table
from audience.store.types import DOCUMENT, SERIAL, Exact, Prose

revision = "0001"
down_revision = None


def _created() -> list[sa.Column[str]]:
    return [
        sa.Column("created_by", Exact(100), nullable=False),
        sa.Column("created_at", Exact(32), nullable=False),
    ]


def upgrade() -> None:
    create_table(
        "source",
        sa.Column("name", Exact(100), primary_key=True),
        sa.Column("spec", DOCUMENT, nullable=False),
        *_created(),
    )
    create_table(
        "model",
        sa.Column("name", Exact(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("kind", Exact(100), nullable=False),
        sa.Column("digest", Exact(64), nullable=False),
        sa.Column("definition", DOCUMENT, nullable=False),
        sa.Column("warnings", DOCUMENT, nullable=False),
        *_created(),
    )
    create_table(
        "run",
        sa.Column("id", Exact(32), primary_key=True),
        sa.Column("state", Exact(16), nullable=False),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("error", Prose(), nullable=True),
        sa.Column("finished_at", Exact(32), nullable=True),
        *_created(),
    )
    create_index("ix_run_state", "run", ["state"])
    create_table(
        "task",
        sa.Column("id", Exact(32), primary_key=True),
        sa.Column("run_id", Exact(32), sa.ForeignKey("run.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("state", Exact(16), nullable=False),
        sa.Column("n_planned", sa.BigInteger, nullable=True),
        sa.Column("set_aside", DOCUMENT, nullable=True),
        sa.Column("report", DOCUMENT, nullable=True),
        sa.Column("error", Prose(), nullable=True),
        *_created(),
    )
    create_index("ix_task_run_id", "task", ["run_id"])
    create_table(
        "partition",
        sa.Column("task_id", Exact(32), sa.ForeignKey("task.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("slice", DOCUMENT, nullable=False),
        sa.Column("n_rows", sa.BigInteger, nullable=False),
    )
    create_table(
        "audit",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", Exact(32), nullable=False),
        sa.Column("actor", Exact(100), nullable=False),
        sa.Column("action", Exact(40), nullable=False),
        sa.Column("subject", Exact(200), nullable=False),
        sa.Column("details", DOCUMENT, nullable=False),
    )
