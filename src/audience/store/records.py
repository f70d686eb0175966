"""Reading and writing our own records. Every change leaves an audit row in the same transaction."""

import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound, Transient
from audience.store import schema
from audience.store.migrate import ensure_current
from audience.store.states import FINAL, sources_of

Record = dict[str, Any]
BUSY_TIMEOUT_S = 30


def now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")


def new_id() -> str:
    """32 hexadecimal digits, as the predecessor's task ids."""
    return uuid.uuid4().hex


def open_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise BadInput("AUDIENCE_STORE_URL is not the URL of a database; it looks like sqlite:///PATH") from None
    if parsed.get_backend_name() != "sqlite":
        raise BadInput(f"the store cannot be kept in {parsed.get_backend_name()}; use sqlite:///PATH")
    # A connection a transaction: none is left open when an app goes away.
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


class Store:
    """Sources, models, runs, tasks and partitions of one installation."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        with _mapped_errors(engine):
            ensure_current(engine)

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with _mapped_errors(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _changing(self, actor: str, action: str, subject: str, **details: Any) -> Iterator[sa.Connection]:
        """A transaction that also writes down who did what."""
        with self._begin() as connection:
            yield connection
            row = {"at": now(), "actor": actor, "action": action, "subject": subject, "details": details}
            connection.execute(sa.insert(schema.audit).values(row))

    def _rows(self, query: sa.Select[Any]) -> list[Record]:
        with self._begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def audit(self) -> list[Record]:
        return self._rows(sa.select(schema.audit).order_by(schema.audit.c.id))

    # sources

    def add_source(self, name: str, spec: Record, actor: str) -> None:
        row = {"name": name, "spec": spec, "created_by": actor, "created_at": now()}
        try:
            with self._changing(actor, "source.add", name) as connection:
                connection.execute(sa.insert(schema.source).values(row))
        except sa.exc.IntegrityError:
            raise Conflict(f"there is a source {name!r} already: remove it first, or choose another name") from None

    def source(self, name: str) -> Record:
        found = self._rows(sa.select(schema.source).where(schema.source.c.name == name))
        if not found:
            names = ", ".join(record["name"] for record in self.sources()) or "none yet"
            raise NotFound(f"there is no source {name!r}; sources: {names}")
        return found[0]

    def sources(self) -> list[Record]:
        return self._rows(sa.select(schema.source).order_by(schema.source.c.name))

    def remove_source(self, name: str, actor: str) -> None:
        self.source(name)
        with self._changing(actor, "source.remove", name) as connection:
            connection.execute(sa.delete(schema.source).where(schema.source.c.name == name))

    # models

    def add_model(self, name: str, kind: str, digest: str, definition: Record, warnings: list[str], actor: str) -> str:
        """`name@version`; the same definition again is the same version."""
        same = [m for m in self.models(name) if m["digest"] == digest]
        if same:
            return f"{name}@{same[-1]['version']}"
        with self._changing(actor, "model.add", name, digest=digest) as connection:
            latest = sa.select(sa.func.max(schema.model.c.version)).where(schema.model.c.name == name)
            version = (connection.execute(latest).scalar() or 0) + 1
            row = {"name": name, "version": version, "kind": kind, "digest": digest, "definition": definition}
            row |= {"warnings": warnings, "created_by": actor, "created_at": now()}
            connection.execute(sa.insert(schema.model).values(row))
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
        return self._rows(query if name is None else query.where(schema.model.c.name == name))

    # runs and tasks

    def add_run(self, spec: Record, tasks: Iterable[Record], actor: str) -> str:
        run_id = new_id()
        created = {"created_by": actor, "created_at": now()}
        with self._changing(actor, "run.add", run_id) as connection:
            connection.execute(
                sa.insert(schema.run).values({"id": run_id, "state": "planned", "spec": spec, **created})
            )
            for number, task in enumerate(tasks):
                row = {"id": new_id(), "run_id": run_id, "number": number, "spec": task, "state": "planned"}
                connection.execute(sa.insert(schema.task).values({**row, **created}))
        return run_id

    def run(self, reference: str) -> Record:
        """By id, by the beginning of one, or `last`."""
        query = sa.select(schema.run).order_by(schema.run.c.created_at.desc())
        if reference == "last":
            found = self._rows(query.limit(1))
        else:
            found = self._rows(query.where(schema.run.c.id.startswith(reference, autoescape=True)).limit(2))
        if not found or not reference:
            raise NotFound(f"there is no run {reference!r}; `audience run list` shows them")
        if len(found) > 1:
            raise BadInput(f"several runs begin with {reference!r}: give more of the id")
        return found[0]

    def runs(self, limit: int = 50) -> list[Record]:
        return self._rows(sa.select(schema.run).order_by(schema.run.c.created_at.desc()).limit(limit))

    def tasks(self, run_id: str) -> list[Record]:
        return self._rows(sa.select(schema.task).where(schema.task.c.run_id == run_id).order_by(schema.task.c.number))

    def move(self, table: sa.Table, record_id: str, state: str, actor: str, error: str | None = None) -> None:
        """Moves a run or task to a state, if the state it is in allows that."""
        values: Record = {"state": state, "error": error}
        if state in FINAL and "finished_at" in table.c:
            values["finished_at"] = now()
        guarded = sa.update(table).where(table.c.id == record_id, table.c.state.in_(sources_of(state))).values(values)
        with self._changing(actor, f"{table.name}.{state}", record_id) as connection:
            if connection.execute(guarded).rowcount == 0:
                present = connection.execute(sa.select(table.c.state).where(table.c.id == record_id)).scalar()
                raise Conflict(f"the {table.name} {record_id} is {present}; it cannot become {state}")

    def save_plan(self, task_id: str, partitions: Iterable[Mapping[str, Any]], set_aside: Mapping[str, int]) -> None:
        rows = [{"task_id": task_id, **partition} for partition in partitions]
        planned = {"n_planned": sum(row["n_rows"] for row in rows), "set_aside": dict(set_aside)}
        with self._begin() as connection:
            connection.execute(sa.delete(schema.partition).where(schema.partition.c.task_id == task_id))
            if rows:
                connection.execute(sa.insert(schema.partition), rows)
            connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(planned))

    def save_report(self, task_id: str, report: Record) -> None:
        with self._begin() as connection:
            connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(report=report))

    def delete_run(self, run_id: str, actor: str) -> None:
        """Forgets a run in state `deleting` with its tasks and partitions."""
        tasks = sa.select(schema.task.c.id).where(schema.task.c.run_id == run_id)
        with self._changing(actor, "run.delete", run_id) as connection:
            connection.execute(sa.delete(schema.partition).where(schema.partition.c.task_id.in_(tasks)))
            connection.execute(sa.delete(schema.task).where(schema.task.c.run_id == run_id))
            connection.execute(sa.delete(schema.run).where(schema.run.c.id == run_id))


@contextmanager
def _mapped_errors(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        raise Transient(f"our own records in {engine.url.database} cannot be used now: {error.orig}") from error
    except sa.exc.DatabaseError as error:
        if isinstance(error, sa.exc.IntegrityError):
            raise
        raise BadInput(f"{engine.url.database} does not hold our own records: {error.orig}") from error


def digest_of(document: Any) -> str:
    canonical = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
