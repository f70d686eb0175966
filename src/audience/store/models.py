"""Models under names and versions. A version never changes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound
from audience.store import schema
from audience.store.aliases import Aliases, current
from audience.store.blobs import Blobs
from audience.store.database import Database, Record, canonical, note, now, rows_of
from audience.store.idempotency import IdempotencyKey, keep_made, made_before
from audience.store.references import ModelReference

LARGEST = 64 * 2**10
"""Bytes of a definition that is kept in its row: databases limit the size of a value, and of what is sent at once."""
DEFINITION = "definition"
RUNS_NAMED = 5


@dataclass(frozen=True)
class NewVersion:
    """A version to save, in the columns of the table `model`. Its `artifacts` are blobs already."""

    kind: str
    digest: str
    definition: Record
    warnings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    labels: Sequence[str] = ()
    summary: Record = field(default_factory=dict)
    protocol: int = 1
    artifacts: dict[str, str] = field(default_factory=dict)
    lineage: Record | None = None
    notes: str = ""


class Models:
    """Keeps versions of models. Their aliases are `aliases`."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database = database
        self.blobs = blobs
        self.aliases = Aliases(database)

    def add(self, name: str, new: NewVersion, actor: str, key: IdempotencyKey | None = None) -> str:
        """Saves a version and returns `name@version`; the same digest again is the same version. A large definition is
        a blob before its row names it."""
        row: Record = {"name": name, **{f.name: getattr(new, f.name) for f in fields(new)}, "created_by": actor}
        content = canonical(new.definition)
        if len(content) > LARGEST:
            row["artifacts"] = {**new.artifacts, DEFINITION: self.blobs.put(content)}
            row["definition"] = sa.null()
        with self.database.writing() as connection:
            if made := made_before(connection, key):
                return str(made["model"])
            version = self._same(connection, name, new)
            if version is None:
                if DEFINITION in row["artifacts"]:
                    self.blobs.put(content)  # once more, if it was deleted just now with another model that had it
                version = _next_number(connection, name)
                row |= {"version": version, "created_at": now()}
                connection.execute(sa.insert(schema.model).values(row))
                note(connection, actor, "model.add", name, digest=new.digest, version=version)
            keep_made(connection, key, {"model": f"{name}@{version}", "warnings": list(new.warnings)})
        return f"{name}@{version}"

    @staticmethod
    def _same(connection: sa.Connection, name: str, new: NewVersion) -> int | None:
        c = schema.model.c
        same = (c.name == name, c.kind == new.kind, c.digest == new.digest)
        return connection.execute(sa.select(sa.func.max(c.version)).where(*same)).scalar()

    def get(self, reference: str) -> Record:
        """Returns a version with its definition, from its row or its blob."""
        return self.whole(self.find(reference))

    def find(self, reference: str) -> Record:
        """Returns a version; `definition` is null when it is an artifact."""
        with self.database.reading() as connection:
            return found(connection, ModelReference.parse(reference))

    def whole(self, record: Record) -> Record:
        if record["definition"] is not None:
            return record
        return {**record, "definition": json.loads(self.blobs.get(record["artifacts"][DEFINITION]))}

    def all(self, name: str | None = None) -> list[Record]:
        """Returns every version; `definition` is null of those that are kept as blobs."""
        query = sa.select(schema.model).order_by(schema.model.c.name, schema.model.c.version)
        return self.database.rows(query if name is None else query.where(schema.model.c.name == name))

    def page(
        self, limit: int | None = None, beginning: str | None = None, after: tuple[str, int] | None = None
    ) -> list[Record]:
        """Returns versions by name and number, without definitions: of names that begin so, after (name, version)."""
        c = schema.model.c
        query = sa.select(*(column for column in c if column.name != DEFINITION)).order_by(c.name, c.version)
        if beginning:
            query = query.where(c.name >= beginning, c.name < f"{beginning}\U0010ffff")
        if after is not None:
            name, version = after
            query = query.where((c.name > name) | ((c.name == name) & (c.version > version)))
        return self.database.rows(query if limit is None else query.limit(limit))

    def rename(self, name: str, new: str, actor: str) -> None:
        """Renames all versions, with their aliases. Refused while runs are known that used one, for they name it."""
        with self.database.writing() as connection:
            if not _versions(connection, name):
                raise _unknown(connection, name)
            if _versions(connection, new):
                raise Conflict(f"there is a model {new!r} already: choose another name")
            _check_unused(connection, name, None, "renamed")
            last = max(_last_number(connection, each) for each in (name, new))
            _keep_number(connection, new, last)
            for table in (schema.model, schema.model_alias):
                connection.execute(sa.update(table).where(table.c.name == name).values(name=new))
            note(connection, actor, "model.rename", name, to=new)

    def delete(self, reference: ModelReference, actor: str) -> None:
        """Deletes a version, or all of them. Refused while runs are known that used one, or an alias leads to it."""
        if reference.alias is not None:
            raise BadInput(f"{reference} is an alias: write the version to delete, or remove the alias")
        name, version = reference.name, reference.version
        with self.database.writing() as connection:
            found(connection, reference)
            _check_unused(connection, name, version, "deleted")
            c = schema.model.c
            these = [c.name == name] if version is None else [c.name == name, c.version == version]
            if version is None:
                connection.execute(sa.delete(schema.model_alias).where(schema.model_alias.c.name == name))
            elif leading := [alias["alias"] for alias in current(connection, name) if alias["version"] == version]:
                raise Conflict(f"{reference} is {', '.join(leading)}: set the alias to another version, or remove it")
            gone = connection.execute(sa.select(c.artifacts).where(*these)).scalars().all()
            connection.execute(sa.delete(schema.model).where(*these))
            note(connection, actor, "model.delete", name, version=version)
        # Apart: blobs must outlive a deletion that is not committed, and nobody adds a version while we are alone.
        with self.database.writing() as connection:
            kept = connection.execute(sa.select(c.artifacts)).scalars().all()
            for digest in _digests(gone) - _digests(kept):
                self.blobs.delete(digest)


def _digests(artifacts: Iterable[dict[str, str] | None]) -> set[str]:
    return {digest for each in artifacts for digest in (each or {}).values()}


def found(connection: sa.Connection, reference: ModelReference) -> Record:
    """Returns the version that a reference leads to. Raises NotFound when there is none."""
    name = reference.name
    versions = _versions(connection, name)
    if not versions:
        raise _unknown(connection, name)
    version = reference.version or versions[-1]
    if reference.alias is not None:
        leads = {alias["alias"]: alias["version"] for alias in current(connection, name)}
        if reference.alias not in leads:
            known = ", ".join(leads) or "none yet"
            raise NotFound(f"the model {name!r} has no alias {reference.alias!r}; it has: {known}")
        version = leads[reference.alias]
    if version not in versions:
        has = f"it has {versions[0]} to {versions[-1]}"
        if len(versions) <= versions[-1] - versions[0]:
            has += ", some of which were deleted"
        raise NotFound(f"the model {name!r} has no version {version}; {has}")
    c = schema.model.c
    return rows_of(connection, sa.select(schema.model).where(c.name == name, c.version == version))[0]


def _versions(connection: sa.Connection, name: str) -> Sequence[int]:
    c = schema.model.c
    return connection.execute(sa.select(c.version).where(c.name == name).order_by(c.version)).scalars().all()


def _unknown(connection: sa.Connection, name: str) -> NotFound:
    names = connection.execute(sa.select(schema.model.c.name).distinct().order_by(schema.model.c.name)).scalars()
    return NotFound(f"there is no model {name!r}; models: {', '.join(names) or 'none yet'}")


def _last_number(connection: sa.Connection, name: str) -> int:
    c = schema.model_number.c
    return int(connection.execute(sa.select(c.last).where(c.name == name)).scalar() or 0)


def _next_number(connection: sa.Connection, name: str) -> int:
    _keep_number(connection, name, _last_number(connection, name) + 1)
    return _last_number(connection, name)


def _keep_number(connection: sa.Connection, name: str, last: int) -> None:
    table = schema.model_number
    if connection.execute(sa.update(table).where(table.c.name == name).values(last=last)).rowcount == 0:
        connection.execute(sa.insert(table).values(name=name, last=last))


def _check_unused(connection: sa.Connection, name: str, version: int | None, what: str) -> None:
    """Refuses when a run used this version, or any when none is given."""
    operation = schema.operation
    query = sa.select(schema.run.c.id, schema.run.c.spec).join(operation, operation.c.id == schema.run.c.id)
    runs = connection.execute(query.order_by(operation.c.created_at))
    used = [run_id for run_id, spec in runs if any(_is(model, name, version) for model in spec.get("models", ()))]
    if used:
        shown = ", ".join(run_id[:12] for run_id in used[:RUNS_NAMED])
        more = f" and {len(used) - RUNS_NAMED} more" if len(used) > RUNS_NAMED else ""
        subject = str(ModelReference(name, version))
        raise Conflict(f"{subject} cannot be {what}: runs used it ({shown}{more}); delete them first")


def _is(model: Any, name: str, version: int | None) -> bool:
    used, _, number = str(model).partition("@")
    return used == name and (version is None or number == str(version))
