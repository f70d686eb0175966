"""A model's definition may be in a blob, and is null then."""

from alembic import op

from audience.store.types import DOCUMENT

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("model") as model:
        model.alter_column("definition", existing_type=DOCUMENT, nullable=True)
