"""Models tell what they are without being built; aliases; numbers of versions are never used again."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from audience.store.migrations.ddl import add_column, create_index, create_table
from audience.store.types import DOCUMENT, SERIAL, Exact, Prose

revision = "0006"
down_revision = "0005"

NAME, TIME = Exact(100), Exact(32)

model = sa.table(
    "model",
    sa.column("name", NAME),
    sa.column("version", sa.Integer),
    sa.column("digest", Exact(64)),
    sa.column("definition", DOCUMENT),
    sa.column("inputs", DOCUMENT),
    sa.column("labels", DOCUMENT),
    sa.column("summary", DOCUMENT),
    sa.column("artifacts", DOCUMENT),
)
number = sa.table("model_number", sa.column("name", NAME), sa.column("last", sa.Integer))


def upgrade() -> None:
    for name in ("inputs", "labels", "summary", "artifacts", "lineage"):
        add_column("model", sa.Column(name, DOCUMENT, nullable=True))
    add_column("model", sa.Column("notes", Prose(), nullable=True))
    add_column("model", sa.Column("protocol", sa.Integer, nullable=False, server_default="1"))
    create_table(
        "model_alias",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=True),
        sa.Column("set_by", NAME, nullable=False),
        sa.Column("set_at", TIME, nullable=False),
    )
    create_index("model_alias_by_name", "model_alias", ["name", "alias"])
    create_table(
        "model_number", sa.Column("name", NAME, primary_key=True), sa.Column("last", sa.Integer, nullable=False)
    )
    _describe()
    _number()


def _describe() -> None:
    """A definition that is a blob becomes an artifact; what it holds is told by who reads it, for blobs may be on
    another machine."""
    connection = op.get_bind()
    for name, version in connection.execute(sa.select(model.c.name, model.c.version)).all():
        this = sa.and_(model.c.name == name, model.c.version == version)
        found = connection.execute(sa.select(model.c.digest, model.c.definition).where(this)).one()
        values: dict[str, Any] = {"artifacts": {"definition": found.digest}}
        if found.definition is not None:
            values = {"artifacts": {}, **_told(found.definition)}
        connection.execute(sa.update(model).where(this).values(values))


def _told(definition: dict[str, Any]) -> dict[str, Any]:
    """All models were rule sets then."""
    rules = definition["rules"]
    fields = definition.get("fields", ["content"])
    inputs = [field for rule in rules for field in rule.get("fields") or fields]
    settings = {key: value for key, value in definition.items() if key != "rules"}
    return {
        "inputs": list(dict.fromkeys(inputs)),
        "labels": list(dict.fromkeys(rule["label"] for rule in rules)),
        "summary": {"n_rules": len(rules), **settings},
    }


def _number() -> None:
    connection = op.get_bind()
    numbered = set(connection.execute(sa.select(number.c.name)).scalars())
    newest = sa.select(model.c.name, sa.func.max(model.c.version)).group_by(model.c.name)
    for name, last in connection.execute(newest).all():
        if name not in numbered:
            connection.execute(sa.insert(number).values(name=name, last=last))
