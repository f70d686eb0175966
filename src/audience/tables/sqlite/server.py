"""A SQLite file that we write to: connections, transactions, tables of our own, rows as batches."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from audience.databases import wal
from audience.databases.sqlite import BUSY_TIMEOUT_S, check_is_database, mapped_errors, quoted
from audience.errors import BadInput, Conflict

WAL_RETRY_S = 0.02
SQL_TYPES = {pa.float64(): "REAL", pa.int64(): "INTEGER"}


class SqliteFile:
    """One writer of this process at a time; other processes wait for each other's locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        if path.is_dir():
            raise BadInput(f"{path} is a folder: name a file in it for the results, such as {path / 'labels.db'}")
        if not path.parent.is_dir():
            raise BadInput(f"there is no folder {path.parent} for the results: create it, or write elsewhere")
        if path.exists() and path.stat().st_size:
            check_is_database(path)
        if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise BadInput(f"{path} is read-only here: write elsewhere, or make the file and its folder writable")

    @contextlib.contextmanager
    def session(self, *, new: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection; only a `new` one may make the file."""
        where = f"file:{quote(str(self.path))}?mode={'rwc' if new else 'rw'}"
        with mapped_errors(self.path):
            db = sqlite3.connect(where, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            with contextlib.closing(db):
                db.execute("PRAGMA synchronous = NORMAL")
                for setting in wal.SETTINGS:
                    db.execute(setting)
                db.execute("PRAGMA legacy_alter_table = ON")  # a view keeps reading the table of the name it names
                yield db

    @contextlib.contextmanager
    def changing(self, *, new: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection that makes tables, each by itself."""
        with self._turn, self.session(new=new) as db:
            if new:
                _use_wal(db)
            yield db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything or nothing."""
        with self._turn, self.session() as db:
            wal.checkpoint_if_large(self.path)
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    def has(self, table: str) -> bool:
        if not self.path.exists():
            return False
        with self.session() as db:
            return bool(columns_of(db, table))


def _use_wal(db: sqlite3.Connection) -> None:
    """SQLite does not wait by itself when two processes switch a new database at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def create(db: sqlite3.Connection, table: str, columns: Mapping[str, pa.DataType], key: str) -> None:
    """Creates one of our tables, unless another process just did; one of that name which is not ours is left alone and
    reported."""
    declared = ", ".join(f"{quoted(name)} {SQL_TYPES.get(kind, 'TEXT')}" for name, kind in columns.items())
    if not columns_of(db, table):
        db.execute(f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({declared}, PRIMARY KEY ({key})) WITHOUT ROWID")
    if columns_of(db, table) != list(columns):
        raise not_ours(table)


def not_ours(table: str) -> Conflict:
    return Conflict(f"the table {table} is there already and is not Audience's: name the group or target otherwise")


def columns_of(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({quoted(table)})")]


def listed(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)
