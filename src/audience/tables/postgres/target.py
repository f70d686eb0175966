"""PostgreSQL as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.postgres import quoted
from audience.errors import Conflict, NotFound
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA, ConflictRules, Mark, Statistics
from audience.tables.batches import rebatched
from audience.tables.postgres.load import NUL, listed, load
from audience.tables.postgres.production import resolve_conflicts
from audience.tables.postgres.schema import (
    MARKS,
    TASKS,
    create_group_tables,
    create_task_tables,
    groups_of,
    is_prepared,
    production_table,
    results_table,
)
from audience.tables.postgres.server import PostgresServer
from audience.tables.result_rows import STORED, by_group, gathered, result_batch, shown_rows

BY_KEY = "SET enable_sort = off"
"""Rows come from the key, the first at once: sorting millions of them would fill the server's disk first."""
ADMIT = f"""
INSERT INTO {TASKS} AS t VALUES (%s, %s, 'open')
ON CONFLICT (task) DO UPDATE SET fence = excluded.fence WHERE t.fence <= excluded.fence AND t.state = 'open'
"""
DELETED = f"INSERT INTO {TASKS} VALUES (%s, 0, 'deleted') ON CONFLICT (task) DO UPDATE SET state = 'deleted'"
BAR = f"UPDATE {TASKS} SET fence = %s WHERE task = %s AND fence < %s AND state = 'open'"
CLAIM = f"INSERT INTO {MARKS} VALUES (%s, %s, %s, 0, '', '') ON CONFLICT DO NOTHING"
"""Waits for another writer of the partition to end. 0 rows: it is there already."""
DONE = f"UPDATE {MARKS} SET rows = %s, statistics = %s, authors = %s WHERE task = %s AND partition = %s"


class PostgresTarget:
    """Result and production tables in a schema of a database, beside whatever else lives there."""

    unstorable = NUL

    def __init__(self, shown: str, url: str) -> None:
        self.url = shown
        self.server = PostgresServer.at(url)

    def prepare(self, task: str, fence: int, groups: Sequence[str]) -> None:
        with self.server.writing() as connection:
            self.server.check_schema(connection)
            create_task_tables(connection)
            if connection.execute(ADMIT, (task, fence)).rowcount == 0:
                raise Conflict(f"task {task} was taken over or deleted; fence {fence} is not admitted")
            for group in groups:
                create_group_tables(connection, group)

    def bar(self, task: str, fence: int) -> None:
        if self.exists():
            with self.server.writing() as connection:
                connection.execute(BAR, (fence, task, fence))

    def check(self) -> None:
        with self.server.writing() as connection:
            self.server.check_schema(connection)

    def exists(self) -> bool:
        try:
            with self.server.writing() as connection:
                return is_prepared(connection)
        except NotFound:  # the database is gone
            return False

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        """The fence is checked first and, under a shared lock, last: writers of one task do not wait for each other,
        and what raises the fence does not wait for rows."""
        batches = iter(rows)
        buffered = gathered(batches)
        with self.server.transaction() as connection:
            _check_fence(connection, task, fence)
            if connection.execute(CLAIM, (task, partition, fence)).rowcount == 0:
                return False
            n_rows = sum(_load(connection, batch) for batch in rebatched(itertools.chain(buffered, batches)))
            mark = (n_rows, statistics.to_json(), statistics.packed_authors(), task, partition)
            connection.execute(DONE, mark)
            _check_fence(connection, task, fence, "FOR SHARE")
        return True

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        if not self.exists():
            return
        blob = "authors" if authors else "''::bytea"
        sql = f"SELECT partition, rows, statistics, {blob} FROM {MARKS} WHERE task = %s ORDER BY partition"
        with self.server.writing() as connection, connection.transaction(), connection.cursor("marks") as cursor:
            cursor.itersize = 1
            for row in cursor.execute(sql, (task,)):
                yield Mark(*row)

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        for each in [group] if group else self._groups():
            yield from self._select(results_table(each), "partition, n", task, columns or STORED, each)

    def _groups(self) -> list[str]:
        with self.server.writing() as connection:
            return groups_of(connection)

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        yield from self._select(production_table(group), "n", task, PRODUCTION_COLUMNS, group)

    def _select(self, table: str, key: str, task: str, names: Sequence[str], group: str) -> Iterator[pa.RecordBatch]:
        """Streamed as Arrow; the driver takes no parameters in a stream."""
        from psycopg.sql import Literal

        where = f"{quoted(self.server.schema)}.{quoted(table)} WHERE task_id = {Literal(task).as_string(None)}"
        sql = f"SELECT {listed(names)} FROM {where} ORDER BY {key}"
        with contextlib.closing(self.server.stream(sql, BY_KEY)) as stream:
            for batch in rebatched(_as_results(found, names) for found in stream):
                yield batch.append_column("group", pa.array([group] * len(batch), pa.large_string()))

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        columns = listed(STORED).replace('"create_time"', "create_time::text")
        found: list[dict[str, Any]] = []
        with self.server.writing() as connection:
            for group, partition, n in keys:
                sql = f"SELECT {columns} FROM {quoted(results_table(group))}"
                rows = connection.execute(
                    f"{sql} WHERE task_id = %s AND partition = %s AND n = %s", (task, partition, n)
                )
                found += shown_rows(result_batch(STORED, all_rows, group)) if (all_rows := rows.fetchall()) else ()
        return found

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        if not self.exists():
            raise Conflict(f"the results are gone: there is no task {task} in {self.url}")
        with self.server.transaction() as connection:
            _check_fence(connection, task, fence, "FOR UPDATE")
            connection.execute(f"DELETE FROM {quoted(production_table(group))} WHERE task_id = %s", (task,))
            return resolve_conflicts(connection, task, group, rules)

    def delete(self, task: str) -> None:
        """The task is barred first and for good: a writer in mid-write is refused at its end."""
        if not self.exists():
            return
        with self.server.writing() as connection:
            connection.execute(DELETED, (task,))
            connection.execute(f"DELETE FROM {MARKS} WHERE task = %s", (task,))
            for group in groups_of(connection):
                for table in (results_table(group), production_table(group)):
                    connection.execute(f"DELETE FROM {quoted(table)} WHERE task_id = %s", (task,))

    def where(self, group: str, production: bool = False) -> str:
        return f"{self.url}, table {production_table(group) if production else results_table(group)}"


def _check_fence(connection: Any, task: str, fence: int, lock: str = "") -> None:
    present = connection.execute(f"SELECT fence, state FROM {TASKS} WHERE task = %s {lock}", (task,)).fetchone()
    if present != (fence, "open"):
        raise Conflict(f"task {task} was taken over or deleted; nothing is written")


def _load(connection: Any, batch: pa.RecordBatch) -> int:
    """COPY of the rows of each group; the number of rows."""
    for group, frame in by_group(batch):
        load(connection, results_table(group), frame)
    return len(batch)


def _as_results(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    types = [pa.int64() if name == "posts" else RESULT_SCHEMA.field(name).type for name in names]
    return batch.cast(pa.schema(list(zip(names, types, strict=True))))
