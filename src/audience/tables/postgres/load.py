"""Rows into a table of a PostgreSQL server, by COPY."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from audience.databases.postgres import listed, quoted
from audience.tables.postgres.schema import DIALECT
from audience.tables.result_rows import as_csv, by_group, holding, refused_row

PIECE_BYTES = 2**18
NUL = "\0"
DATA_REFUSED = ("22", "23")


class Loader:
    """Loads the rows of one transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def load(self, batch: pa.RecordBatch) -> int:
        """Returns the number of rows, all of which are in their tables."""
        for group, frame in by_group(batch):
            load(self._connection, DIALECT.results_table(group), frame)
        return len(batch)

    def load_frame(self, table: str, frame: pl.DataFrame) -> None:
        """Loads rows into a table that has these columns."""
        load(self._connection, table, frame)

    def check_mark(self, mark: Sequence[Any]) -> None:
        """Refuses none: what is too large the server refuses by itself, and goes on."""


def load(connection: Any, table: str, frame: pl.DataFrame) -> None:
    """Copies rows into a table. Raises BadInput with the row that cannot be stored."""
    from psycopg import Error

    _check_storable(table, frame)
    try:
        _copy(connection, table, frame)
    except Error as error:
        if (error.sqlstate or "").startswith(DATA_REFUSED):
            reason = error.diag.message_detail or error.diag.message_primary or str(error)
            raise refused_row(frame, None, table, reason) from None
        raise


def _copy(connection: Any, table: str, frame: pl.DataFrame) -> None:
    rows = as_csv(frame)
    sql = f"COPY {quoted(table)} ({listed(frame.columns)}) FROM STDIN (FORMAT csv, NULL 'NULL', ENCODING 'UTF8')"
    with connection.cursor() as cursor, cursor.copy(sql) as copy:
        for start in range(0, len(rows), PIECE_BYTES):
            copy.write(rows[start : start + PIECE_BYTES])


def _check_storable(table: str, frame: pl.DataFrame) -> None:
    wrong = frame.select(holding(NUL).arg_true()).to_series()
    if len(wrong):
        raise refused_row(frame, wrong[0], table, "a text holds a NUL character, which PostgreSQL cannot store")
