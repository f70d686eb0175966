"""The tables of a target in a MariaDB or MySQL database: which are ours, and how they are made."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from audience.databases.mysql import quoted
from audience.errors import BadInput
from audience.tables.base import ANY_TEXT, Bound
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, OURS, TASKS, not_ours

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
    known = _bounds(cursor, table)
    for name in known:
        wider = _wider(known[name], bounds.get(name, ANY_TEXT))
        if wider != known[name]:
            cursor.execute(f"ALTER TABLE {quoted(table)} MODIFY {quoted(name)} {DIALECT.bounded(wider)}")


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
    """Makes the indexes of single columns that are missing; of long texts by their beginning."""
    from pymysql.err import OperationalError

    cursor.execute(
        "SELECT column_name, character_maximum_length FROM information_schema.columns WHERE table_schema = DATABASE() "
        "AND table_name = %s AND column_name NOT IN (SELECT index_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = %s)",
        (table, table),
    )
    missing = {name: characters for name, characters in cursor.fetchall() if name in columns}
    for name, characters in missing.items():
        try:
            cursor.execute(f"ALTER TABLE {quoted(table)} ADD KEY {quoted(name)} ({quoted(name)}{_part(characters)})")
        except OperationalError as error:
            if error.args[0] != DUPLICATE_KEY_NAME:  # another process just made it
                raise
