"""MariaDB and MySQL as a source: PyMySQL looks and plans, connectorx reads in pieces of bounded size.

connectorx fetches a whole answer before it returns, so that answers are pieces of about `PIECE_BYTES`: how many rows
that is, is learned from the piece before. It takes no parameters; keys are the only values in its SQL (`literal`)."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.mysql import quoted
from audience.errors import BadInput
from audience.tables.base import Partition, Selection, SourceSpec
from audience.tables.batches import NOT_A_TIME, fetched, rebatched
from audience.tables.mysql.bulk import DriverPanic, read_at_once
from audience.tables.mysql.server import MysqlServer
from audience.tables.sql.slices import Bounds, Column
from audience.tables.sql.source import Index, Rows, ServerSource

PIECE_BYTES = 32 * 2**20
FIRST_ROW_BYTES = 64 * 2**10
"""What a row is taken to have before any was read: the first piece is small."""
GROWTH = 16
KINDS = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint"), "integer"),
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"), "text"),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), "binary"),
    **dict.fromkeys(("datetime", "date"), "time"),
    **dict.fromkeys(("enum", "set"), "names"),
    "timestamp": "instant",
    "decimal": "decimal",
    "bit": "bits",
}
UTF8 = ("utf8mb4", "utf8mb3", "utf8", "ascii")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
PADDED = re.compile(r"zerofill", re.IGNORECASE)
"""Of integers that the server shows with zeros before them, and a driver without."""


class MysqlLiterals:
    """Keys as SQL that means the same in every sql_mode: numbers, and hexadecimal text."""

    def quoted(self, name: str) -> str:
        return quoted(name)

    def literal(self, column: Column, value: Any) -> str:
        if column.kind in ("integer", "decimal"):
            if not NUMBER.fullmatch(str(value)):
                raise BadInput(f"a partition holds {str(value)[:40]!r} for the number {column.name}; plan again")
            return str(value)
        if column.kind == "binary":
            return f"X'{bytes.fromhex(str(value)).hex()}'"
        if column.kind == "text":
            return f"_{column.charset} X'{bytes.fromhex(str(value)).hex()}'"
        return f"_utf8mb4 X'{str(value).encode().hex()}'"

    def shown(self, column: Column, expression: str) -> str:
        """Texts as the bytes that are stored: some have no like in utf8mb4, and would come back as another key."""
        if column.kind == "integer":
            return expression
        return f"HEX({expression})" if column.kind in ("binary", "text") else f"CAST({expression} AS CHAR)"


class MysqlSource(ServerSource):
    """A table or view of MariaDB or MySQL."""

    literals = MysqlLiterals()

    def __init__(self, spec: SourceSpec, url: str) -> None:
        self.server = MysqlServer.at(url)
        if not self.server.database:
            raise BadInput("the URL names no database: it looks like mysql://user@host:3306/schema")
        self._row_bytes: float = FIRST_ROW_BYTES
        self._is_exact = False  # whether a value was met that only `exact` reads
        self._settings: tuple[str, ...] = ()
        super().__init__(spec, self.server.shown, (self.server.host, self.server.port))

    @contextlib.contextmanager
    def _connection(self, **options: Any) -> Iterator[Any]:
        with self.server.session(read_timeout=self.spec.read_timeout_s, **options) as connection:
            self._settings = self._settings or tuple(self._session_settings(connection.get_server_info()))
            for statement in self._settings:
                connection.cursor().execute(statement)
            yield connection

    def _session_settings(self, version: str) -> Iterator[str]:
        """The same for every session, whatever the server's defaults are."""
        yield "SET time_zone = '+00:00', sql_mode = '', net_write_timeout = 3600"
        yield "SET SESSION TRANSACTION READ ONLY"
        if timeout_s := self.spec.statement_timeout_s:
            is_mariadb = "mariadb" in version.lower()
            yield (
                f"SET max_statement_time = {timeout_s:f}"
                if is_mariadb
                else f"SET max_execution_time = {round(timeout_s * 1000)}"
            )

    @contextlib.contextmanager
    def _session(self) -> Iterator[Rows]:
        with self._connection() as connection:

            def rows(sql: str, values: Sequence[Any] | None = None) -> Sequence[Sequence[Any]]:
                with connection.cursor() as cursor:
                    cursor.execute(sql, values)
                    found: Sequence[Sequence[Any]] = cursor.fetchall()
                    return found

            yield rows

    # the table

    def _tables(self, rows: Rows) -> list[str]:
        sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE <> 'SEQUENCE'"
        return [name for (name,) in rows(sql, (self.server.database,))]

    def _columns(self, rows: Rows) -> list[Column]:
        found = rows(
            "SELECT COLUMN_NAME, COLUMN_TYPE, DATA_TYPE, CHARACTER_SET_NAME, IS_NULLABLE"
            " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
            (self.server.database, self.table),
        )
        self._is_utf8 = {name for name, _, kind, charset, _ in found if charset in UTF8 and _kind(kind) == "text"}
        self._are_texts = {name for name, _, kind, _, _ in found if _kind(kind) == "text"}
        return [
            Column(name, _string(shown), _kind(kind), nullable == "YES", charset=_charset(charset))
            for name, shown, kind, charset, nullable in found
        ]

    def _indexes(self, rows: Rows) -> dict[str, Index]:
        found = rows(
            "SELECT INDEX_NAME, max(CASE WHEN SEQ_IN_INDEX = 1 AND SUB_PART IS NULL THEN COLUMN_NAME END),"
            " max(NON_UNIQUE) = 0 AND count(*) = 1 AND max(NULLABLE) <> 'YES' FROM information_schema.STATISTICS"
            " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND INDEX_TYPE = 'BTREE' GROUP BY INDEX_NAME"
            " ORDER BY INDEX_NAME = 'PRIMARY' DESC, 3 DESC, INDEX_NAME",
            (self.server.database, self.table),
        )
        indexes: dict[str, Index] = {}
        for name, column, is_unique in found:
            if column is not None:
                indexes.setdefault(column, Index(name, bool(is_unique)))
        self._may_force = bool(indexes)
        return indexes or self._indexes_below(rows)

    def _indexes_below(self, rows: Rows) -> dict[str, Index]:
        """Of a view: those of its table, where the server uses them for the view."""
        indexes = {}
        for name in {self.roles.get("id"), self.roles.get("post_time")} - {None}:
            column = quoted(str(name))
            plan = rows(f"EXPLAIN SELECT {column} FROM {self._sql_table()} ORDER BY {column} LIMIT 1")
            key, extra = plan[0][-4], str(plan[0][-1])
            if len(plan) == 1 and key and "filesort" not in extra and "temporary" not in extra:
                indexes[str(name)] = Index(str(key), unique=False)
        return indexes

    def _sql_table(self) -> str:
        return f"{quoted(self.server.database)}.{quoted(self.table)}"

    def _from(self, column: str | None) -> str:
        """By its index: for a tenth of a table the server would rather read and sort all of it, for every slice."""
        if column is None or not self._may_force:
            return self._sql_table()
        return f"{self._sql_table()} FORCE INDEX ({quoted(self.indexes[column].name)})"

    # values as SQL

    def _text(self, column: Column) -> str:
        name = quoted(column.name)
        if column.kind == "integer" and PADDED.search(column.type):
            return f"CAST({name} AS CHAR)"
        if column.kind in ("integer", "binary") or column.name in self._is_utf8:
            return name
        if column.kind == "bits":
            return f"CAST({name} AS UNSIGNED)"
        return f"CONVERT({name} USING utf8mb4)" if column.kind in ("text", "names") else f"CAST({name} AS CHAR)"

    def _shown(self, column: Column) -> str:
        if column.kind == "bits":
            return f"CAST({quoted(column.name)} AS UNSIGNED)"
        return f"CONVERT({quoted(column.name)} USING utf8mb4)"

    def _numbered(self, column: Column) -> str:
        prefix = f"{self.table}#".encode().hex()
        name = quoted(column.name)
        key = f"CONVERT({name} USING utf8mb4)" if column.kind == "text" else self.literals.shown(column, name)
        return f"CAST(CONCAT(_utf8mb4 X'{prefix}', {key}) AS BINARY)"

    def _time_read(self, column: Column) -> str:
        return quoted(column.name)

    def _microseconds(self, column: Column) -> str:
        """A time as a number since 1970; null for those that no calendar has."""
        return f"TIMESTAMPDIFF(MICROSECOND, _utf8mb4 X'{b'1970-01-01'.hex()}', {quoted(column.name)})"

    def _sql(self, names: Sequence[str], bounds: Bounds, where: str, *, exact: bool) -> str:
        """`exact`: with texts as bytes, of which a wrong one costs its row and not the piece, times as numbers, and a
        last column that says which of them are none."""
        columns = [self._expression(name) for name in names]
        if exact:
            columns = [
                f"CAST({sql} AS BINARY)" if self.roles.get(name) in self._are_texts else sql
                for name, sql in zip(names, columns, strict=True)
            ]
        if exact and self._time and "post_time" in names:
            microseconds = self._microseconds(self._time)
            shown = f"CONCAT(_utf8mb4 X'{NOT_A_TIME.encode().hex()}', CAST({quoted(self._time.name)} AS CHAR))"
            columns[names.index("post_time")] = microseconds
            columns.append(f"CASE WHEN {microseconds} IS NULL THEN {shown} END")
        listed = ", ".join(f"{column} AS c{i}" for i, column in enumerate(columns))
        table, condition = self._from(self._ranged(bounds[:1])), self._condition(bounds, where)
        return f"SELECT {listed} FROM {table} WHERE {condition}{self._order(bounds)}"

    # reading

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        names, (bounds, where) = self._names(selection), self._conditions(partition, selection)
        if self._ranged(bounds):
            return rebatched(self._pieces(names, bounds, where, partition))
        return rebatched(self._stream(names, bounds, where, partition))

    def _pieces(
        self, names: Sequence[str], bounds: Bounds, where: str, partition: Partition
    ) -> Iterator[pa.RecordBatch]:
        """A slice by an index, as many rows at once as have about `PIECE_BYTES`."""
        rest: Bounds | None = bounds
        n_left, first_row = partition.n_rows, partition.slice["first_row"]
        while rest is not None:
            piece, rest, size = rest, None, max(1, int(PIECE_BYTES / self._row_bytes))
            if n_left > size:
                with self._session() as rows:
                    piece, rest = self._slicer(rows, where, self._ranged(piece[:1])).piece(piece, size)
            batches = self._fetch(names, piece, where)
            n_rows = sum(map(len, batches))
            self._learn(n_rows, sum(batch.nbytes for batch in batches))
            n_left -= n_rows
            while batches:
                columns = batches.pop(0).columns
                yield self._canonical(names, columns, first_row)
                first_row += len(columns[0])

    def _learn(self, n_rows: int, n_bytes: int) -> None:
        if n_rows:
            self._row_bytes = max(n_bytes / n_rows, self._row_bytes / GROWTH, 1)

    def _fetch(self, names: Sequence[str], bounds: Bounds, where: str) -> list[pa.RecordBatch]:
        """The rows, as the driver gives them. It panics on times that no calendar has; then all is read exactly."""
        sql = self._sql(names, bounds, where, exact=self._is_exact)
        try:
            return self._asked(sql)
        except DriverPanic as panic:
            if self._is_exact:
                raise BadInput(f"{self.name} holds a value that the driver cannot read ({panic})") from panic
        self._is_exact = True
        return self._fetch(names, bounds, where)

    def _asked(self, sql: str) -> list[pa.RecordBatch]:
        with self.gate:
            return read_at_once(self.server, sql, self._settings, self.spec.read_timeout_s)

    def _stream(
        self, names: Sequence[str], bounds: Bounds, where: str, partition: Partition
    ) -> Iterator[pa.RecordBatch]:
        """Rows that no index tells apart, one after another through one answer; slower, and as bounded."""
        from pymysql.cursors import SSCursor

        sql = self._sql(names, bounds, where, exact=True)
        first_row, n_columns = (
            partition.slice["first_row"],
            len(names) + (1 if self._time and "post_time" in names else 0),
        )
        with self.gate, self._connection(cursorclass=SSCursor, use_unicode=False, conv={}) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            while len((columns := fetched(cursor, n_columns, range(n_columns)))[0]):
                arrays = [pa.array(columns.pop(0), pa.large_binary()) for _ in range(n_columns)]
                yield self._canonical(names, arrays, first_row)
                first_row += len(arrays[0])

    def _canonical(self, names: Sequence[str], columns: Sequence[pa.Array], first_row: int) -> pa.RecordBatch:
        arrays = list(columns[: len(names)])
        if self._time and "post_time" in names:
            arrays[names.index("post_time")] = _times(arrays[names.index("post_time")])
        return self._batch(names, arrays, first_row, columns[len(names)] if len(columns) > len(names) else None)


def _times(column: pa.Array) -> pa.Array:
    if pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string()).cast(pa.int64())
    return column.cast(pa.timestamp("us"))


def _kind(data_type: Any) -> str:
    return KINDS.get(_string(data_type).lower(), "other")


def _charset(name: Any) -> str:
    """As an introducer of a literal; it stands in SQL, so that it has to be a name."""
    charset = _string(name) if name is not None else "binary"
    if not charset.isalnum():
        raise BadInput(f"a column has the character set {charset!r}, which is not known here")
    return charset


def _string(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
