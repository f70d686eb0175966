"""Groups and conflict groups that are saved under names."""

import sqlalchemy as sa

from audience.errors import NotFound
from audience.store import schema
from audience.store.database import Database, Record, now


class Mappings:
    """Keeps mappings by kind, `groups` or `conflict_groups`, and name."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def save(self, kind: str, name: str, definition: Record, actor: str) -> None:
        """Saves or replaces a mapping; runs keep what they were made with."""
        key = sa.and_(schema.mapping.c.kind == kind, schema.mapping.c.name == name)
        row = {"kind": kind, "name": name, "definition": definition, "created_by": actor, "created_at": now()}
        with self.database.changing(actor, f"{kind}.save", name) as connection:
            connection.execute(sa.delete(schema.mapping).where(key))
            connection.execute(sa.insert(schema.mapping).values(row))

    def all(self, kind: str) -> list[Record]:
        query = sa.select(schema.mapping).where(schema.mapping.c.kind == kind).order_by(schema.mapping.c.name)
        return self.database.rows(query)

    def get(self, kind: str, name: str) -> Record:
        known = {record["name"]: record for record in self.all(kind)}
        if name not in known:
            raise NotFound(f"there are no saved {kind.replace('_', ' ')} {name!r}; saved: {', '.join(known) or 'none'}")
        return known[name]

    def remove(self, kind: str, name: str, actor: str) -> None:
        self.get(kind, name)
        key = sa.and_(schema.mapping.c.kind == kind, schema.mapping.c.name == name)
        with self.database.changing(actor, f"{kind}.remove", name) as connection:
            connection.execute(sa.delete(schema.mapping).where(key))
