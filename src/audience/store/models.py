"""Models under names and versions, which never change."""

import json

import sqlalchemy as sa

from audience.errors import NotFound
from audience.store import schema
from audience.store.blobs import Blobs
from audience.store.database import Database, Record, canonical, note, now
from audience.store.idempotency import IdempotencyKey, keep_made, made_before

LARGEST = 64 * 2**10
"""Bytes of a definition that is kept in its row: databases limit the size of a value, and of what is sent at once."""


class Models:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database = database
        self.blobs = blobs

    def add(
        self,
        name: str,
        kind: str,
        digest: str,
        definition: Record,
        warnings: list[str],
        actor: str,
        key: IdempotencyKey | None = None,
    ) -> str:
        """`name@version`; the same definition again is the same version. A large one is a blob before its row tells of
        it."""
        large = len(content := canonical(definition)) > LARGEST
        if large:
            digest = self.blobs.put(content)
        with self.database.writing() as connection:
            if made := made_before(connection, key):
                return str(made["model"])
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
            keep_made(connection, key, {"model": f"{name}@{version}", "warnings": warnings})
        return f"{name}@{version}"

    def get(self, reference: str) -> Record:
        """By `name@version`, or by `name`: its newest version."""
        name, _, version = reference.partition("@")
        versions = self.all(name)
        if not versions:
            known = ", ".join(dict.fromkeys(m["name"] for m in self.all())) or "none yet"
            raise NotFound(f"there is no model {name!r}; models: {known}")
        for found in versions if version else versions[-1:]:
            if not version or str(found["version"]) == version:
                return self._whole(found)
        raise NotFound(f"the model {name!r} has no version {version!r}; it has 1 to {versions[-1]['version']}")

    def _whole(self, model: Record) -> Record:
        if model["definition"] is not None:
            return model
        return {**model, "definition": json.loads(self.blobs.get(model["digest"]))}

    def all(self, name: str | None = None) -> list[Record]:
        """Every version; `definition` is null of those that are kept as blobs."""
        query = sa.select(schema.model).order_by(schema.model.c.name, schema.model.c.version)
        return self.database.rows(query if name is None else query.where(schema.model.c.name == name))
