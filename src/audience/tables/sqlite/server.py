"""A SQLite file that we write to: its connections and transactions."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from audience.databases import wal
from audience.databases.sqlite import BUSY_TIMEOUT_S, check_is_database, mapped_errors
from audience.errors import BadInput

WAL_RETRY_S = 0.02
PAGE_BYTES = 16 * 2**10
"""Of the files that we make: a result row of a usual post fits into a page several times over."""


class SqliteFile:
    """Lets one writer of this process write at a time; other processes wait for each other's locks."""

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
        """Opens a connection; only a `new` one may make the file."""
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
        """Opens a connection that makes tables, each by itself."""
        with self._turn, self.session(new=new) as db:
            if new:
                db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # changes nothing in a file that has tables
                _use_wal(db)
            yield db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Does everything or nothing. The write lock is taken first: a transaction that reads and then wants to write
        is refused at once when somebody else has written meanwhile, however long it would wait."""
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
            return db.execute("SELECT 1 FROM pragma_table_info(?)", (table,)).fetchone() is not None


def _use_wal(db: sqlite3.Connection) -> None:
    """Switches a new database to the write-ahead log. SQLite does not wait by itself when two processes do so at
    once."""
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
