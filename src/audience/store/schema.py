"""Our own records as tables. Keys are short, so that they fit the indexes of every database."""

import sqlalchemy as sa

metadata = sa.MetaData()

NAME = sa.String(100)
ID = sa.String(32)
STATE = sa.String(16)


def _created() -> list[sa.Column[str]]:
    return [sa.Column("created_by", NAME, nullable=False), sa.Column("created_at", sa.String(32), nullable=False)]


source = sa.Table(
    "source",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("spec", sa.JSON, nullable=False),
    *_created(),
)

model = sa.Table(
    "model",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("kind", NAME, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    *_created(),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("state", STATE, nullable=False, index=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("finished_at", sa.String(32), nullable=True),
    *_created(),
)

task = sa.Table(
    "task",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("state", STATE, nullable=False),
    sa.Column("n_planned", sa.BigInteger, nullable=True),
    sa.Column("set_aside", sa.JSON, nullable=True),
    sa.Column("report", sa.JSON, nullable=True),
    sa.Column("error", sa.Text, nullable=True),
    *_created(),
)

partition = sa.Table(
    "partition",
    metadata,
    sa.Column("task_id", ID, sa.ForeignKey("task.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("slice", sa.JSON, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", NAME, nullable=False),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
)
