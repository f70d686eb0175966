"""The database of our own records: opening it, transactions, errors as ours. Everything else in this package is SQL."""

import datetime as dt
import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Transient
from audience.store import schema

Record = dict[str, Any]
BUSY_TIMEOUT_S = 30
WRITES = {"writes": True}


def now(ago: dt.timedelta = dt.timedelta()) -> str:
    return (dt.datetime.now(dt.UTC) - ago).isoformat(timespec="microseconds")


def new_id() -> str:
    """32 hexadecimal digits, as the predecessor's task ids."""
    return uuid.uuid4().hex


def digest_of(document: Any) -> str:
    canonical = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def open_engine(url: str) -> sa.Engine:
    """An engine whose transactions hold the write lock from their first statement where they are meant to write, so
    that what one reads before it writes is still true then."""
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
        connection.isolation_level = None  # the driver's own BEGIN comes too late, and not at all before DDL
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Database:
    """Transactions, all or nothing."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**WRITES)
        self._turn = threading.Lock()  # of this process's threads: fairer and quicker than to wait for the file's lock

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One moment's view."""
        with mapped_errors(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Alone with the write lock."""
        with self._turn, mapped_errors(self.engine), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def changing(self, actor: str, action: str, subject: str, **details: Any) -> Iterator[sa.Connection]:
        """A transaction that also writes down who did what."""
        with self.writing() as connection:
            yield connection
            note(connection, actor, action, subject, **details)

    def rows(self, query: sa.Select[Any]) -> list[Record]:
        with self.reading() as connection:
            return rows_of(connection, query)


def rows_of(connection: sa.Connection, query: sa.Select[Any]) -> list[Record]:
    return [dict(row) for row in connection.execute(query).mappings()]


def note(connection: sa.Connection, actor: str, action: str, subject: str, **details: Any) -> None:
    """An audit row: who did what to which record."""
    row = {"at": now(), "actor": actor, "action": action, "subject": subject, "details": details}
    connection.execute(sa.insert(schema.audit).values(row))


@contextmanager
def mapped_errors(engine: sa.Engine) -> Iterator[None]:
    """The driver's errors as ours; no message shows a password."""
    try:
        yield
    except sa.exc.OperationalError as error:
        raise Transient(f"our own records in {engine.url.database} cannot be used now: {error.orig}") from error
    except sa.exc.DatabaseError as error:
        if isinstance(error, sa.exc.IntegrityError):
            raise
        raise BadInput(f"{engine.url.database} does not hold our own records: {error.orig}") from error
