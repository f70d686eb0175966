"""PostgreSQL as a source: psycopg looks and plans, ADBC reads through COPY, as a stream of Arrow batches.

COPY takes no parameters; keys are the only values in its SQL (`literal`)."""

import contextlib
import json
import re
from collections.abc import Container, Generator, Iterator, Sequence
from typing import Any

import pyarrow as pa

from audience.databases.postgres import TOO_SLOW, quoted
from audience.errors import NotFound
from audience.tables.base import Partition, Selection, SourceSpec
from audience.tables.batches import BATCH_BYTES, NOT_A_TIME, rebatched
from audience.tables.postgres.server import PostgresServer
from audience.tables.sql.read_timeout import read_timeout, sockets
from audience.tables.sql.slices import Bounds, Column
from audience.tables.sql.source import Index, Rows, ServerSource

KINDS = {
    **dict.fromkeys(("int2", "int4", "int8"), "integer"),
    **dict.fromkeys(("text", "varchar", "bpchar"), "text"),
    **dict.fromkeys(("timestamp", "date"), "time"),
    "timestamptz": "instant",
    "numeric": "decimal",
    "uuid": "uuid",
}
PLAIN_TYPES = ("int2", "int4", "int8", "text", "varchar", "bytea")
INDEX_NAME = re.compile(r'"Index Name": ("(?:[^"\\]|\\.)*")')
SQLSTATE = re.compile(r"SQLSTATE: (\w{5})")
AFTER_LAST_TIME = "10000-01-01 00:00:00"
RELATIONS = "'r', 'v', 'm', 'p', 'f'"
"""Tables, views, materialized views, partitioned and foreign tables."""


class PostgresLiterals:
    """Keys as SQL that means the same under every setting: texts of code points, cast to the column's type."""

    def quoted(self, name: str) -> str:
        return quoted(name)

    def literal(self, column: Column, value: Any) -> str:
        return f"CAST({text_literal(str(value))} AS {column.base})"

    def shown(self, column: Column, expression: str) -> str:
        return expression if column.kind == "integer" else f"CAST({expression} AS text)"


def text_literal(text: str) -> str:
    """A constant of no collation of its own, so that it compares as the column, and its index, does."""
    return "E'" + "".join(f"\\U{ord(character):08x}" for character in text) + "'"


class PostgresSource(ServerSource):
    """A table or view of PostgreSQL."""

    literals = PostgresLiterals()

    def __init__(self, spec: SourceSpec, url: str) -> None:
        self.server = PostgresServer.at(url)
        super().__init__(spec, self.server.shown, (self.server.host, self.server.port))

    def _settings(self) -> Iterator[str]:
        """The same for every session, whatever the server's defaults are."""
        yield "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
        yield "SET TIME ZONE 'UTC'"
        yield "SET DateStyle = 'ISO, YMD'"
        yield "SET bytea_output = 'hex'"
        yield "SET enable_seqscan = off"  # a slice by its index, also where a tenth of the table seems a lot
        if timeout_s := self.spec.statement_timeout_s:
            yield f"SET statement_timeout = {round(timeout_s * 1000)}"

    def _read_timeout(self, before: Container[int]) -> contextlib.AbstractContextManager[None]:
        return read_timeout(self.server.host, self.server.port, self.spec.read_timeout_s, before)

    @contextlib.contextmanager
    def _session(self) -> Iterator[Rows]:
        before = sockets()
        with self.server.session() as connection:

            def rows(sql: str, values: Sequence[Any] | None = None) -> Sequence[Sequence[Any]]:
                with self._read_timeout(before):
                    found: Sequence[Sequence[Any]] = connection.execute(sql, values).fetchall()
                    return found

            for statement in self._settings():
                connection.execute(statement)
            yield rows

    # the table

    def _tables(self, rows: Rows) -> list[str]:
        sql = (
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s"
            f" AND relkind IN ({RELATIONS}) AND has_table_privilege(pg_class.oid, 'SELECT')"
        )
        names = [name for (name,) in rows(sql, (self.server.schema,))]
        if not names and rows("SELECT to_regnamespace(%s)", (quoted(self.server.schema),))[0][0] is None:
            raise NotFound(f"there is no schema {self.server.schema} in {self.place}: name another with ?schema=")
        return names

    def _columns(self, rows: Rows) -> list[Column]:
        found = rows(
            "SELECT attname, format_type(atttypid, atttypmod), typname, attnotnull, t.typnamespace = 11"
            " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace"
            " JOIN pg_type t ON t.oid = atttypid"
            " WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (self.server.schema, self.table),
        )
        return [
            Column(name, shown, KINDS.get(base, "other") if is_built_in else "other", not not_null, base)
            for name, shown, base, not_null, is_built_in in found
        ]

    def _indexes(self, rows: Rows) -> dict[str, Index]:
        found = rows(
            "SELECT i.relname, attname, indisunique AND indnkeyatts = 1 AND attnotnull FROM pg_index"
            " JOIN pg_class i ON i.oid = indexrelid JOIN pg_am m ON m.oid = i.relam"
            " JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]"
            " JOIN pg_opclass o ON o.oid = indclass[0]"
            " WHERE nspname = %s AND c.relname = %s AND indisvalid AND indpred IS NULL AND amname = 'btree'"
            " AND opcdefault AND indcollation[0] = attcollation ORDER BY indisprimary DESC, 3 DESC, 1",
            (self.server.schema, self.table),
        )
        indexes: dict[str, Index] = {}
        for name, column, is_unique in found:
            indexes.setdefault(column, Index(name, is_unique))
        return indexes or self._indexes_below(rows)

    def _indexes_below(self, rows: Rows) -> dict[str, Index]:
        """Of a view: those of its table, where the server can use them for the view."""
        indexes = {}
        rows("SELECT set_config('enable_sort', 'off', false)")
        for name in {self.roles.get("id"), self.roles.get("post_time")} - {None}:
            column = quoted(str(name))
            plan = rows(f"EXPLAIN (FORMAT JSON) SELECT {column} FROM {self._sql_table()} ORDER BY {column} LIMIT 1")
            nodes = json.dumps(plan[0][0])
            if "Sort Key" not in nodes and (match := INDEX_NAME.search(nodes)):
                indexes[str(name)] = Index(json.loads(match[1]), unique=False)
        rows("SELECT set_config('enable_sort', 'on', false)")
        return indexes

    def _sql_table(self) -> str:
        return f"{quoted(self.server.schema)}.{quoted(self.table)}"

    # values as SQL

    def _text(self, column: Column) -> str:
        return quoted(column.name) if column.base in PLAIN_TYPES else self._shown(column)

    def _shown(self, column: Column) -> str:
        return f"CAST({quoted(column.name)} AS text)"

    def _numbered(self, column: Column) -> str:
        return f"CAST({text_literal(self.table + '#')} AS text) || {self._shown(column)}"

    def _is_time(self, column: Column) -> str:
        last = self.literals.literal(column, AFTER_LAST_TIME)
        return f"({super()._is_time(column)} AND {quoted(column.name)} < {last})"

    def _time_read(self, column: Column) -> str:
        wide = "timestamptz" if column.kind == "instant" else "timestamp"
        return f"CASE WHEN {self._is_time(column)} THEN CAST({quoted(column.name)} AS {wide}) END"

    def _sql(self, names: Sequence[str], bounds: Bounds, where: str) -> str:
        """With a last column that says which times are none."""
        columns = [self._expression(name) for name in names]
        if self._time and "post_time" in names:
            shown = f"CAST({text_literal(NOT_A_TIME)} AS text) || {self._shown(self._time)}"
            columns.append(f"CASE WHEN NOT {self._is_time(self._time)} THEN {shown} END")
        listed = ", ".join(f"{column} AS c{i}" for i, column in enumerate(columns))
        return f"SELECT {listed} FROM {self._sql_table()} WHERE {self._condition(bounds, where)}{self._order(bounds)}"

    # reading

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        names, (bounds, where) = self._names(selection), self._conditions(partition, selection)
        return rebatched(self._canonical(names, self._sql(names, bounds, where), partition.slice["first_row"]))

    def _canonical(self, names: Sequence[str], sql: str, first_row: int) -> Iterator[pa.RecordBatch]:
        with contextlib.closing(self._batches(sql)) as batches:
            for batch in batches:
                errors = batch.columns[len(names)] if batch.num_columns > len(names) else None
                yield self._batch(names, batch.columns[: len(names)], first_row, errors)
                first_row += len(batch)

    def _batches(self, sql: str) -> Generator[pa.RecordBatch, None, None]:
        """One answer as it comes, a few megabytes at a time."""
        from adbc_driver_postgresql import StatementOptions, dbapi

        before = sockets()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.gate)
            with self._as_ours(before):
                connection = stack.enter_context(dbapi.connect(self.server.url, autocommit=True))
                cursor = stack.enter_context(connection.cursor())
                for statement in self._settings():
                    cursor.execute(statement)
                cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(BATCH_BYTES)})
                cursor.execute(sql)
                reader = cursor.fetch_record_batch()
            while True:
                with self._as_ours(before):
                    batch = next(reader, None)
                if batch is None:
                    return
                yield batch

    @contextlib.contextmanager
    def _as_ours(self, before: Container[int]) -> Iterator[None]:
        """ADBC's errors as ours; a server that sends nothing is not waited for."""
        from adbc_driver_manager import Error

        try:
            with self._read_timeout(before):
                yield
        except (Error, OSError) as error:  # an OSError where batches are read
            match = SQLSTATE.search(str(error))
            state = getattr(error, "sqlstate", None) or (match[1] if match else None)
            if state is None and "statement timeout" in str(error):
                state = TOO_SLOW
            raise self.server.as_ours(error, state) from None
