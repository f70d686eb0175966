"""Sources, models, mappings, and answers to repeated requests. Every change leaves an audit row in its transaction."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, mapped_errors, note, now
from audience.store.jobs import Jobs
from audience.store.migrate import ensure_current
from audience.store.runs import Runs
from audience.store.tasks import Tasks
from audience.store.workers import Workers

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

    def keep(self, connection: sa.Connection, made: Any) -> None:
        self.body = self.answer(made)
        if self.key is None:
            return
        row = {"idempotency_key": self.key, "digest": self.digest, "body": self.body, "created_at": now()}
        connection.execute(sa.delete(schema.answer).where(schema.answer.c.created_at < now(ago=KEPT)))
        try:
            connection.execute(sa.insert(schema.answer).values(row))
        except sa.exc.IntegrityError:
            raise Conflict("the same request is being carried out just now: ask again for its answer") from None


class Store:
    """The records of one installation."""

    def __init__(self, engine: sa.Engine) -> None:
        with mapped_errors(engine):
            ensure_current(engine)
        self.database = Database(engine)
        self.runs = Runs(self.database)
        self.tasks = Tasks(self.database)
        self.jobs = Jobs(self.database)
        self.workers = Workers(self.database)

    def audit(self, subjects: list[str] | None = None, after: int = 0) -> list[Record]:
        """Who did what, oldest first; of these records only, and of the time since the audit row `after`."""
        query = sa.select(schema.audit).where(schema.audit.c.id > after).order_by(schema.audit.c.id)
        return self.database.rows(query if subjects is None else query.where(schema.audit.c.subject.in_(subjects)))

    def answered(self, key: str, digest: str) -> Record | None:
        """What the request with this key was answered; null when it is new."""
        found = self.database.rows(sa.select(schema.answer).where(schema.answer.c.idempotency_key == key))
        if found and found[0]["digest"] != digest:
            raise BadInput(f"the Idempotency-Key {key!r} was used for another request: choose a new key")
        return found[0]["body"] if found else None

    # sources

    def add_source(self, name: str, spec: Record, actor: str, once: Once | None = None) -> None:
        row = {"name": name, "spec": spec, "created_by": actor, "created_at": now()}
        try:
            with self.database.changing(actor, "source.add", name) as connection:
                connection.execute(sa.insert(schema.source).values(row))
                if once:
                    once.keep(connection, row)
        except sa.exc.IntegrityError:
            raise Conflict(f"there is a source {name!r} already: remove it first, or choose another name") from None

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
        """`name@version`; the same definition again is the same version."""
        with self.database.writing() as connection:
            model = schema.model
            versions = connection.execute(sa.select(model.c.version, model.c.digest).where(model.c.name == name)).all()
            same = [version for version, known in versions if known == digest]
            version = same[-1] if same else max((version for version, _ in versions), default=0) + 1
            if not same:
                row = {"name": name, "version": version, "kind": kind, "digest": digest, "definition": definition}
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
                return found
        raise NotFound(f"the model {name!r} has no version {version!r}; it has 1 to {versions[-1]['version']}")

    def models(self, name: str | None = None) -> list[Record]:
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
