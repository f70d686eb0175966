"""Publications and their versions."""

import sqlalchemy as sa

from audience.store.migrations.ddl import create_table
from audience.store.types import DOCUMENT, Exact, Prose

revision = "0004"
down_revision = "0003"

ID, NAME, STATE, TIME = Exact(32), Exact(100), Exact(16), Exact(32)


def upgrade() -> None:
    create_table(
        "publication",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", NAME, nullable=False, unique=True),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("numbered", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("former", sa.Integer, nullable=False),
        sa.Column("asked", DOCUMENT, nullable=True),
        sa.Column("preview", DOCUMENT, nullable=True),
        sa.Column("error", Prose(), nullable=True),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    create_table(
        "publication_version",
        sa.Column("publication_id", ID, sa.ForeignKey("publication.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("asked", DOCUMENT, nullable=False),
        sa.Column("changes", DOCUMENT, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
