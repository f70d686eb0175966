"""Rows into the tables of a SQLite file."""

import sqlite3
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from audience.databases.sqlite import quoted
from audience.tables.result_rows import by_group, with_time_texts
from audience.tables.sqlite.schema import DIALECT


class Loader:
    """Loads the rows of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self, batch: pa.RecordBatch) -> int:
        """Returns the number of rows, all of which are in their tables."""
        for group, frame in by_group(batch):
            load(self._db, DIALECT.results_table(group), frame)
        return len(batch)

    def load_frame(self, table: str, frame: pl.DataFrame) -> None:
        """Loads rows into a table that has these columns, in this order."""
        load(self._db, table, frame)

    def check_mark(self, mark: Sequence[Any]) -> None:
        """Refuses none: what fits into memory fits into a file."""


def load(db: sqlite3.Connection, table: str, frame: pl.DataFrame) -> None:
    """Inserts rows that have the table's columns in its order."""
    sql = f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * frame.width)})"
    db.executemany(sql, with_time_texts(frame).iter_rows())
