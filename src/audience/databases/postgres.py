"""PostgreSQL: what a URL of its may say, TLS, SQL text that is safe, and what its SQLSTATEs mean."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode

from audience.databases import urls
from audience.databases.faults import Fault
from audience.errors import BadInput

SCHEMES = ("postgresql", "postgres")
DEFAULT_PORT = 5432
DEFAULT_USER = "postgres"
TLS_OPTIONS = ("sslmode", "sslrootcert")
OPTIONS = (*TLS_OPTIONS, "schema")
CONNECT_TIMEOUT_S = 10

GONE = ("08", "57P01", "57P02", "57P03", "57P04", "53300", "55P03", "25P03")
"""Beginnings of SQLSTATEs, as in `REFUSED`: the first two characters are the class."""
BUSY = ("40001", "40P01")
FULL = ("53100", "53200", "58030")
NO_DATABASE = ("3D000", "3F000")
MISSING = ("42P01", "42703", *NO_DATABASE)
REFUSED = ("28", "42501")
TOO_SLOW = "57014"
AT_THE_DOOR = {
    r'FATAL:  database|database ".*" does not exist': "3D000",
    r'FATAL:  role|role ".*" does not exist|pg_hba\.conf': "28000",
    r"FATAL:  permission denied": "42501",
    r"authentication failed|no password supplied": "28P01",
}
"""Messages to a client that may not connect: the driver does not tell their SQLSTATE."""


@dataclass(frozen=True)
class Address:
    """Where a database is and who asks. `schema` holds the tables. Never shown with the password: see `shown`."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    schema: str = "public"
    tls: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Takes `postgresql://user:password@host:port/database?schema=public&sslmode=require` apart; nothing is
        connected. Raises BadInput."""
        return cls.of(urls.parse(url))

    @classmethod
    def of(cls, parsed: urls.ServerUrl) -> Self:
        database = parsed.database.lstrip("/")
        try:
            options = parsed.checked_options(OPTIONS)
            if not database:
                raise BadInput("it names no database")
        except BadInput as error:
            raise BadInput(f"the URL of a server looks like postgresql://user@host:5432/database: {error}") from None
        return cls(
            parsed.host,
            parsed.port or DEFAULT_PORT,
            parsed.user or DEFAULT_USER,
            parsed.password or "",
            database,
            options.pop("schema", "") or "public",
            options,
        )

    @property
    def shown(self) -> str:
        """Returns host:port/database, for messages."""
        return urls.place(self.host, self.port, self.database)

    @property
    def url(self) -> str:
        """Returns a URL for drivers that take one. Holds the password: never shown, logged or stored."""
        address = urls.written("postgresql", self.user, self.password or None, self.host, self.port, self.database)
        return f"{address}?{urlencode({'connect_timeout': str(CONNECT_TIMEOUT_S), **self.tls})}"


def state_of(sqlstate: str | None, reason: str) -> str | None:
    """Returns the SQLSTATE of an error; where the driver does not tell it, what the server's words mean. None: the
    server said nothing."""
    found = (state for pattern, state in AT_THE_DOOR.items() if re.search(pattern, reason))
    return sqlstate or next(found, None)


def fault_of(state: str | None) -> Fault:
    """Returns what a SQLSTATE means; None: the server said nothing."""
    if state is None:
        return "gone"
    meanings: dict[Fault, tuple[str, ...]] = {
        "gone": GONE,
        "busy": BUSY,
        "full": FULL,
        "missing": MISSING,
        "refused": REFUSED,
        "too slow": (TOO_SLOW,),
    }
    return next((fault for fault, beginnings in meanings.items() if state.startswith(beginnings)), "other")


def first_line(error: BaseException) -> str:
    """Returns what an error says, without the statement that follows."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def quoted(name: str) -> str:
    """Returns an identifier as SQL; any name is safe in it."""
    if "\0" in name or not name:
        raise BadInput("a table or column name is empty or holds a NUL character")
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    """Returns identifiers as SQL, with commas between them."""
    return ", ".join(quoted(name) for name in names)
