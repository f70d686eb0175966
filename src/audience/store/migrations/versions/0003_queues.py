"""Queues of runs and workers; how often a message for a job was sent."""

import sqlalchemy as sa

from audience.store.migrations.ddl import add_column
from audience.store.types import Exact

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    add_column("run", sa.Column("queue", Exact(40), nullable=False, server_default="default"))
    add_column("job", sa.Column("sent", sa.Integer, nullable=False, server_default="0"))
    add_column("worker", sa.Column("queues", Exact(400), nullable=False, server_default="default"))
    add_column("worker", sa.Column("pool", Exact(16), nullable=False, server_default="local"))
