"""Sources, models, runs, tasks, partitions and the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _created() -> list[sa.Column[str]]:
    return [
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "source",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("spec", sa.JSON, nullable=False),
        *_created(),
    )
    op.create_table(
        "model",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        *_created(),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("finished_at", sa.String(32), nullable=True),
        *_created(),
    )
    op.create_table(
        "task",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run_id", sa.String(32), sa.ForeignKey("run.id"), nullable=False, index=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("n_planned", sa.BigInteger, nullable=True),
        sa.Column("set_aside", sa.JSON, nullable=True),
        sa.Column("report", sa.JSON, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        *_created(),
    )
    op.create_table(
        "partition",
        sa.Column("task_id", sa.String(32), sa.ForeignKey("task.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("slice", sa.JSON, nullable=False),
        sa.Column("n_rows", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
