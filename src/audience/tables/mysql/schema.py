"""The tables of a target in a MariaDB or MySQL database: which are ours, and how they are made."""

from typing import Any

from audience.databases.mysql import quoted
from audience.errors import BadInput
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, OURS, TASKS, not_ours

LONGEST_NAME = 64
LONGEST_TASK = 100
TYPES = {
    "task_id": f"VARCHAR({LONGEST_TASK}) NOT NULL",
    "create_time": "DATETIME(6) NULL",
    "score": "DOUBLE NULL",
    "partition": "BIGINT NOT NULL",
    "n": "BIGINT NOT NULL",
    "posts": "BIGINT NOT NULL",
}
TEXT = "LONGTEXT NULL"
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
    options = f"ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, DEFAULT CHARSET = utf8mb4, COLLATE = {_collation(cursor)}"
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({declared}) {options}, COMMENT = %s", (comment,))


def comment_of(cursor: Any, name: str) -> str | None:
    """Returns the comment of a table; None where there is no such table."""
    cursor.execute(
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
        (name,),
    )
    found = cursor.fetchone()
    return str(found[0]) if found else None


def _collation(cursor: Any) -> str:
    """Returns the collation that compares by code point, without padding: `a`, `a ` and `A` are three."""
    cursor.execute("SELECT VERSION()")
    return "utf8mb4_nopad_bin" if "mariadb" in str(cursor.fetchone()[0]).lower() else "utf8mb4_0900_bin"
