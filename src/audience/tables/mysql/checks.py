"""Whether a MariaDB or MySQL database can be a target, and a fast one."""

from collections.abc import Iterator
from typing import Any

from audience.databases.mysql import quoted
from audience.errors import AudienceError, BadInput, NotFound
from audience.tables.findings import Finding, check_clock, judged
from audience.tables.mysql.load import NO_LOCAL_FILES, STREAM, LoadingConnection
from audience.tables.mysql.server import RIGHTS, MysqlServer
from audience.tables.sql.schema import OURS

FOR_PUBLICATIONS = ("ALTER", "DROP")
PACKET_BYTES = 16 * 2**20


def check(shown: str, url: str) -> Iterator[Finding]:
    """Connects, tries with a table of its own what a run does, and looks at what may be slow or wrong."""
    advice = "is it running, are host, port, user and password right?"
    return judged(shown, advice, lambda: _check(shown, MysqlServer.at(url)))


def _check(shown: str, server: MysqlServer) -> Iterator[Finding]:
    advice = server.grants()
    try:
        yield from _check_database(shown, server, advice)
    except NotFound as error:
        yield Finding(shown, "wrong", str(error), f"CREATE DATABASE {quoted(server.database)}; {advice}")
    except BadInput as error:
        yield Finding(shown, "wrong", str(error), advice)


def _check_database(shown: str, server: MysqlServer, advice: str) -> Iterator[Finding]:
    with server.session(connection_class=LoadingConnection) as connection:
        cursor = connection.cursor()
        yield Finding(shown, "ok", f"version {_one(cursor, 'SELECT VERSION()')}")
        yield check_clock(shown, lambda: float(_one(cursor, "SELECT UNIX_TIMESTAMP(SYSDATE(6))")))
        yield from _check_rights(shown, server, connection, advice)
        yield from _check_packets(shown, cursor)
        yield from _check_collations(shown, cursor)


def _check_rights(shown: str, server: MysqlServer, connection: LoadingConnection, advice: str) -> Iterator[Finding]:
    """Makes a table, loads a row into it, changes and removes it."""
    name = "audience_probe"
    cursor = connection.cursor()
    steps: list[tuple[str, str]] = [
        ("CREATE", f"CREATE TABLE IF NOT EXISTS {quoted(name)} (id INT) COMMENT = '{OURS}'"),
        ("INSERT", f"INSERT INTO {quoted(name)} VALUES (1)"),
        ("SELECT", f"SELECT * FROM {quoted(name)}"),
        ("UPDATE", f"UPDATE {quoted(name)} SET id = 2"),
        ("CREATE TEMPORARY TABLES", f"CREATE TEMPORARY TABLE {quoted(name + 't')} (id INT)"),
        ("DELETE", f"DELETE FROM {quoted(name)}"),
        ("ALTER", f"RENAME TABLE {quoted(name)} TO {quoted(name + 'r')}, {quoted(name + 'r')} TO {quoted(name)}"),
    ]
    missing = [right for right, sql in steps if not _works(server, cursor, sql)]
    if "CREATE" not in missing:
        yield _check_loading(shown, connection, name)
        if not _works(server, cursor, f"DROP TABLE {quoted(name)}"):
            missing.append("DROP")
    needed = [right for right in missing if right not in FOR_PUBLICATIONS]
    if needed:
        said = f"missing: {', '.join(needed)}" if "CREATE" not in needed else "no table can be created"
        yield Finding(f"{shown}: rights", "wrong", said, advice)
    elif missing:
        said = f"enough for runs; publications and cleaning up need {', '.join(missing)}: the table {name} stays"
        yield Finding(f"{shown}: rights", "warning", said, advice)
    else:
        yield Finding(f"{shown}: rights", "ok", RIGHTS)


def _check_loading(shown: str, connection: LoadingConnection, table: str) -> Finding:
    what, slower = f"{shown}: LOAD DATA LOCAL", "rows are written with INSERT, several times slower"
    from pymysql import err

    try:
        connection.load(f"LOAD DATA LOCAL INFILE '{STREAM}' INTO TABLE {quoted(table)}", b"1\n")
    except err.MySQLError as error:
        if not (error.args and error.args[0] in NO_LOCAL_FILES):
            raise
        return Finding(what, "warning", f"forbidden: {slower}", "SET GLOBAL local_infile = ON, and in its my.cnf")
    return Finding(what, "ok", "allowed")


def _check_packets(shown: str, cursor: Any) -> Iterator[Finding]:
    size = int(_one(cursor, "SELECT @@max_allowed_packet"))
    said = f"max_allowed_packet is {size / 2**20:g} MiB"
    if size < PACKET_BYTES:
        advice = f"SET GLOBAL max_allowed_packet = {PACKET_BYTES}: marks of large partitions must fit"
        yield Finding(f"{shown}: packets", "warning", said, advice)
    else:
        yield Finding(f"{shown}: packets", "ok", said)


def _check_collations(shown: str, cursor: Any) -> Iterator[Finding]:
    """Looks for tables of ours that somebody has converted: authors that differ in case or padding would be one."""
    cursor.execute(
        "SELECT DISTINCT t.table_name, c.collation_name FROM information_schema.tables t "
        "JOIN information_schema.columns c ON c.table_schema = t.table_schema AND c.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND t.table_comment = %s AND c.collation_name IS NOT NULL "
        "AND c.collation_name NOT IN ('utf8mb4_bin', 'utf8mb4_nopad_bin', 'utf8mb4_0900_bin')",
        (OURS,),
    )
    for table, collation in cursor.fetchall():
        advice = f"ALTER TABLE {quoted(table)} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        yield Finding(f"{shown}: {table}", "wrong", f"its collation {collation} takes a and A for the same", advice)


def _works(server: MysqlServer, cursor: Any, sql: str) -> bool:
    try:
        with server.mapped_errors():
            cursor.execute(sql)
    except AudienceError:
        return False
    return True


def _one(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]
