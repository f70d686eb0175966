"""Bulk reading from a MariaDB or MySQL server, by connectorx.

It fetches a whole answer before it returns and takes no parameters: who asks keeps answers small, and writes values as
literals."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import pyarrow as pa

from audience.databases.mysql import CONNECT_TIMEOUT_S
from audience.tables.mysql.server import MysqlServer
from audience.tables.sql.read_timeout import read_timeout

SHOWN_CHARACTERS = 300
ERROR_NUMBER = re.compile(r"ERROR (\d+) \(\w+\): (.*?)(?: \}|$)", re.DOTALL)


class DriverPanic(Exception):
    """The driver gave up on a value."""


def read_at_once(server: MysqlServer, sql: str, settings: Sequence[str], timeout_s: float) -> list[pa.RecordBatch]:
    """Returns all rows of a query, which runs after the statements `settings`. Raises Transient when the server is
    silent for `timeout_s`, and DriverPanic on a value that the driver does not know."""
    import connectorx

    with read_timeout(server.host, server.port, timeout_s):
        try:
            answer = connectorx.read_sql(_url(server), sql, return_type="arrow", pre_execution_query=[*settings])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic is no Exception
            raise _as_ours(server, error) from None  # its own text may hold values of rows
    batches: list[pa.RecordBatch] = answer.to_batches()
    return batches


def _as_ours(server: MysqlServer, error: BaseException) -> Exception:
    if type(error).__name__ == "PanicException":
        return DriverPanic("a time or a number beyond what it knows")
    number, reason = 0, str(error)
    if match := ERROR_NUMBER.search(reason):
        number, reason = int(match[1]), match[2]
    for secret in (server.password, quote(server.password, safe="")):
        reason = reason.replace(secret, "***") if secret else reason
    return server.as_ours(RuntimeError(number, reason[:SHOWN_CHARACTERS]))


def _url(server: MysqlServer) -> str:
    """Returns the URL as connectorx takes it. Not through a local socket, which it prefers: who may come in that way
    may differ."""
    options = {"prefer_socket": "false", "tcp_connect_timeout_ms": str(CONNECT_TIMEOUT_S * 1000)}
    if server.tls:
        options["ssl-mode"] = "VERIFY_IDENTITY" if server.ca else "REQUIRED"
    if server.ca:
        options["ssl-ca"] = server.ca
    return f"{server.url}?{urlencode(options)}"
