"""The tables of a target in a PostgreSQL database: which are ours, and how they are made."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from audience.databases.postgres import quoted
from audience.errors import BadInput
from audience.tables.base import ANY_TEXT, Bound
from audience.tables.postgres.server import LOCK_WAIT_S
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, OURS, TASKS, not_ours

log = logging.getLogger(__name__)

LONGEST_NAME = 63
TEXT = 'text COLLATE "C"'
"""By code point: `a`, `a ` and `A` are three, on every system."""
TYPES = {
    "task_id": f"{TEXT} NOT NULL",
    "create_time": "timestamp",
    "score": "double precision",
    "partition": "bigint NOT NULL",
    "n": "bigint NOT NULL",
    "posts": "bigint NOT NULL",
}
TASK_TABLES = {
    MARKS: f"task {TEXT} NOT NULL, partition bigint NOT NULL, fence bigint NOT NULL, rows bigint NOT NULL, "
    "statistics text NOT NULL, authors bytea NOT NULL, PRIMARY KEY (task, partition)",
    TASKS: f"task {TEXT} PRIMARY KEY, fence bigint NOT NULL, state text NOT NULL",
}
PLANNING = ("SET LOCAL enable_nestloop = off", "SET LOCAL work_mem = '64MB'")
"""A new table has no statistics: a nested loop that looks cheap could take hours."""
BOUNDED = ("id", "field_content")
ORDERED = ("panel", "model", "create_time", "score")
"""Columns of short values. A hash takes texts of any length, but long chains where many rows have the same."""
HASHED = ("id", "source_author")
DDL_LOCK = 7_018_290_412_771_003
"""Any number that is not another program's: two of us do not create one table at once."""


class PostgresDialect(Dialect):
    """A time comes as text from PostgreSQL itself: the driver's own form of it knows fewer years."""

    text_of_time = "{}::text"

    def bounded(self, bound: Bound) -> str:
        """A text of any length costs no more here, and is joined with one of a length."""
        return "bigint" if bound.kind == "signed" else TEXT

    def checked(self, name: str) -> str:
        """Refuses a name that the server would cut without a word."""
        if len(name.encode()) > LONGEST_NAME:
            raise BadInput(f"the table name {name} has more than {LONGEST_NAME} bytes: a shorter group?")
        return name


DIALECT = PostgresDialect(quoted, TYPES, TEXT)


def create_task_tables(connection: Any) -> None:
    for name, declared in TASK_TABLES.items():
        create(connection, name, declared)


def is_prepared(connection: Any) -> bool:
    return comment_of(connection, TASKS) == OURS


def groups_of(connection: Any) -> list[str]:
    """Returns the groups that have a table of ours here."""
    found = connection.execute(
        "SELECT substr(relname, 9) FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace "
        "WHERE nspname = current_schema() AND relname LIKE 'results\\_%%' AND obj_description(c.oid, 'pg_class') = %s",
        (OURS,),
    )
    return sorted(name for (name,) in found)


def create(connection: Any, name: str, declared: str) -> None:
    """Creates one of our tables, unless another process just did; one that is not ours is left alone and reported."""
    if comment_of(connection, name) is None:
        with connection.transaction():
            connection.execute(f"SELECT pg_advisory_xact_lock({DDL_LOCK})")
            if comment_of(connection, name) is None:
                connection.execute(f"CREATE TABLE {quoted(name)} ({declared})")
                connection.execute(f"COMMENT ON TABLE {quoted(name)} IS '{OURS}'")
    if (comment := comment_of(connection, name)) != OURS:
        raise not_ours(name, comment)


def widen(connection: Any, table: str, bounds: Mapping[str, Bound]) -> None:
    """Lets columns of numbers hold texts as well, where they have to."""
    sql = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name = %s AND data_type = 'bigint' AND column_name = ANY(%s)"
    )
    narrow = [name for name in BOUNDED if bounds.get(name, ANY_TEXT).kind != "signed"]
    for (name,) in connection.execute(sql, (table, narrow)).fetchall():
        with connection.transaction():
            _lock_layout(connection)
            to_text = f"ALTER COLUMN {quoted(name)} TYPE {TEXT} USING {quoted(name)}::text"  # of a text: the same
            connection.execute(f"ALTER TABLE {quoted(table)} {to_text}")


def index(connection: Any, table: str, columns: Sequence[str], bounds: Mapping[str, Bound]) -> None:
    """Makes the indexes of single columns that are missing. Who may not is told so in the log: a table of an earlier
    version goes on without."""
    from psycopg.errors import InsufficientPrivilege

    for name in (name for name in columns if name not in _indexed(connection, table)):
        is_short = name in ORDERED or (name not in HASHED and bounds.get(name, ANY_TEXT).longest is not None)
        called = quoted(f"ix_{table}__{name}"[:LONGEST_NAME])
        sql = f"CREATE INDEX IF NOT EXISTS {called} ON {quoted(table)} USING {'btree' if is_short else 'hash'}"
        try:
            with connection.transaction():
                _lock_layout(connection)
                connection.execute(f"{sql} ({quoted(name)})")
        except InsufficientPrivilege:
            log.warning("action=index_not_made table=%s column=%s", table, name)


def _indexed(connection: Any, table: str) -> set[str]:
    """Returns the columns that an index begins with."""
    found = connection.execute(
        "SELECT attname FROM pg_index JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace s ON s.oid = relnamespace "
        "JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0] "
        "WHERE nspname = current_schema() AND relname = %s",
        (table,),
    )
    return {name for (name,) in found}


def _lock_layout(connection: Any) -> None:
    """Lets one of us at a time change tables, and gives up on one that somebody keeps in use: it is tried again."""
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
    connection.execute(f"SELECT pg_advisory_xact_lock({DDL_LOCK})")


def comment_of(connection: Any, name: str) -> str | None:
    """Returns the comment of a table; None where there is no such table."""
    found = connection.execute(
        "SELECT coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c "
        "JOIN pg_namespace s ON s.oid = c.relnamespace WHERE nspname = current_schema() AND relname = %s",
        (name,),
    ).fetchone()
    return str(found[0]) if found else None
