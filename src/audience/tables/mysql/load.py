"""Rows into a table of a MariaDB or MySQL server: LOAD DATA LOCAL from memory, or INSERT where that is forbidden."""

import re
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
from pymysql import err
from pymysql.connections import Connection, MySQLResult

from audience.databases.mysql import quoted
from audience.errors import BadInput
from audience.tables.mysql.schema import DIALECT
from audience.tables.result_rows import as_csv, by_group, refused_row, with_time_texts

STREAM = "audience"
PIECE_BYTES = 2**17
INSERT_BYTES = 2**20
BYTES_PER_BYTE = 2
"""In a statement: a hexadecimal form, or an escape before every one."""
ROOM_BYTES = 8_192
NO_LOCAL_FILES = {1148, 3948, 4166}
FILE_REFUSED = 2068
FIXED = ("task_id", "partition")
"""Columns that say the same in every row of a partition: said once."""
AT_ROW = re.compile(r"at row (\d+)")


class LoadingConnection(Connection):  # type: ignore[misc]
    """A connection on which a server may ask for rows that wait to be loaded, and for nothing else: no file is ever
    opened, whatever name it asks for."""

    def __init__(self, **options: Any) -> None:
        self._waiting: bytes | memoryview | None = None
        self._result: Any = None
        super().__init__(local_infile=True, **options)

    def load(self, sql: str, rows: bytes | memoryview) -> tuple[int, int]:
        """Runs one LOAD DATA LOCAL INFILE; (rows that went in, warnings)."""
        self._waiting = rows
        try:
            n_rows = self.query(sql)
            return n_rows, int(self._result.warning_count)
        finally:
            self._waiting = None

    def send_waiting(self, name: bytes) -> None:
        """Answers the server's question for a file. It reads to the end whatever is sent, an empty packet ends it."""
        waiting, self._waiting = self._waiting, None
        granted = waiting is not None and name == STREAM.encode()
        if waiting is not None and granted:
            for start in range(0, len(waiting), PIECE_BYTES):
                self.write_packet(waiting[start : start + PIECE_BYTES])
        self.write_packet(b"")
        if not granted:
            self._read_packet()
            raise err.OperationalError(FILE_REFUSED, "the server asked for a file; nothing of one is ever sent")

    def _read_query_result(self, unbuffered: bool = False) -> int:
        self._result = None
        result = _Result(self)
        if unbuffered:
            result.init_unbuffered_query()
        else:
            result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return int(result.affected_rows)


class _Result(MySQLResult):  # type: ignore[misc]
    def _read_load_local_packet(self, first_packet: Any) -> None:
        connection = self.connection
        connection.send_waiting(first_packet.get_all_data()[1:])
        self._read_ok_packet(connection._read_packet())


class Loader:
    """Loads the rows of one transaction."""

    def __init__(self, connection: LoadingConnection) -> None:
        self.connection = connection
        self._is_forbidden = False
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            self.packet_bytes = int(cursor.fetchone()[0])

    def load(self, batch: pa.RecordBatch) -> int:
        """Returns the number of rows, all of which are in their tables."""
        for group, frame in by_group(batch):
            self.load_frame(DIALECT.results_table(group), frame)
        return len(batch)

    def load_frame(self, table: str, frame: pl.DataFrame) -> None:
        if not self._is_forbidden:
            self._is_forbidden = not self._load(table, frame)
        if self._is_forbidden:
            self._insert(table, frame)

    def _load(self, table: str, frame: pl.DataFrame) -> bool:
        """Loads rows; returns False where LOAD DATA LOCAL is forbidden. The server goes on past rows that it must bend
        or drop: an error here."""
        fixed = {name: frame[name][0] for name in FIXED if name in frame.columns and frame[name].n_unique() == 1}
        settings = self._settings(fixed)
        frame = frame.drop(*fixed)
        # no backslash, so that the mode of the session does not matter
        sql = (
            f"LOAD DATA LOCAL INFILE '{STREAM}' INTO TABLE {quoted(table)} CHARACTER SET utf8mb4 "
            "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY X'0A' "
            f"({', '.join(quoted(name) for name in frame.columns)}){settings}"
        )
        try:
            n_rows, n_warnings = self.connection.load(sql, as_csv(frame))
        except err.MySQLError as error:
            if error.args and error.args[0] in NO_LOCAL_FILES:
                return False
            raise
        if n_rows != len(frame) or n_warnings:
            raise self._refusal(table, frame)
        return True

    def _settings(self, fixed: dict[str, Any]) -> str:
        if not fixed:
            return ""
        with self.connection.cursor() as cursor:
            said: str = cursor.mogrify(", ".join(f"{quoted(name)} = %s" for name in fixed), tuple(fixed.values()))
        return f" SET {said}"

    def _refusal(self, table: str, frame: pl.DataFrame) -> BadInput:
        with self.connection.cursor() as cursor:
            cursor.execute("SHOW WARNINGS LIMIT 1")
            warning = cursor.fetchone()
        reason = str(warning[2]) if warning else "the server took only some of the rows"
        at_row = AT_ROW.search(reason)
        return refused_row(frame, int(at_row[1]) - 1 if at_row else None, table, reason)

    def _insert(self, table: str, frame: pl.DataFrame) -> None:
        """Inserts rows by bound parameters, many in a statement. The session is strict: it refuses what does not
        fit."""
        self._check_sizes(table, frame)
        names = ", ".join(quoted(name) for name in frame.columns)
        sql = f"INSERT INTO {quoted(table)} ({names}) VALUES ({', '.join(['%s'] * frame.width)})"
        with self.connection.cursor() as cursor:
            cursor.max_stmt_length = min(INSERT_BYTES, self.packet_bytes)
            try:
                cursor.executemany(sql, with_time_texts(frame).rows())
            except (err.DataError, err.IntegrityError) as error:
                raise refused_row(frame, None, table, str(error.args[-1])) from None

    def _check_sizes(self, table: str, frame: pl.DataFrame) -> None:
        """Refuses a row that no statement can hold, before the server hangs up over it."""
        texts = frame.select(pl.col(pl.String).str.len_bytes().fill_null(0))
        if not texts.width:
            return
        sizes = texts.sum_horizontal() * BYTES_PER_BYTE
        largest = sizes.arg_max()
        if largest is not None and sizes[largest] + ROOM_BYTES > self.packet_bytes:
            raise refused_row(frame, largest, table, self._too_large(sizes[largest]))

    def check_mark(self, mark: Sequence[Any]) -> None:
        """Refuses a mark that is larger than the server's packets may be, before it hangs up over it."""
        size = sum(len(value) for value in mark if isinstance(value, str | bytes)) * BYTES_PER_BYTE
        if size + ROOM_BYTES > self.packet_bytes:
            raise BadInput(f"the mark of a partition does not fit: {self._too_large(size)}, or make partitions smaller")

    def _too_large(self, size: int) -> str:
        return (
            f"its {size:,} bytes are too many for the server's max_allowed_packet ({self.packet_bytes:,}): raise that"
        )
