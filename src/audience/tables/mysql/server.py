"""A MariaDB or MySQL server: its URL, connections, errors as ours, and SQL text that is safe.

Metadata, planning and writing go through PyMySQL; only bulk reading goes through connectorx (see `mysql`)."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from audience.errors import AudienceError, BadInput, NotFound, Transient

DEFAULT_PORT = 3306
CONNECT_TIMEOUT_S = 10
OPTIONS = ("ssl", "ssl_ca")
GONE = {2002, 2003, 2006, 2013, 2055, 1040, 1053, 1077, 1079, 1129, 1158, 1159, 1160, 1161, 1203, 1226, 1317, 1927}
BUSY = {1205, 1213, 1637}
FULL = {1021, 1026, 1030, 1114, 3675}
MISSING = {1049, 1146, 1051, 1054}
REFUSED = {1044, 1045, 1142, 1143, 1227, 1698, 3118}
NOT_GRANTED = {1142, 1143, 1227}
TOO_SLOW = {1969, 3024}
SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
IDLE_S = 300


@dataclass(frozen=True)
class MysqlServer:
    """Where a server is and who asks. `database` may be empty. `tls`: the connection is encrypted; `ca`: and the
    server's certificate is checked against this file. Never shown with the password: see `shown`."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: bool = False
    ca: str | None = None

    @classmethod
    def at(cls, url: str) -> "MysqlServer":
        """Of `mysql://user:password@host:port/database?ssl_ca=FILE`. Raises BadInput."""
        try:
            parts = urlsplit(url)
            port = parts.port or DEFAULT_PORT
            if (
                "@" in parts.path + parts.query + parts.fragment
            ):  # the password ended the address, and pieces of it would be shown
                raise ValueError(url)
        except ValueError:
            special = "special characters in a password are written as %XX (@ as %40, / as %2F, # as %23)"
            raise BadInput(f"the URL cannot be read: {special}") from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = [name for name in options if name not in OPTIONS]
        if unknown or not parts.hostname:
            wrong = f"it has the unknown option {unknown[0]!r}; known: {', '.join(OPTIONS)}" if unknown else "no host"
            raise BadInput(f"the URL of a server looks like mysql://user@host:3306/schema?ssl=true: {wrong}")
        ca = options.get("ssl_ca")
        return cls(
            parts.hostname,
            port,
            unquote(parts.username or "root"),
            unquote(parts.password or ""),
            unquote(parts.path.lstrip("/")),
            tls=ca is not None or options.get("ssl", "false").lower() in ("1", "true", "yes"),
            ca=ca,
        )

    @property
    def shown(self) -> str:
        """For messages: no password, no user."""
        return f"{self.host}:{self.port}/{self.database}"

    @property
    def url(self) -> str:
        """For drivers that take a URL. Holds the password: never shown, logged or stored."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"mysql://{credentials}@{host}:{self.port}/{quote(self.database, safe='')}"

    @contextlib.contextmanager
    def session(self, connection_class: type | None = None, **options: Any) -> Iterator[Any]:
        """A PyMySQL connection in autocommit mode, utf8mb4, whose errors are ours; `options` as PyMySQL has them."""
        import pymysql

        tls = {"ssl": self._context()} if self.tls else {"ssl_disabled": True}
        with self.mapped_errors():
            connection = (connection_class or pymysql.Connection)(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                database=self.database or None,
                **{"charset": "utf8mb4", "autocommit": True, "connect_timeout": CONNECT_TIMEOUT_S, **tls, **options},
            )
            try:
                yield connection
            finally:
                with contextlib.suppress(Exception):  # it may be broken; what matters was raised already
                    connection.close()

    @contextlib.contextmanager
    def writing(self, **options: Any) -> Iterator[Any]:
        """A session whose meaning of SQL does not depend on how the server is set up."""
        with self.session(sql_mode=SQL_MODE, **options) as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Iterator[Any]:
        """Everything or nothing. The server takes the locks of a session that is silent for `IDLE_S`."""
        with self.writing(**options) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SET SESSION wait_timeout = {IDLE_S}")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with contextlib.suppress(Exception):  # a lost connection is rolled back by the server
                    connection.rollback()
                raise

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise BadInput(f"the certificate file {self.ca} cannot be used: {error.strerror or error}") from None
        if self.ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    @contextlib.contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """PyMySQL's errors as ours; no message shows a password."""
        import pymysql

        try:
            yield
        except pymysql.err.MySQLError as error:
            raise self.as_ours(error) from error

    def as_ours(self, error: Exception) -> AudienceError:
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        reason = str(error.args[1] if len(error.args) > 1 else error).strip() or type(error).__name__
        where = f"the server {self.shown}"
        if number in GONE or number == 0:
            return Transient(f"{where} cannot be reached now ({number}: {reason})")
        if number in BUSY:
            return Transient(f"{where} was waiting for another transaction ({number}: {reason})")
        if number in FULL:
            return Transient(f"{where} has no space left ({number}: {reason}): free some and it goes on")
        if number in MISSING:
            return NotFound(f"{where}: {reason}")
        if number in REFUSED:
            hint = "; `audience doctor` says what to grant" if number in NOT_GRANTED else ""
            return BadInput(f"{where} refuses: {reason}{hint}")
        if number in TOO_SLOW:
            return BadInput(f"{where} stopped a statement that took too long ({reason}): raise statement_timeout_s")
        return BadInput(f"{where}: {reason} ({number})")


def quoted(name: str) -> str:
    """An identifier as SQL; any name is safe in it."""
    if "\0" in name or not name:
        raise BadInput("a table or column name is empty or holds a NUL character")
    return "`" + name.replace("`", "``") + "`"


def plain_values() -> dict[Any, Any]:
    """For a session that reads rows: numbers as such, times as text."""
    from pymysql.constants import FIELD_TYPE
    from pymysql.converters import encoders

    return {**encoders, FIELD_TYPE.LONGLONG: int, FIELD_TYPE.DOUBLE: float}


def text_literal(text: str) -> str:
    """A text as SQL that means the same in every sql_mode: hexadecimal, no quote and no backslash in it."""
    return f"CONVERT(X'{text.encode().hex()}' USING utf8mb4)"
