"""PostgreSQL as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.postgres import listed, quoted
from audience.errors import BadInput, NotFound
from audience.tables.base import RESULT_SCHEMA, ResultLayout
from audience.tables.batches import rebatched
from audience.tables.postgres.load import NUL, Loader
from audience.tables.postgres.schema import (
    DIALECT,
    PLANNING,
    create,
    create_task_tables,
    groups_of,
    index,
    is_prepared,
    widen,
)
from audience.tables.postgres.server import PostgresServer
from audience.tables.sql.target import Session, SqlTarget

BY_KEY = "SET enable_sort = off"
"""Rows come from the key, the first at once: sorting millions of them would fill the server's disk first."""


class PostgresTarget(SqlTarget):
    """Result and production tables in a schema of a database."""

    unstorable = NUL
    dialect = DIALECT
    _create_task_tables = staticmethod(create_task_tables)
    _groups = staticmethod(groups_of)
    _loader = staticmethod(Loader)

    def __init__(self, shown: str, url: str) -> None:
        super().__init__(shown)
        self.server = PostgresServer.at(url)

    def _narrow_rows(self, session: Any, task: str, group: str) -> Iterator[pa.RecordBatch]:
        for batch in super()._narrow_rows(session, task, group):
            session.execute("SELECT 1")  # it holds the fence: a session that is silent for long the server ends
            yield batch

    def check(self) -> None:
        """Tries to connect, and whether tables can be made: what is there already may be used without that, but not
        without the temporary ones of production, which come after all the labeling."""
        with self._making() as connection:
            if needed := self.server.temporary_grant(connection):
                raise BadInput(f"production cannot make temporary tables in {self.url}: {needed}")
            if (needed := self.server.grants(connection)) and not is_prepared(connection):
                raise BadInput(f"no table can be made in the schema {self.server.schema} of {self.url}: {needed}")

    def _is_prepared(self) -> bool:
        try:
            with self.server.writing() as connection:
                return is_prepared(connection)
        except NotFound:  # the database is gone
            return False

    @contextlib.contextmanager
    def _making(self) -> Iterator[Any]:
        with self.server.writing() as connection:
            self.server.check_schema(connection)
            yield connection

    def _changing(self) -> Session:
        """Opens a session in which each statement stands for itself: no lock of a task is held while its rows are
        deleted."""
        return self.server.writing()

    _reading = _changing

    def _writing(self) -> Session:
        return self.server.transaction()

    @contextlib.contextmanager
    def _producing(self) -> Iterator[Any]:
        with self.server.transaction() as connection:
            for statement in (*PLANNING, f"{DIALECT.standing} ON COMMIT DROP"):
                connection.execute(statement)
            yield connection

    def _create(
        self, session: Any, table: str, columns: Sequence[str], key: tuple[str, ...], layout: ResultLayout, /
    ) -> None:
        create(session, table, DIALECT.declared(columns, key, layout.bounds))
        widen(session, table, layout.bounds)
        index(session, table, layout.indexes, layout.bounds)

    def _marks(self, sql: str, task: str) -> Iterator[Sequence[Any]]:
        """Reads through a cursor of the server: the driver would fetch all of them at once, with their authors."""
        with self.server.writing() as connection, connection.transaction(), connection.cursor("marks") as cursor:
            cursor.itersize = 1
            yield from cursor.execute(f"{sql} ORDER BY partition", (task,))

    def _rows(
        self, session: Any, table: str, key: tuple[str, ...], task: str, names: Sequence[str], group: str
    ) -> Iterator[pa.RecordBatch]:
        """Streams Arrow in a session of its own; that driver takes no parameters in a stream."""
        from psycopg.sql import Literal

        where = f"{quoted(self.server.schema)}.{quoted(table)} WHERE task_id = {Literal(task).as_string(None)}"
        sql = f"SELECT {listed(names)} FROM {where} ORDER BY {listed(key)}"
        with contextlib.closing(self.server.stream(sql, BY_KEY)) as stream:
            for batch in rebatched(_as_results(found, names) for found in stream):
                yield batch.append_column("group", pa.array([group] * len(batch), pa.large_string()))


def _as_results(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    types = [pa.int64() if name == "posts" else RESULT_SCHEMA.field(name).type for name in names]
    return batch.cast(pa.schema(list(zip(names, types, strict=True))))
