"""A PostgreSQL server: its URL, connections, errors as ours, and SQL text that is safe.

Metadata, planning and writing go through psycopg; only bulk reading goes through ADBC (see `postgres`)."""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from audience.errors import AudienceError, BadInput, NotFound, Transient

DEFAULT_PORT = 5432
CONNECT_TIMEOUT_S = 10
OPTIONS = ("sslmode", "sslrootcert", "schema")
GONE = ("08", "57P01", "57P02", "57P03", "57P04", "53300", "55P03")
BUSY = ("40001", "40P01")
FULL = ("53100", "53200", "58030")
MISSING = ("42P01", "42703", "3D000", "3F000")
REFUSED = ("28", "42501")
TOO_SLOW = "57014"
IDLE_S = 300
LOCK_WAIT_S = 60
BEGINNING = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'",
    f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'",
)
AT_THE_DOOR = {
    "FATAL:  database": "3D000",
    "FATAL:  role": "28000",
    "FATAL:  permission denied": "42501",
    "pg_hba.conf": "28000",
    "authentication failed": "28P01",
    "no password supplied": "28P01",
}
"""What a server says to one who may not come in: the driver does not tell its SQLSTATE."""


@dataclass(frozen=True)
class PostgresServer:
    """Where a database is and who asks. `schema` holds the tables. Never shown with the password: see `shown`."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    schema: str = "public"
    tls: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, url: str) -> "PostgresServer":
        """Of `postgresql://user:password@host:port/database?schema=public&sslmode=require`. Raises BadInput."""
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
        database = unquote(parts.path.lstrip("/"))
        wrong = next((f"it has the unknown option {name!r}" for name in options if name not in OPTIONS), None)
        wrong = wrong or ("it has no host" if not parts.hostname else None if database else "it names no database")
        if wrong or not parts.hostname:
            raise BadInput(f"the URL of a server looks like postgresql://user@host:5432/database: {wrong}")
        return cls(
            parts.hostname,
            port,
            unquote(parts.username or "postgres"),
            unquote(parts.password or ""),
            database,
            options.pop("schema", "") or "public",
            options,
        )

    @property
    def shown(self) -> str:
        """For messages: no password, no user."""
        return f"{self.host}:{self.port}/{self.database}"

    @property
    def url(self) -> str:
        """For drivers that take a URL. Holds the password: never shown, logged or stored."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        credentials = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        options = urlencode({"connect_timeout": str(CONNECT_TIMEOUT_S), **self.tls})
        return f"postgresql://{credentials}@{host}:{self.port}/{quote(self.database, safe='')}?{options}"

    @contextlib.contextmanager
    def session(self, **options: Any) -> Iterator[Any]:
        """A psycopg connection in autocommit mode whose errors are ours; `options` as psycopg has them."""
        import psycopg

        with self.mapped_errors():
            connection = psycopg.connect(
                self.url, autocommit=True, application_name="audience", client_encoding="utf8", **options
            )
            try:
                yield connection
            finally:
                with contextlib.suppress(Exception):  # it may be broken; what matters was raised already
                    connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """A session in which plain names mean our schema."""
        with self.session() as connection:
            connection.execute("SELECT set_config('search_path', %s, false)", (quoted(self.schema),))
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """Everything or nothing. The server takes the locks of a session that is silent for `IDLE_S`."""
        with self.writing() as connection, connection.transaction():
            for statement in BEGINNING:
                connection.execute(statement)
            yield connection

    def check_schema(self, connection: Any) -> None:
        if connection.execute("SELECT current_schema()").fetchone() == (None,):
            raise NotFound(f"there is no schema {self.schema} in {self.shown} that this user may use: create it first")

    def stream(self, sql: str, *settings: str) -> Generator[Any, None, None]:
        """Arrow batches of a query as the server sends them; `sql` takes no parameters. `settings` come before it."""
        from adbc_driver_manager import Error
        from adbc_driver_postgresql import dbapi

        try:
            with dbapi.connect(self.url) as connection, connection.cursor() as cursor:
                for statement in (*settings, sql):
                    cursor.execute(statement)
                yield from cursor.fetch_record_batch()
        except Error as error:
            raise self.as_ours(error, error.sqlstate) from error

    @contextlib.contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """psycopg's errors as ours; no message shows a password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise self.as_ours(error, error.sqlstate) from error

    def as_ours(self, error: Exception, state: str | None) -> AudienceError:
        """`state`: the SQLSTATE; None when the server said nothing."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"the server {self.shown}"
        if state is None:
            state = next((code for text, code in AT_THE_DOOR.items() if text in reason), None)
        if state is None or state.startswith(GONE):
            return Transient(f"{where} cannot be reached now ({reason})")
        if state in BUSY:
            return Transient(f"{where} was waiting for another transaction ({reason})")
        if state in FULL:
            return Transient(f"{where} has no space left ({reason}): free some and it goes on")
        if state in MISSING:
            return NotFound(f"{where}: {reason}")
        if state.startswith(REFUSED):
            return BadInput(f"{where} refuses: {reason}")
        if state == TOO_SLOW:
            return BadInput(f"{where} stopped a statement that took too long ({reason}): raise statement_timeout_s")
        return BadInput(f"{where}: {reason} ({state})")


def quoted(name: str) -> str:
    """An identifier as SQL; any name is safe in it."""
    if "\0" in name or not name:
        raise BadInput("a table or column name is empty or holds a NUL character")
    return '"' + name.replace('"', '""') + '"'
