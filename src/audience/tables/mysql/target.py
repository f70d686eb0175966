"""MariaDB or MySQL as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.mysql import quoted
from audience.errors import BadInput, Conflict, NotFound
from audience.tables.base import PRODUCTION_COLUMNS, ConflictRules, Mark, Statistics
from audience.tables.batches import BATCH_BYTES, rebatched
from audience.tables.mysql.production import make_tables, resolve_conflicts
from audience.tables.mysql.schema import (
    LONGEST_TASK,
    MARKS,
    TASKS,
    create_group_tables,
    create_task_tables,
    groups_of,
    is_prepared,
    production_table,
    results_table,
)
from audience.tables.mysql.server import MysqlServer, plain_values
from audience.tables.result_rows import STORED, gathered, result_batch, shown_rows

WAIT_S = 600
FIRST_PIECE_ROWS = 256
PIECE_ROWS = 8_192
DELETE_ROWS = 20_000
ADMIT = f"""
INSERT INTO {TASKS} VALUES (%s, %s, 'open')
ON DUPLICATE KEY UPDATE fence = IF(state = 'open' AND fence <= %s, %s, fence)
"""
DELETED = f"INSERT INTO {TASKS} VALUES (%s, 0, 'deleted') ON DUPLICATE KEY UPDATE state = 'deleted'"
BAR = f"UPDATE {TASKS} SET fence = %s WHERE task = %s AND fence < %s AND state = 'open'"
CLAIM = f"INSERT INTO {MARKS} VALUES (%s, %s, %s, 0, '', '') ON DUPLICATE KEY UPDATE fence = fence"
"""Waits for another writer of the partition to end. 0 rows: it is there already."""
DONE = f"UPDATE {MARKS} SET `rows` = %s, statistics = %s, authors = %s WHERE task = %s AND `partition` = %s"


AFTER = {
    ("partition", "n"): "(`partition` > %(partition)s OR `partition` = %(partition)s AND n > %(n)s)",
    ("n",): "n > %(n)s",
}


class MysqlTarget:
    """Result and production tables in a database of a server, beside whatever else lives there."""

    unstorable = ""

    def __init__(self, shown: str, url: str) -> None:
        self.url = shown
        self.server = MysqlServer.at(url)
        self._may_load = True
        if not self.server.database:
            raise BadInput("the URL of a target names a database, as in mysql://user@host:3306/schema")

    def prepare(self, task: str, fence: int, groups: Sequence[str]) -> None:
        if len(task) > LONGEST_TASK:
            raise BadInput(f"the task {task[:LONGEST_TASK]}... has a name of more than {LONGEST_TASK} characters")
        with self.server.writing() as connection, connection.cursor() as cursor:
            create_task_tables(cursor)
            cursor.execute(ADMIT, (task, fence, fence, fence))
            if _present(cursor, task) != (fence, "open"):
                raise Conflict(f"task {task} was taken over or deleted; fence {fence} is not admitted")
            for group in groups:
                create_group_tables(cursor, group)

    def bar(self, task: str, fence: int) -> None:
        if self.exists():
            with self.server.writing() as connection, connection.cursor() as cursor:
                cursor.execute(BAR, (fence, task, fence))

    def check(self) -> None:
        """Also that this user may do what production does, which comes after all the labeling."""
        with self.server.writing() as connection, connection.cursor() as cursor:
            try:
                with self.server.mapped_errors():
                    make_tables(cursor)
            except BadInput as error:
                grant = f"GRANT CREATE TEMPORARY TABLES ON {quoted(self.server.database)}.* TO {self.server.user}@'%'"
                raise BadInput(f"{error}: production needs temporary tables: {grant}") from error

    def exists(self) -> bool:
        try:
            with self.server.writing() as connection, connection.cursor() as cursor:
                return is_prepared(cursor)
        except NotFound:  # the database is gone
            return False

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        """The fence is checked first and, under a shared lock, last: writers of one task do not wait for each other,
        and what raises the fence does not wait for rows."""
        from audience.tables.mysql.load import Loader, LoadingConnection

        batches = iter(rows)
        buffered = gathered(batches)
        options = {"connection_class": LoadingConnection, "read_timeout": WAIT_S, "write_timeout": WAIT_S}
        with self.server.transaction(**options) as connection, connection.cursor() as cursor:
            _check_fence(cursor, task, fence)
            if cursor.execute(CLAIM, (task, partition, fence)) == 0:
                return False
            loader = Loader(connection)
            n_rows = sum(map(loader.load, rebatched(itertools.chain(buffered, batches))))
            mark = (n_rows, statistics.to_json(), statistics.packed_authors(), task, partition)
            loader.check_mark(mark)
            cursor.execute(DONE, mark)
            _check_fence(cursor, task, fence, "LOCK IN SHARE MODE")
        return True

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        blob = "authors" if authors else "''"
        sql = f"SELECT `partition`, `rows`, statistics, {blob} FROM {MARKS} WHERE task = %s AND `partition` > %s"
        if not self.exists():
            return
        with self.server.writing() as connection, connection.cursor() as cursor:
            last = -1
            while cursor.execute(f"{sql} ORDER BY `partition` LIMIT 1", (task, last)):
                partition, n_rows, statistics, packed = cursor.fetchone()
                yield Mark(partition, n_rows, statistics, packed if authors else b"")
                last = partition

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        names = tuple(columns or STORED)
        with self._snapshot() as cursor:
            for each in [group] if group else groups_of(cursor):
                yield from _pieces(cursor, results_table(each), ("partition", "n"), task, names, each)

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        with self._snapshot() as cursor:
            yield from _pieces(cursor, production_table(group), ("n",), task, PRODUCTION_COLUMNS, group)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Any]:
        """A cursor that sees what was there when it began, however long its reader takes; times come as text."""
        with self.server.writing(conv=plain_values()) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            yield cursor

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with self._snapshot() as cursor:
            for group, partition, n in keys:
                sql = f"SELECT {_list(STORED)} FROM {quoted(results_table(group))}"
                cursor.execute(f"{sql} WHERE task_id = %s AND `partition` = %s AND n = %s", (task, partition, n))
                found += shown_rows(result_batch(STORED, rows, group)) if (rows := cursor.fetchall()) else ()
        return found

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        if not self.exists():
            raise Conflict(f"the results are gone: there is no task {task} in {self.url}")
        with self.server.transaction() as connection, connection.cursor() as cursor:
            make_tables(cursor)
            _check_fence(cursor, task, fence, "FOR UPDATE")
            cursor.execute(f"DELETE FROM {quoted(production_table(group))} WHERE task_id = %s", (task,))
            return resolve_conflicts(cursor, task, group, rules)

    def delete(self, task: str) -> None:
        """The task is barred first and for good. What is deleted then may be deleted in parts: its writers are gone, or
        wait for the end of this and are refused."""
        if not self.exists():
            return
        with self.server.writing() as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(DELETED, (task,))
            _delete(cursor, MARKS, "task", ("task", "partition"), task)
            for group in groups_of(cursor):
                _delete(cursor, results_table(group), "task_id", ("task_id", "partition", "n"), task)
                _delete(cursor, production_table(group), "task_id", ("task_id", "n"), task)

    def where(self, group: str, production: bool = False) -> str:
        return f"{self.url}, table {production_table(group) if production else results_table(group)}"


def _present(cursor: Any, task: str, lock: str = "") -> tuple[int, str] | None:
    cursor.execute(f"SELECT fence, state FROM {TASKS} WHERE task = %s {lock}", (task,))
    found: tuple[int, str] | None = cursor.fetchone()
    return found


def _check_fence(cursor: Any, task: str, fence: int, lock: str = "") -> None:
    if _present(cursor, task, lock) != (fence, "open"):
        raise Conflict(f"task {task} was taken over or deleted; nothing is written")


def _pieces(
    cursor: Any, table: str, key: tuple[str, ...], task: str, names: Sequence[str], group: str
) -> Iterator[pa.RecordBatch]:
    """Rows in the order of their key, each piece after the last; how many are asked for follows their size."""
    sql = (
        f"SELECT {_list((*names, *key))} FROM {quoted(table)} "
        f"WHERE task_id = %(task)s AND {AFTER[key]} ORDER BY {_list(key)} LIMIT %(limit)s"
    )
    place = {"task": task, "partition": -1, "n": -1, "limit": FIRST_PIECE_ROWS}
    while cursor.execute(sql, place):
        rows = cursor.fetchall()
        place |= dict(zip(key, rows[-1][len(names) :], strict=True))
        batch = result_batch(names, [row[: len(names)] for row in rows], group)
        yield batch
        place["limit"] = max(1, min(PIECE_ROWS, len(rows) * BATCH_BYTES // max(batch.nbytes, 1)))


def _delete(cursor: Any, table: str, column: str, key: Sequence[str], task: str) -> None:
    """In parts, so that no log or lock of the server grows with the table."""
    sql = f"DELETE FROM {quoted(table)} WHERE {quoted(column)} = %s ORDER BY {_list(key)} LIMIT {DELETE_ROWS}"
    while cursor.execute(sql, (task,)):
        pass


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)
