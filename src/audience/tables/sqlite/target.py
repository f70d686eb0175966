"""SQLite as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audience.databases.sqlite import quoted
from audience.tables.base import ResultLayout
from audience.tables.batches import FETCH_ROWS
from audience.tables.result_rows import result_batch
from audience.tables.sql.schema import TASKS
from audience.tables.sql.target import Session, SqlTarget
from audience.tables.sqlite.load import Loader
from audience.tables.sqlite.schema import DIALECT, TASK_TABLES, create, groups_of, index
from audience.tables.sqlite.server import SqliteFile


class SqliteTarget(SqlTarget):
    """Result and production tables in a SQLite file."""

    dialect = DIALECT
    _groups = staticmethod(groups_of)
    _loader = staticmethod(Loader)

    def __init__(self, url: str, path: Path) -> None:
        super().__init__(url, place=str(path))
        self.path = path
        self._file = SqliteFile(path)

    def check(self) -> None:
        """Has nothing to do: the file was looked at when it was opened."""

    def exists(self) -> bool:
        return self.path.exists()

    def _is_prepared(self) -> bool:
        return self._file.has(TASKS)

    def _making(self) -> Session:
        return self._file.changing(new=True)

    def _reading(self) -> Session:
        return self._file.session()

    def _changing(self) -> Session:
        return self._file.transaction()

    _writing = _changing

    @contextlib.contextmanager
    def _producing(self) -> Iterator[Any]:
        with self._file.transaction() as db:
            db.execute(DIALECT.standing)
            yield db

    def _create(
        self, session: Any, table: str, columns: Sequence[str], key: tuple[str, ...], layout: ResultLayout, /
    ) -> None:
        """Has no use for bounds: texts of digits are joined with numbers here."""
        create(session, table, columns, key)
        index(session, table, layout.indexes)

    def _create_task_tables(self, session: Any) -> None:
        session.executescript(TASK_TABLES)

    def _marks(self, sql: str, task: str) -> Iterator[Sequence[Any]]:
        with self._file.session() as db:
            yield from db.execute(self.dialect.bound(f"{sql} ORDER BY partition"), (task,))

    def _rows(
        self, session: Any, table: str, key: tuple[str, ...], task: str, names: Sequence[str], group: str
    ) -> Iterator[pa.RecordBatch]:
        columns = self.dialect.listed(names)
        sql = f"SELECT {columns} FROM {quoted(table)} WHERE task_id = ? ORDER BY {', '.join(key)}"
        cursor = session.execute(sql, (task,))
        while rows := cursor.fetchmany(8 * FETCH_ROWS):
            yield result_batch(names, rows, group)
