"""MariaDB or MySQL as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.mysql import SQL_MODE, listed, quoted
from audience.errors import AudienceError, BadInput, NotFound
from audience.tables.base import DEFAULT_LAYOUT, RESULT_SCHEMA, ResultLayout
from audience.tables.batches import BATCH_BYTES
from audience.tables.mysql.bulk import read_at_once
from audience.tables.mysql.schema import (
    DIALECT,
    LONGEST_TASK,
    create,
    create_task_tables,
    groups_of,
    index,
    is_prepared,
    keys_of,
    widen,
)
from audience.tables.mysql.server import MysqlServer, plain_values
from audience.tables.production import NARROW
from audience.tables.result_rows import result_batch
from audience.tables.sql.target import Loader, SqlTarget

WAIT_S = 600
FIRST_PIECE_ROWS = 256
PIECE_ROWS = 8_192
BULK_ROWS = 200_000
BULK_BYTES = 32 * 2**20
NARROW_SCHEMA = pa.schema([RESULT_SCHEMA.field(name) for name in NARROW])
DELETE_ROWS = 20_000
AFTER = {
    ("partition", "n"): "(`partition` > %(partition)s OR `partition` = %(partition)s AND n > %(n)s)",
    ("n",): "n > %(n)s",
}


class MysqlTarget(SqlTarget):
    """Result and production tables in a database of a server. Its sessions are PyMySQL's cursors."""

    dialect = DIALECT
    _create_task_tables = staticmethod(create_task_tables)
    _groups = staticmethod(groups_of)

    def __init__(self, shown: str, url: str) -> None:
        super().__init__(shown)
        self.server = MysqlServer.at(url)
        if not self.server.database:
            raise BadInput("the URL of a target names a database, as in mysql://user@host:3306/schema")

    def prepare(self, task: str, fence: int, groups: Sequence[str], layout: ResultLayout = DEFAULT_LAYOUT) -> None:
        if len(task) > LONGEST_TASK:
            raise BadInput(f"the task {task[:LONGEST_TASK]}... has a name of more than {LONGEST_TASK} characters")
        super().prepare(task, fence, groups, layout)

    def check(self) -> None:
        """Tries to connect, and also what production does: that comes after all the labeling, and this user may have no
        right to it."""
        try:
            with self._making() as cursor:
                cursor.execute(DIALECT.standing)
        except BadInput as error:
            try:
                grants = self.server.grants()
            except AudienceError:  # it lets us in nowhere: no right is what is missing
                raise error from None
            raise BadInput(f"{error}: runs and publications need {grants}") from error

    def _is_prepared(self) -> bool:
        try:
            with self._making() as cursor:
                return is_prepared(cursor)
        except NotFound:  # the database is gone
            return False

    @contextlib.contextmanager
    def _making(self) -> Iterator[Any]:
        with self.server.writing() as connection, connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Any]:
        """Opens a session, not one transaction, so that no log or lock of the server grows with the table; and without
        the locks of gaps, at which the writers of other tasks would wait."""
        with self._making() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            yield cursor

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """Opens a cursor that sees what was there when it began, however long its reader takes; times come as text."""
        with self.server.writing(conv=plain_values()) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            yield cursor

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Any]:
        from audience.tables.mysql.load import LoadingConnection

        options = {"connection_class": LoadingConnection, "read_timeout": WAIT_S, "write_timeout": WAIT_S}
        with self.server.transaction(**options) as connection, connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def _producing(self) -> Iterator[Any]:
        with self._writing() as cursor:
            cursor.execute(DIALECT.standing)
            yield cursor

    def _run(self, session: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        session.execute(sql, values)
        return session

    def _loader(self, session: Any) -> Loader:
        from audience.tables.mysql import load

        return load.Loader(session.connection)

    def _create(
        self, session: Any, table: str, columns: Sequence[str], key: tuple[str, ...], layout: ResultLayout, /
    ) -> None:
        keys = keys_of(DIALECT.types_of(columns, layout.bounds), layout.indexes)
        create(session, table, ", ".join([DIALECT.declared(columns, key, layout.bounds), *keys]))
        widen(session, table, layout.bounds)
        index(session, table, layout.indexes)

    def _marks(self, sql: str, task: str) -> Iterator[Sequence[Any]]:
        """Asks for one after another: an answer that is not read to its end keeps the session from being used."""
        with self._making() as cursor:
            last = -1
            while cursor.execute(f"{sql} AND `partition` > %s ORDER BY `partition` LIMIT 1", (task, last)):
                yield (mark := cursor.fetchone())
                last = mark[0]

    def _rows(
        self, session: Any, table: str, key: tuple[str, ...], task: str, names: Sequence[str], group: str
    ) -> Iterator[pa.RecordBatch]:
        """Reads each piece after the last one's end; how many rows are asked for follows their size."""
        sql = (
            f"SELECT {listed((*names, *key))} FROM {quoted(table)} "
            f"WHERE task_id = %(task)s AND {AFTER[key]} ORDER BY {listed(key)} LIMIT %(limit)s"
        )
        place = {"task": task, "partition": -1, "n": -1, "limit": FIRST_PIECE_ROWS}
        while session.execute(sql, place):
            rows = session.fetchall()
            place |= dict(zip(key, rows[-1][len(names) :], strict=True))
            batch = result_batch(names, [row[: len(names)] for row in rows], group)
            yield batch
            place["limit"] = max(1, min(PIECE_ROWS, len(rows) * BATCH_BYTES // max(batch.nbytes, 1)))

    def _narrow_rows(self, session: Any, task: str, group: str) -> Iterator[pa.RecordBatch]:
        """Reads in bulk, on another connection: nobody changes the task's results while its fence is locked."""
        times = {"create_time": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', create_time)"}
        columns = ", ".join(f"{times.get(name, quoted(name))} AS {quoted(name)}" for name in NARROW)
        table = quoted(DIALECT.results_table(group))
        place, size = {"partition": -1, "n": -1}, FIRST_PIECE_ROWS
        while True:
            after = AFTER["partition", "n"] % place
            sql = (
                f"SELECT {columns} FROM {table} WHERE task_id = _utf8mb4 X'{task.encode().hex()}' AND {after} "
                f"ORDER BY `partition`, n LIMIT {size}"
            )
            batches = read_at_once(self.server, sql, (f"SET sql_mode = '{SQL_MODE}'",), WAIT_S)
            n_rows = sum(map(len, batches))
            session.execute("DO 0")  # it holds the fence: a session that is silent for long the server ends
            yield from (batch.cast(NARROW_SCHEMA) for batch in batches)
            if n_rows < size:
                return
            place = {name: batches[-1][name][-1].as_py() for name in place}
            size = max(1, min(BULK_ROWS, n_rows * BULK_BYTES // (sum(b.nbytes for b in batches) + 1)))

    def _remove(self, session: Any, table: str, column: str, key: Sequence[str], task: str) -> None:
        """Deletes in parts, in the order of the key: it is found without a sort."""
        sql = f"DELETE FROM {quoted(table)} WHERE {quoted(column)} = %s ORDER BY {listed(key)} LIMIT {DELETE_ROWS}"
        while session.execute(sql, (task,)):
            pass
