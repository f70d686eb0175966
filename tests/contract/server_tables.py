"""Tables on servers for the suite of sources, written as users have them. They stay until the suite ends."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from audience.databases import mysql, postgres
from audience.tables.mysql import server as mysql_server
from audience.tables.postgres import server as postgres_server

Row = dict[str, Any]


def _is_bytes(rows: Sequence[Row], column: str) -> bool:
    return any(isinstance(row.get(column), bytes) for row in rows)


def _time(value: Any) -> Any:
    """A text that is no time becomes the zero date, as the server makes of it outside of strict mode."""
    try:
        return value if value is None else str(dt.datetime.fromisoformat(value))
    except ValueError:
        return "0000-00-00 00:00:00"


class MysqlTable:
    """Texts and times as MariaDB has them, without any index."""

    fixture = "shared_mysql_url"
    time = "VARCHAR(50)"
    id_type = "VARCHAR(100)"
    keys = ""
    view = False

    def write(self, url: str, rows: Sequence[Row], columns: Sequence[str], table: str) -> str:
        quoted = mysql.quoted
        types = [f"{quoted(c)} {self.type_of(c, _is_bytes(rows, c))}" for c in columns]
        keys = [k for k in self.keys.split(";") if k and all(c in columns for c in ("id", "post_time") if c in k)]
        with mysql_server.MysqlServer.at(url).session() as connection, connection.cursor() as cursor:
            cursor.execute("SET sql_mode = '', time_zone = '+08:00'")
            cursor.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
            cursor.execute(f"CREATE TABLE {quoted(table)} ({', '.join([*types, *keys])}) DEFAULT CHARSET utf8mb4")
            self.insert(cursor, table, rows, columns)
            if self.view:
                cursor.execute(f"CREATE OR REPLACE VIEW seen AS SELECT * FROM {quoted(table)}")
        return url

    def insert(self, cursor: Any, table: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
        values = [[self.value(c, row.get(c)) for c in columns] for row in rows]
        if values:
            places = ", ".join(["%s"] * len(columns))
            cursor.executemany(f"INSERT INTO {mysql.quoted(table).replace('%', '%%')} VALUES ({places})", values)

    def type_of(self, column: str, is_bytes: bool) -> str:
        if column == "id":
            return self.id_type
        return self.time if column == "post_time" else "LONGBLOB" if is_bytes else "LONGTEXT"

    def value(self, column: str, value: Any) -> Any:
        return value if column != "post_time" or self.time.startswith("VARCHAR") else _time(value)


class MysqlIndexed(MysqlTable):
    """A key, and an index on a column of times."""

    time = "DATETIME(6)"
    keys = "PRIMARY KEY (id);KEY by_time (post_time)"


class MysqlLoose(MysqlTable):
    """Times, and ids that neither are unique nor tell capitals and spaces apart."""

    time = "DATETIME(6) NULL"
    keys = "KEY by_id (id);KEY by_time (post_time)"


class MysqlView(MysqlIndexed):
    view = True


class PostgresTable:
    fixture = "shared_postgres_url"
    time = "text"
    keys = ""
    indexes: tuple[str, ...] = ()
    view = False

    def write(self, url: str, rows: Sequence[Row], columns: Sequence[str], table: str) -> str:
        quoted = postgres.quoted
        types = [f"{quoted(c)} {self.type_of(c, _is_bytes(rows, c))}" for c in columns]
        keys = [k for k in (self.keys,) if k and "id" in columns]
        with postgres_server.PostgresServer.at(url).session() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {quoted(table)} CASCADE")
            connection.execute(f"CREATE TABLE {quoted(table)} ({', '.join([*types, *keys])})")
            for column in self.indexes:
                if column in columns:
                    connection.execute(f"CREATE INDEX ON {quoted(table)} ({quoted(column)})")
            self.insert(connection, table, rows, columns)
            if self.view:
                connection.execute(f"CREATE VIEW seen AS SELECT * FROM {quoted(table)}")
        return url

    def insert(self, connection: Any, table: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
        with connection.cursor() as cursor, cursor.copy(f"COPY {postgres.quoted(table)} FROM STDIN") as copy:
            for row in rows:
                copy.write_row([self.value(c, row.get(c)) for c in columns])

    def type_of(self, column: str, is_bytes: bool) -> str:
        return self.time if column == "post_time" else "bytea" if is_bytes else "text"

    def value(self, column: str, value: Any) -> Any:
        if column != "post_time" or self.time == "text" or value is None:
            return value
        return "infinity" if _time(value).startswith("0000") else value


class PostgresIndexed(PostgresTable):
    time = "timestamp"
    keys = "PRIMARY KEY (id)"
    indexes = ("post_time",)


class PostgresLoose(PostgresTable):
    """Moments, and ids that are not unique."""

    time = "timestamptz"
    indexes = ("id", "post_time")

    def value(self, column: str, value: Any) -> Any:
        value = super().value(column, value)
        return f"{value}+00" if column == "post_time" and value and value != "infinity" else value


class PostgresView(PostgresIndexed):
    view = True


SERVER_KINDS: dict[str, Any] = {
    "mysql": MysqlTable(),
    "mysql-indexed": MysqlIndexed(),
    "mysql-loose": MysqlLoose(),
    "mysql-view": MysqlView(),
    "postgres": PostgresTable(),
    "postgres-indexed": PostgresIndexed(),
    "postgres-loose": PostgresLoose(),
    "postgres-view": PostgresView(),
}
