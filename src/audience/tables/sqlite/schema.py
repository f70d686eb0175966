"""The tables of a target in a SQLite file: which are ours, and how they are made."""

import sqlite3
from collections.abc import Sequence

from audience.databases.sqlite import quoted
from audience.tables.result_rows import STORED
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, TASKS, not_ours
from audience.tables.sqlite.server import PAGE_BYTES

TYPES = {"score": "REAL", **dict.fromkeys(("partition", "n", "posts", "run", "version", "fence", "former"), "INTEGER")}
TASK_TABLES = f"""
CREATE TABLE IF NOT EXISTS {TASKS} (
    task TEXT PRIMARY KEY, fence INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {MARKS} (
    task TEXT NOT NULL, partition INTEGER NOT NULL, fence INTEGER NOT NULL, rows INTEGER NOT NULL,
    statistics TEXT NOT NULL, authors BLOB NOT NULL, PRIMARY KEY (task, partition)) WITHOUT ROWID;
"""


class SqliteDialect(Dialect):
    """SQLite has one writer at a time: no lock of a row."""

    placeholder = "?"
    no_bytes = "x''"
    lock = shared_lock = ""


DIALECT = SqliteDialect(quoted, TYPES, "TEXT")


def groups_of(db: sqlite3.Connection) -> list[str]:
    """Returns the groups that have a table here; a table of such a name with other columns is not ours."""
    sql = "SELECT substr(name, 9) FROM sqlite_master WHERE type = 'table' AND name GLOB 'results_*' ORDER BY name"
    names = [row[0] for row in db.execute(sql)]
    return [name for name in names if columns_of(db, f"results_{name}") == list(STORED)]


def create(db: sqlite3.Connection, table: str, columns: Sequence[str], key: tuple[str, ...] = (), /) -> None:
    """Creates one of our tables, unless another process just did; one of that name which is not ours is left alone and
    reported."""
    if not columns_of(db, table):
        # A row that lies in its key's own tree takes an overflow page of its own when a fraction of a page is too small
        # for it: small pages would be three quarters empty.
        option = "WITHOUT ROWID" if key and _page_bytes(db) >= PAGE_BYTES else ""
        db.execute(f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({DIALECT.declared(columns, key)}) {option}")
    if columns_of(db, table) != list(columns):
        raise not_ours(table)


def index(db: sqlite3.Connection, table: str, columns: Sequence[str], /) -> None:
    """Makes the indexes of single columns that are missing."""
    for name in columns:  # no table has a name that begins so: tables and indexes share theirs
        db.execute(f"CREATE INDEX IF NOT EXISTS {quoted(f'ix_{table}__{name}')} ON {quoted(table)} ({quoted(name)})")


def _page_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA page_size").fetchone()[0])


def columns_of(db: sqlite3.Connection, table: str) -> list[str]:
    """Returns the names of its columns; none where there is no such table."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({quoted(table)})")]
