"""The tables of a target in a MariaDB or MySQL database: which are ours, and how they are made."""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from audience.databases.mysql import NOT_GRANTED, quoted
from audience.errors import BadInput
from audience.tables.base import ANY_TEXT, Bound
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, OURS, TASKS, not_ours

log = logging.getLogger(__name__)

LONGEST_NAME = 64
LONGEST_TASK = 100
TYPES = {
    "task_id": f"VARCHAR({LONGEST_TASK}) NOT NULL",
    "panel": "VARCHAR(255) NULL",
    "create_time": "DATETIME(6) NULL",
    "score": "DOUBLE NULL",
    "partition": "BIGINT NOT NULL",
    "n": "BIGINT NOT NULL",
    "posts": "BIGINT NOT NULL",
}
TEXT = "LONGTEXT NULL"
COLLATION = "utf8mb4_bin"
"""Columns of any collation of utf8mb4 can be joined with it, which a nopad one cannot be with another of its kind. It
takes `a` and `a ` for equal: where that matters, texts are compared as bytes."""
BOUNDED = ("id", "source_author", "field_content")
LONGEST_VARCHAR = 512
INDEXED_WHOLE = 255
INDEXED_CHARACTERS = 64
DUPLICATE_KEY_NAME = 1061
LOCK_WAIT_S = 60
TASK_TABLES = {
    MARKS: f"task VARCHAR({LONGEST_TASK}) NOT NULL, `partition` BIGINT NOT NULL, fence BIGINT NOT NULL, "
    "`rows` BIGINT NOT NULL, statistics LONGTEXT NOT NULL, authors LONGBLOB NOT NULL, PRIMARY KEY (task, `partition`)",
    TASKS: f"task VARCHAR({LONGEST_TASK}) NOT NULL PRIMARY KEY, fence BIGINT NOT NULL, state VARCHAR(10) NOT NULL",
}


class MysqlDialect(Dialect):
    """Upserts that MariaDB and MySQL have."""

    unless_there = "ON DUPLICATE KEY UPDATE fence = fence"
    shared_lock = "LOCK IN SHARE MODE"  # MariaDB has no FOR SHARE
    admitted = f"""
INSERT INTO {TASKS} VALUES (%s, %s, 'open')
ON DUPLICATE KEY UPDATE fence = IF(state = 'open' AND fence <= VALUES(fence), VALUES(fence), fence)
"""
    temporary, by_key = "TEMPORARY", "STRAIGHT_JOIN"
    deleted = f"INSERT INTO {TASKS} VALUES (%s, 0, 'deleted') ON DUPLICATE KEY UPDATE state = 'deleted'"

    def bounded(self, bound: Bound) -> str:
        if bound.kind != "text":
            return "BIGINT NULL" if bound.kind == "signed" else "BIGINT UNSIGNED NULL"
        is_short = bound.characters is not None and bound.characters <= LONGEST_VARCHAR
        return f"VARCHAR({bound.characters}) NULL" if is_short else TEXT

    def checked(self, name: str) -> str:
        if len(name) > LONGEST_NAME:
            raise BadInput(
                f"the table name {name} has {len(name)} characters, {LONGEST_NAME} at most: a shorter group?"
            )
        return name


DIALECT = MysqlDialect(quoted, TYPES, TEXT)


def create_task_tables(cursor: Any) -> None:
    for name, declared in TASK_TABLES.items():
        create(cursor, name, declared)


def is_prepared(cursor: Any) -> bool:
    return comment_of(cursor, TASKS) == OURS


def groups_of(cursor: Any) -> list[str]:
    """Returns the groups that have a table of ours here."""
    cursor.execute(
        "SELECT SUBSTR(table_name, 9) FROM information_schema.tables WHERE table_schema = DATABASE() "
        "AND LEFT(table_name, 8) = 'results_' AND table_comment = %s ORDER BY 1",
        (OURS,),
    )
    return [name for (name,) in cursor.fetchall()]


def create(cursor: Any, name: str, declared: str) -> None:
    """Creates one of our tables, unless another process just did; one that is not ours is left alone and reported."""
    if comment_of(cursor, name) is None:
        create_new(cursor, name, declared, OURS)
    if (comment := comment_of(cursor, name)) != OURS:
        raise not_ours(name, comment)


def create_new(cursor: Any, name: str, declared: str, comment: str) -> None:
    """Creates a table unless it is there. `comment` says whose it is."""
    options = f"ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, DEFAULT CHARSET = utf8mb4, COLLATE = {COLLATION}"
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({declared}) {options}, COMMENT = %s", (comment,))


def comment_of(cursor: Any, name: str) -> str | None:
    """Returns the comment of a table; None where there is no such table."""
    cursor.execute(
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
        (name,),
    )
    found = cursor.fetchone()
    return str(found[0]) if found else None


def widen(cursor: Any, table: str, bounds: Mapping[str, Bound]) -> None:
    """Lets the columns of a table hold values with these bounds, beside those that it holds."""
    if not _too_narrow(cursor, table, bounds):
        return
    cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")
    cursor.execute("SELECT GET_LOCK(MD5(CONCAT(DATABASE(), '.', %s)), %s)", (table, LOCK_WAIT_S))
    try:  # another may have widened it just now, and further
        for name, wider in _too_narrow(cursor, table, bounds).items():
            changes = [f"MODIFY {quoted(name)} {DIALECT.bounded(wider)}"]
            if name in _indexed(cursor, table):  # a whole text cannot be a key once it is long
                part = _part(_length(DIALECT.bounded(wider)))
                changes = [f"DROP KEY {quoted(name)}", *changes, f"ADD KEY {quoted(name)} ({quoted(name)}{part})"]
            cursor.execute(f"ALTER TABLE {quoted(table)} {', '.join(changes)}")
    finally:
        cursor.execute("SELECT RELEASE_LOCK(MD5(CONCAT(DATABASE(), '.', %s)))", (table,))


def _too_narrow(cursor: Any, table: str, bounds: Mapping[str, Bound]) -> dict[str, Bound]:
    """Returns columns that cannot hold all values with these bounds, and what they have to be."""
    known = _bounds(cursor, table)
    wider = {name: _wider(bound, bounds.get(name, ANY_TEXT)) for name, bound in known.items()}
    return {name: bound for name, bound in wider.items() if bound != known[name]}


def _bounds(cursor: Any, table: str) -> dict[str, Bound]:
    """Returns those of the columns that have any."""
    cursor.execute(
        "SELECT column_name, column_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = %s AND column_name IN %s",
        (table, BOUNDED),
    )
    found = {}
    for name, shown, characters in cursor.fetchall():
        if shown.startswith("bigint"):
            found[name] = Bound("unsigned" if "unsigned" in shown else "signed")
        elif shown.startswith("varchar"):
            found[name] = Bound("text", int(characters))
    return found


def _wider(one: Bound, other: Bound) -> Bound:
    """Returns the bound of values that have the one or the other."""
    if one.kind == other.kind != "text":
        return one
    longest = [each.longest for each in (one, other)]
    return Bound("text", None if None in longest else max(filter(None, longest)))


def keys_of(types: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    """Returns the indexes of single columns as parts of CREATE TABLE, which needs fewer rights than to add them."""
    return [f"KEY {quoted(name)} ({quoted(name)}{_part(_length(types[name]))})" for name in columns]


def _length(declared: str) -> int | None:
    """Returns the characters of a type of texts; None of others."""
    if declared == TEXT:
        return sys.maxsize
    sized = re.match(r"VARCHAR\((\d+)\)", declared)
    return int(sized[1]) if sized else None


def _part(characters: int | None) -> str:
    """Returns how much of a column is indexed, as SQL."""
    return f"({INDEXED_CHARACTERS})" if characters and characters > INDEXED_WHOLE else ""


def index(cursor: Any, table: str, columns: Sequence[str]) -> None:
    """Makes the indexes of single columns that are missing; of long texts by their beginning. Who may not is told so in
    the log: a table of an earlier version goes on without."""
    from pymysql.err import OperationalError

    missing = set(columns) - _indexed(cursor, table)
    if not missing:
        return
    cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")  # all writers wait behind one that waits
    for name, characters in _characters(cursor, table).items():
        if name not in missing:
            continue
        try:
            cursor.execute(f"ALTER TABLE {quoted(table)} ADD KEY {quoted(name)} ({quoted(name)}{_part(characters)})")
        except OperationalError as error:
            if error.args[0] in NOT_GRANTED:
                log.warning("action=index_not_made table=%s column=%s", table, name)
            elif error.args[0] != DUPLICATE_KEY_NAME:  # another process just made it
                raise


def _indexed(cursor: Any, table: str) -> set[str]:
    """Returns the names of a table's indexes: ours are called like their column."""
    cursor.execute(
        "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = %s",
        (table,),
    )
    return {name for (name,) in cursor.fetchall()}


def _characters(cursor: Any, table: str) -> dict[str, int | None]:
    """Returns column -> how many characters it holds; None of others than texts."""
    cursor.execute(
        "SELECT column_name, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = %s",
        (table,),
    )
    return dict(cursor.fetchall())
