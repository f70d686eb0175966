"""A MariaDB or MySQL server: its sessions and transactions, and its errors as ours.

Metadata, planning and writing go through PyMySQL; only bulk reading goes through connectorx (see `source`)."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from audience.databases import faults, mysql
from audience.databases.mysql import Address
from audience.errors import AudienceError

IDLE_S = 300
RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, CREATE TEMPORARY TABLES"
"""What runs and publications need in their database."""


class MysqlServer(Address):
    """A server, and how it is spoken to."""

    @classmethod
    def at(cls, url: str) -> "MysqlServer":
        """Returns the server of a URL; nothing is connected yet. Raises BadInput."""
        return cls.parse(url)

    @contextlib.contextmanager
    def session(self, connection_class: type | None = None, **options: Any) -> Iterator[Any]:
        """Opens a PyMySQL connection in autocommit mode, utf8mb4, whose errors are ours; `options` as PyMySQL has
        them."""
        import pymysql

        with self.mapped_errors():
            connection = (connection_class or pymysql.Connection)(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password.encode(),  # a text it would encode as Latin-1, and fail with what is not
                database=self.database or None,
                **{
                    "charset": "utf8mb4",
                    "autocommit": True,
                    "connect_timeout": mysql.CONNECT_TIMEOUT_S,
                    **self.tls_arguments(),
                    **options,
                },
            )
            try:
                yield connection
            finally:
                with contextlib.suppress(Exception):  # it may be broken; what matters was raised already
                    connection.close()

    def grants(self) -> str:
        """Returns the statement that gives our account, as the server knows it, all `RIGHTS`; also where the account
        may not even use the database."""
        with replace(self, database="").session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            user, _, host = cursor.fetchone()[0].rpartition("@")
            account = f"{connection.escape(user)}@{connection.escape(host)}"
        return f"GRANT {RIGHTS} ON {mysql.quoted(self.database)}.* TO {account}"

    @contextlib.contextmanager
    def writing(self, **options: Any) -> Iterator[Any]:
        """Opens a session whose meaning of SQL does not depend on how the server is set up."""
        with self.session(sql_mode=mysql.SQL_MODE, **options) as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Iterator[Any]:
        """Does everything or nothing. The server takes the locks of a session that is silent for `IDLE_S`."""
        with self.writing(**options) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SET SESSION wait_timeout = {IDLE_S}")
            # who waited for a lock has to see what was committed meanwhile, not a snapshot from before
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with contextlib.suppress(Exception):  # a lost connection is rolled back by the server
                    connection.rollback()
                raise

    @contextlib.contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """Raises PyMySQL's errors as ours; no message shows a password."""
        import pymysql

        try:
            yield
        except pymysql.err.MySQLError as error:
            raise self.as_ours(error) from error

    def as_ours(self, error: Exception) -> AudienceError:
        """Returns what an error of the driver means to whoever asked."""
        number, reason = mysql.said(error)
        fault = mysql.fault_of(number)
        said = f"{number}: {reason}" if fault in ("gone", "busy", "full") else reason
        hint = "; `audience doctor` says what to grant" if number in mysql.NOT_GRANTED else ""
        return faults.as_ours(fault, f"the server {self.shown}", said, number, hint)


def plain_values() -> dict[Any, Any]:
    """Returns converters for a session that reads rows: numbers as such, times as text."""
    from pymysql.constants import FIELD_TYPE
    from pymysql.converters import encoders

    return {**encoders, FIELD_TYPE.LONGLONG: int, FIELD_TYPE.DOUBLE: float}
