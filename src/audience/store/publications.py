"""Publications: what they are made of, which version is published, and who works on one. What is published is in the
target; the numbers here follow it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, new_id, note, now, rows_of
from audience.store.idempotency import Once

IDLE, BUSY = "idle", "busy"


class Publications:
    """One thing at a time is done with a publication. What is asked is written down before it begins, so that it can
    be gone on with wherever its process died; only the newest attempt can end it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str, spec: Record, actor: str, once: Once | None = None) -> None:
        row: Record = {
            "id": new_id(),
            "name": name,
            "spec": spec,
            "state": IDLE,
            "created_by": actor,
            "created_at": now(),
        }
        row |= {"fence": 0, "numbered": 0, "version": 0, "former": 0, "asked": None, "preview": None, "error": None}
        with self.database.writing() as connection:
            if once and once.answered(connection):
                return
            if _named(connection, name):
                raise Conflict(f"there is a publication {name!r} already: choose another name")
            connection.execute(sa.insert(schema.publication).values(row))
            note(connection, actor, "publication.add", name)
            if once:
                once.keep(connection, row)

    def get(self, name: str) -> Record:
        """A publication with its `versions`, newest first."""
        with self.database.reading() as connection:
            found = _named(connection, name)
            if not found:
                raise NotFound(f"there is no publication {name!r}; `audience publication list` shows them")
            c = schema.publication_version.c
            versions = sa.select(schema.publication_version).where(c.publication_id == found[0]["id"])
            return {**found[0], "versions": rows_of(connection, versions.order_by(c.version.desc()))}

    def all(self) -> list[Record]:
        return self.database.rows(sa.select(schema.publication).order_by(schema.publication.c.name))

    def begin(self, name: str, asked: Record, actor: str, base: int | None = None) -> Record:
        """Writes down what is asked; the record for the first attempt at it. `base`: the version that must be
        published now. Raises Conflict while something else is under way."""
        publication = schema.publication
        with self.database.writing() as connection:
            record = _one(connection, name)
            if record["state"] != IDLE:
                raise Conflict(
                    f"{under_way(record)}: wait for it, or go on with it in its place: {_resume(name)}", BUSY
                )
            if base not in (None, record["version"]):
                raise Conflict(
                    f"of {name!r} version {record['version']} is published now, not {base}: look again", IDLE
                )
            number = record["numbered"] + 1
            values: Record = {"state": BUSY, "fence": record["fence"] + 1, "error": None}
            values["asked"] = {"version": number, "at": now(), **asked, "actor": actor}
            if asked["action"] == "publish":
                values["numbered"] = number
            connection.execute(sa.update(publication).where(publication.c.id == record["id"]).values(values))
            note(connection, actor, f"publication.{asked['action']}", name)
            return {**record, **values}

    def take_over(self, name: str, actor: str) -> Record:
        """The record for another attempt at what was asked; earlier attempts can do nothing more."""
        publication = schema.publication
        with self.database.writing() as connection:
            record = _one(connection, name)
            if record["state"] != BUSY:
                raise Conflict(f"nothing is under way with the publication {name!r}", record["state"])
            fence = record["fence"] + 1
            connection.execute(sa.update(publication).where(publication.c.id == record["id"]).values(fence=fence))
            note(connection, actor, "publication.take_over", name)
            return {**record, "fence": fence}

    def note_changes(self, record: Record) -> None:
        """Keeps what an attempt has counted, just before it is published. Raises Conflict when it was taken over."""
        with self.database.writing() as connection:
            _update(connection, record, asked=record["asked"])

    def published(self, record: Record, spec: Record, former: int, changes: Sequence[Record]) -> None:
        """Ends an attempt at a version, which is published now."""
        asked = record["asked"]
        made = {"created_by": asked["actor"], "created_at": asked["at"]}
        kept = {name: asked[name] for name in ("runs", "replace", "indexes", "conflicts")}
        row = {"publication_id": record["id"], "version": asked["version"], "asked": kept, "changes": list(changes)}
        with self.database.writing() as connection:
            _end(connection, record, version=asked["version"], former=former, spec=spec, preview=sa.null())
            connection.execute(sa.insert(schema.publication_version).values({**row, **made}))
            note(connection, asked["actor"], "publication.published", record["name"], version=asked["version"])

    def turned_to(self, record: Record, version: int, former: int) -> None:
        """Ends an attempt that brought a former version back."""
        with self.database.writing() as connection:
            _end(connection, record, version=version, former=former, preview=sa.null())
            note(connection, record["asked"]["actor"], "publication.rolled_back", record["name"], version=version)

    def previewed(self, record: Record, changes: Sequence[Record]) -> None:
        """Ends a preview; what it found is kept."""
        asked = record["asked"]
        found = {"base": record["version"], "runs": asked["runs"], "replace": asked["replace"], "at": asked["at"]}
        with self.database.writing() as connection:
            _end(connection, record, preview={**found, "changes": list(changes)})

    def ended(self, record: Record, error: str | None = None) -> None:
        """Ends an attempt that changed nothing."""
        with self.database.writing() as connection:
            _end(connection, record, error=error)

    def remove(self, record: Record) -> None:
        """Ends an attempt at deleting it: its tables are gone."""
        with self.database.writing() as connection:
            _end(connection, record)
            version, publication = schema.publication_version, schema.publication
            connection.execute(sa.delete(version).where(version.c.publication_id == record["id"]))
            connection.execute(sa.delete(publication).where(publication.c.id == record["id"]))
            note(connection, record["asked"]["actor"], "publication.deleted", record["name"])


def _named(connection: sa.Connection, name: str) -> list[Record]:
    return rows_of(connection, sa.select(schema.publication).where(schema.publication.c.name == name))


def _one(connection: sa.Connection, name: str) -> Record:
    found = _named(connection, name)
    if not found:
        raise NotFound(f"there is no publication {name!r}; `audience publication list` shows them")
    return found[0]


def _end(connection: sa.Connection, record: Record, **values: Any) -> None:
    """The only way back to idle."""
    _update(connection, record, **{"state": IDLE, "asked": sa.null(), "error": None, **values})


def _update(connection: sa.Connection, record: Record, **values: Any) -> None:
    """By the newest attempt alone."""
    c = schema.publication.c
    newest = (c.id == record["id"], c.fence == record["fence"], c.state == BUSY)
    if connection.execute(sa.update(schema.publication).where(*newest).values(values)).rowcount == 0:
        raise Conflict(f"the publication {record['name']!r} was taken over or deleted meanwhile")


def under_way(record: Record) -> str:
    """What is done with a publication that is busy, by whom and since when."""
    asked = record["asked"]
    doing = {"publish": "published", "preview": "previewed", "roll_back": "rolled back", "delete": "deleted"}
    return f"{record['name']!r} is being {doing[asked['action']]} by {asked['actor']} since {asked['at'][:19]}"


def _resume(name: str) -> str:
    return f"audience publication resume {name}"
