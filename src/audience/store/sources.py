"""Sources that are saved under names."""

import sqlalchemy as sa

from audience.errors import Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, note, now
from audience.store.idempotency import IdempotencyKey, keep_made, made_before


class Sources:
    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str, spec: Record, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Adds a source, and returns its name and time."""
        row = {"name": name, "spec": spec, "created_by": actor, "created_at": now()}
        with self.database.writing() as connection:
            if made := made_before(connection, key):
                return made
            if connection.execute(sa.select(schema.source.c.name).where(schema.source.c.name == name)).first():
                raise Conflict(f"there is a source {name!r} already: remove it first, or choose another name")
            connection.execute(sa.insert(schema.source).values(row))
            note(connection, actor, "source.add", name)
            return keep_made(connection, key, {"name": name, "created_at": row["created_at"]})

    def get(self, name: str) -> Record:
        found = self.database.rows(sa.select(schema.source).where(schema.source.c.name == name))
        if not found:
            names = ", ".join(record["name"] for record in self.all()) or "none yet"
            raise NotFound(f"there is no source {name!r}; sources: {names}")
        return found[0]

    def all(self) -> list[Record]:
        return self.database.rows(sa.select(schema.source).order_by(schema.source.c.name))

    def remove(self, name: str, actor: str) -> None:
        self.get(name)
        with self.database.changing(actor, "source.remove", name) as connection:
            connection.execute(sa.delete(schema.source).where(schema.source.c.name == name))
