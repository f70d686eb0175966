"""Sources, models, mappings, and answers to repeated requests. Every change leaves an audit row in its transaction."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound
from audience.store import schema
from audience.store.blobs import Blobs
from audience.store.database import Database, Record, canonical, make_home, note, now
from audience.store.engines import mapped_errors, open_engine
from audience.store.jobs import Jobs
from audience.store.migrate import ensure_current
from audience.store.publications import Publications
from audience.store.runs import Runs
from audience.store.tasks import Tasks
from audience.store.workers import Workers

LARGEST = 64 * 2**10
"""Bytes of a definition that is kept in its row: databases limit the size of a value, and of what is sent at once."""
KEPT = dt.timedelta(days=7)
"""How long answers are kept for requests that come again."""


@dataclass
class Once:
    """A create, and what it is answered, `body`, given what was made. With a key the answer is kept in the transaction
    that makes it, with the digest of the request, and the request may come twice."""

    answer: Callable[[Any], Record]
    key: str | None = None
    digest: str = ""
    body: Record = field(default_factory=dict)

    def answered(self, connection: sa.Connection) -> bool:
        """Whether the same request was carried out before; then `body` is what it was answered."""
        if self.key is None:
            return False
        c = schema.answer.c
        found = connection.execute(sa.select(c.digest, c.body).where(c.idempotency_key == self.key)).first()
        if found is None:
            return False
        if found[0] != self.digest:
            raise BadInput(f"the Idempotency-Key {self.key!r} was used for another request: choose a new key")
        self.body = found[1]
        return True

    def keep(self, connection: sa.Connection, made: Any) -> None:
        self.body = self.answer(made)
        if self.key is not None:
            connection.execute(sa.delete(schema.answer).where(schema.answer.c.created_at < now(ago=KEPT)))
            row = {"idempotency_key": self.key, "digest": self.digest, "body": self.body, "created_at": now()}
            connection.execute(sa.insert(schema.answer).values(row))


def open_store(home: Path, url: str, blobs_url: str) -> "Store":
    """The records at this URL; `home` is made when it is missing."""
    make_home(home)
    return Store(open_engine(url), Blobs(blobs_url))


class Store:
    """The records of one installation."""

    def __init__(self, engine: sa.Engine, blobs: Blobs) -> None:
        with mapped_errors(engine):
            ensure_current(engine)
        self.database = Database(engine)
        self.blobs = blobs
        self.runs = Runs(self.database)
        self.tasks = Tasks(self.database)
        self.jobs = Jobs(self.database)
        self.workers = Workers(self.database)
        self.publications = Publications(self.database)

    def audit(self, subjects: list[str] | None = None, after: int = 0) -> list[Record]:
        """Who did what, oldest first; of these records only, and of the time since the audit row `after`."""
        query = sa.select(schema.audit).where(schema.audit.c.id > after).order_by(schema.audit.c.id)
        return self.database.rows(query if subjects is None else query.where(schema.audit.c.subject.in_(subjects)))

    def answered(self, once: Once) -> bool:
        """Whether the same request was carried out before."""
        with self.database.reading() as connection:
            return once.answered(connection)

    # sources

    def add_source(self, name: str, spec: Record, actor: str, once: Once | None = None) -> None:
        row = {"name": name, "spec": spec, "created_by": actor, "created_at": now()}
        with self.database.writing() as connection:
            if once and once.answered(connection):
                return
            if connection.execute(sa.select(schema.source.c.name).where(schema.source.c.name == name)).first():
                raise Conflict(f"there is a source {name!r} already: remove it first, or choose another name")
            connection.execute(sa.insert(schema.source).values(row))
            note(connection, actor, "source.add", name)
            if once:
                once.keep(connection, row)

    def source(self, name: str) -> Record:
        found = self.database.rows(sa.select(schema.source).where(schema.source.c.name == name))
        if not found:
            names = ", ".join(record["name"] for record in self.sources()) or "none yet"
            raise NotFound(f"there is no source {name!r}; sources: {names}")
        return found[0]

    def sources(self) -> list[Record]:
        return self.database.rows(sa.select(schema.source).order_by(schema.source.c.name))

    def remove_source(self, name: str, actor: str) -> None:
        self.source(name)
        with self.database.changing(actor, "source.remove", name) as connection:
            connection.execute(sa.delete(schema.source).where(schema.source.c.name == name))

    # models

    def add_model(
        self,
        name: str,
        kind: str,
        digest: str,
        definition: Record,
        warnings: list[str],
        actor: str,
        once: Once | None = None,
    ) -> str:
        """`name@version`; the same definition again is the same version. A large one is a blob before its row tells of
        it."""
        large = len(content := canonical(definition)) > LARGEST
        if large:
            digest = self.blobs.put(content)
        with self.database.writing() as connection:
            if once and once.answered(connection):
                return str(once.body["model"])
            model = schema.model
            versions = connection.execute(sa.select(model.c.version, model.c.digest).where(model.c.name == name)).all()
            same = [version for version, known in versions if known == digest]
            version = same[-1] if same else max((version for version, _ in versions), default=0) + 1
            if not same:
                row = {"name": name, "version": version, "kind": kind, "digest": digest}
                row |= {"definition": sa.null() if large else definition}
                row |= {"warnings": warnings, "created_by": actor, "created_at": now()}
                connection.execute(sa.insert(model).values(row))
                note(connection, actor, "model.add", name, digest=digest)
            if once:
                once.keep(connection, f"{name}@{version}")
        return f"{name}@{version}"

    def model(self, reference: str) -> Record:
        """By `name@version`, or by `name`: its newest version."""
        name, _, version = reference.partition("@")
        versions = self.models(name)
        if not versions:
            known = ", ".join(dict.fromkeys(m["name"] for m in self.models())) or "none yet"
            raise NotFound(f"there is no model {name!r}; models: {known}")
        for found in versions if version else versions[-1:]:
            if not version or str(found["version"]) == version:
                return self._whole(found)
        raise NotFound(f"the model {name!r} has no version {version!r}; it has 1 to {versions[-1]['version']}")

    def _whole(self, model: Record) -> Record:
        if model["definition"] is not None:
            return model
        return {**model, "definition": json.loads(self.blobs.get(model["digest"]))}

    def models(self, name: str | None = None) -> list[Record]:
        """Every version; `definition` is null of those that are kept as blobs."""
        query = sa.select(schema.model).order_by(schema.model.c.name, schema.model.c.version)
        return self.database.rows(query if name is None else query.where(schema.model.c.name == name))

    # saved groups and conflict groups

    def save_mapping(self, kind: str, name: str, definition: Record, actor: str) -> None:
        """Makes it or replaces it; runs keep what they were made with."""
        key = sa.and_(schema.mapping.c.kind == kind, schema.mapping.c.name == name)
        row = {"kind": kind, "name": name, "definition": definition, "created_by": actor, "created_at": now()}
        with self.database.changing(actor, f"{kind}.save", name) as connection:
            connection.execute(sa.delete(schema.mapping).where(key))
            connection.execute(sa.insert(schema.mapping).values(row))

    def mappings(self, kind: str) -> list[Record]:
        query = sa.select(schema.mapping).where(schema.mapping.c.kind == kind).order_by(schema.mapping.c.name)
        return self.database.rows(query)

    def mapping(self, kind: str, name: str) -> Record:
        known = {record["name"]: record for record in self.mappings(kind)}
        if name not in known:
            raise NotFound(f"there are no saved {kind.replace('_', ' ')} {name!r}; saved: {', '.join(known) or 'none'}")
        return known[name]

    def remove_mapping(self, kind: str, name: str, actor: str) -> None:
        self.mapping(kind, name)
        key = sa.and_(schema.mapping.c.kind == kind, schema.mapping.c.name == name)
        with self.database.changing(actor, f"{kind}.remove", name) as connection:
            connection.execute(sa.delete(schema.mapping).where(key))
