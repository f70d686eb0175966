"""The database of our own records: its transactions. Everything else in this package is SQL."""

import datetime as dt
import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Transient
from audience.store import schema
from audience.store.engines import WRITING, mapped_errors

Record = dict[str, Any]


def now(ago: dt.timedelta = dt.timedelta()) -> str:
    return (dt.datetime.now(dt.UTC) - ago).isoformat(timespec="microseconds")


def new_id() -> str:
    """Returns 32 hexadecimal digits, as the predecessor's task ids have."""
    return uuid.uuid4().hex


def canonical(document: Any) -> bytes:
    """Returns a document as JSON: the same bytes for the same document."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def digest_of(document: Any) -> str:
    return hashlib.sha256(canonical(document)).hexdigest()


def make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise BadInput(f"AUDIENCE_HOME, the folder of our own records, cannot be made: {home}: {reason}") from None


class Database:
    """Opens transactions, each of which happens wholly or not at all."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.file = Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None
        self._writer = engine.execution_options(**WRITING)
        self._turn = threading.Lock()  # of this process's threads: fairer and quicker than to wait in the database

    def is_in(self, path: Path) -> bool:
        """Returns whether this is the file of our own records, under whatever name."""
        try:
            return self.file is not None and (path.resolve() == self.file.resolve() or path.samefile(self.file))
        except OSError:
            return False

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Opens a transaction that reads one moment's view and waits for nobody."""
        self._must_be_there()
        with mapped_errors(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Opens a transaction that writes alone from its first statement. Keep it short: every other writer waits."""
        self._must_be_there()
        with self._turn, mapped_errors(self.engine), self._writer.begin() as connection:
            yield connection

    def _must_be_there(self) -> None:
        """Raises Transient when the SQLite file is gone: SQLite would make an empty one in its place."""
        if self.file is not None and not self.file.exists():
            raise Transient(f"our own records are gone: there is no {self.file}; bring it back")

    @contextmanager
    def changing(self, actor: str, action: str, subject: str, **details: Any) -> Iterator[sa.Connection]:
        """Opens a transaction that writes, with an audit row that says who did what."""
        with self.writing() as connection:
            yield connection
            note(connection, actor, action, subject, **details)

    def rows(self, query: sa.Select[Any]) -> list[Record]:
        with self.reading() as connection:
            return rows_of(connection, query)


def rows_of(connection: sa.Connection, query: sa.Select[Any]) -> list[Record]:
    return [dict(row) for row in connection.execute(query).mappings()]


def total(numbers: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Returns the sum of integers as an integer: servers make decimals of it."""
    return sa.cast(sa.func.sum(numbers), sa.BigInteger)


def note(connection: sa.Connection, actor: str, action: str, subject: str, **details: Any) -> None:
    """Adds an audit row: who did what to which record."""
    row = {"at": now(), "actor": actor, "action": action, "subject": subject, "details": details}
    connection.execute(sa.insert(schema.audit).values(row))
