"""Whether a PostgreSQL database can be a target."""

import uuid
from collections.abc import Iterator
from typing import Any

from audience.databases.postgres import quoted
from audience.errors import AudienceError
from audience.tables.findings import Finding, check_clock, judged
from audience.tables.postgres.server import PostgresServer

RIGHTS = "USAGE and CREATE on the schema, TEMPORARY on the database"


def check(shown: str, url: str) -> Iterator[Finding]:
    """Connects, tries with a table of its own what a run does, and looks at what may be wrong."""
    advice = f"is it running, are host, port, user and password right? Grant CONNECT on the database, and {RIGHTS}"
    return judged(shown, advice, lambda: _check(shown, PostgresServer.at(url)))


def _check(shown: str, server: PostgresServer) -> Iterator[Finding]:
    with server.session() as connection:
        yield Finding(shown, "ok", f"version {_one(connection, 'SHOW server_version')}")
        clock = "SELECT extract(epoch FROM clock_timestamp())"
        yield check_clock(shown, lambda: float(_one(connection, clock)))
        yield _check_rights(shown, server, connection)
        yield _check_encoding(shown, connection)


def _check_rights(shown: str, server: PostgresServer, connection: Any) -> Finding:
    """Makes a table, copies a row into it and removes it, in a transaction that is rolled back."""
    name = f"audience_probe_{uuid.uuid4().hex[:12]}"
    table = f"{quoted(server.schema)}.{quoted(name)}"
    try:
        with server.mapped_errors(), connection.transaction(force_rollback=True), connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table} (id INT)")
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(b"1\n")
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute(f"CREATE TEMP TABLE {quoted(name)} (id INT)")
    except AudienceError as error:
        return Finding(f"{shown}: rights", "wrong", str(error), server.grants(connection) or "")
    return Finding(f"{shown}: rights", "ok", RIGHTS)


def _check_encoding(shown: str, connection: Any) -> Finding:
    encoding = _one(connection, "SHOW server_encoding")
    if encoding == "UTF8":
        return Finding(f"{shown}: encoding", "ok", encoding)
    advice = "create the database anew with ENCODING 'UTF8' TEMPLATE template0"
    return Finding(f"{shown}: encoding", "wrong", f"{encoding} cannot hold every character", advice)


def _one(connection: Any, sql: str) -> Any:
    return connection.execute(sql).fetchone()[0]
