"""Aliases of models: a name such as `champion` that stands for one version now, and for another later."""

import datetime as dt
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, NotFound
from audience.store import schema
from audience.store.database import Database, Record, note, now, rows_of
from audience.store.references import check_alias

ROW = ("name", "alias", "version", "set_by", "set_at")


class Aliases:
    """Sets and reads aliases. Every change is kept, so that what an alias stood for at any moment is known."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def set(self, name: str, alias: str, version: int, actor: str) -> None:
        """Lets an alias lead to a version; nothing changes where it leads there already."""
        check_alias(alias)
        with self.database.writing() as connection:
            c = schema.model.c
            known = connection.execute(sa.select(c.version).where(c.name == name).order_by(c.version)).scalars().all()
            if version not in known:
                has = ", ".join(map(str, known[-20:])) or "none"
                raise NotFound(f"there is no {name}@{version} that {alias!r} could lead to; versions: {has}")
            if any(row["alias"] == alias and row["version"] == version for row in current(connection, name)):
                return
            _append(connection, name, alias, version, actor)

    def remove(self, name: str, alias: str, actor: str) -> None:
        with self.database.writing() as connection:
            if alias not in {row["alias"] for row in current(connection, name)}:
                raise NotFound(f"the model {name!r} has no alias {alias!r}")
            _append(connection, name, alias, None, actor)

    def of(self, name: str, at: dt.datetime | None = None) -> list[Record]:
        """Returns the aliases of a model, by name, each with the version that it leads to; as of the moment `at` (with
        its offset), if one is given."""
        with self.database.reading() as connection:
            return current(connection, name, at)

    def history(self, name: str, alias: str | None = None) -> list[Record]:
        """Returns every change, oldest first; null `version`: the alias was removed."""
        with self.database.reading() as connection:
            return rows_of(connection, _changes(name, alias))


def current(connection: sa.Connection, name: str, at: dt.datetime | None = None) -> list[Record]:
    query = _changes(name)
    if at is not None:
        if at.tzinfo is None:
            raise BadInput(f"the time {at.isoformat()} needs an offset from UTC, such as {at.isoformat()}+00:00")
        moment = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
        query = query.where(schema.model_alias.c.set_at <= moment)
    last = {row["alias"]: row for row in rows_of(connection, query)}
    return [last[alias] for alias in sorted(last) if last[alias]["version"] is not None]


def _changes(name: str, alias: str | None = None) -> sa.Select[Any]:
    c = schema.model_alias.c
    query = sa.select(*(c[column] for column in ROW)).where(c.name == name).order_by(c.id)
    return query if alias is None else query.where(c.alias == alias)


def _append(connection: sa.Connection, name: str, alias: str, version: int | None, actor: str) -> None:
    row = {"name": name, "alias": alias, "version": version, "set_by": actor, "set_at": now()}
    connection.execute(sa.insert(schema.model_alias).values(row))
    note(connection, actor, "model.alias", name, alias=alias, version=version)
