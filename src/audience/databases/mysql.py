"""MariaDB and MySQL: what a URL of theirs may say, TLS, SQL text that is safe, and what their error numbers mean."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from audience.databases import urls
from audience.databases.faults import Fault
from audience.errors import BadInput

SCHEMES = ("mysql", "mariadb")
DEFAULT_PORT = 3306
DEFAULT_USER = "root"
OPTIONS = ("ssl", "ssl_ca")
CONNECT_TIMEOUT_S = 10
SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"

GONE = {2002, 2003, 2006, 2013, 2055, 1040, 1053, 1077, 1079, 1129, 1158, 1159, 1160, 1161, 1203, 1226, 1317, 1927}
BUSY = {1205, 1213, 1412, 1637}
FULL = {1021, 1026, 1030, 1114, 3675}
NO_DATABASE = 1049
NO_TABLE = 1146
MISSING = {NO_DATABASE, NO_TABLE, 1051, 1054}
NOT_GRANTED = {1142, 1143, 1227}
REFUSED = {1044, 1045, 1698, 3118, *NOT_GRANTED}
TOO_LARGE = 1153
TOO_SLOW = {1969, 3024}


@dataclass(frozen=True)
class Address:
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
    def parse(cls, url: str) -> Self:
        """Takes `mysql://user:password@host:port/database?ssl_ca=FILE` apart; nothing is connected. Raises BadInput."""
        return cls.of(urls.parse(url))

    @classmethod
    def of(cls, parsed: urls.ServerUrl) -> Self:
        try:
            options = parsed.checked_options(OPTIONS)
        except BadInput as error:
            raise BadInput(f"the URL of a server looks like mysql://user@host:3306/schema?ssl=true: {error}") from None
        ca = options.get("ssl_ca")
        return cls(
            parsed.host,
            parsed.port or DEFAULT_PORT,
            parsed.user or DEFAULT_USER,
            parsed.password or "",
            parsed.database.lstrip("/"),
            tls=ca is not None or options.get("ssl", "false").lower() in ("1", "true", "yes"),
            ca=ca,
        )

    @property
    def shown(self) -> str:
        """Returns host:port/database, for messages."""
        return urls.place(self.host, self.port, self.database)

    @property
    def url(self) -> str:
        """Returns a URL for drivers that take one. Holds the password: never shown, logged or stored."""
        return urls.written("mysql", self.user, self.password, self.host, self.port, self.database)

    def tls_arguments(self) -> dict[str, Any]:
        """Returns what PyMySQL is told about encryption."""
        if not self.tls:
            return {"ssl_disabled": True}  # else it tries, and takes any certificate
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise BadInput(f"the certificate file {self.ca} cannot be used: {error.strerror or error}") from None
        if self.ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {"ssl": context}


def said(error: BaseException) -> tuple[int, str]:
    """Returns the number of a PyMySQL error and what the server said; 0 where it said nothing."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    return number, str(error.args[1] if len(error.args) > 1 else error).strip() or type(error).__name__


def fault_of(number: int) -> Fault:
    """Returns what an error number means; 0: the server said nothing."""
    meanings: dict[Fault, set[int]] = {
        "gone": {0, *GONE},
        "busy": BUSY,
        "full": FULL,
        "missing": MISSING,
        "refused": REFUSED,
        "too slow": TOO_SLOW,
    }
    return next((fault for fault, numbers in meanings.items() if number in numbers), "other")


def quoted(name: str) -> str:
    """Returns an identifier as SQL; any name is safe in it."""
    if "\0" in name or not name:
        raise BadInput("a table or column name is empty or holds a NUL character")
    return "`" + name.replace("`", "``") + "`"


def listed(names: Iterable[str]) -> str:
    """Returns identifiers as SQL, with commas between them."""
    return ", ".join(quoted(name) for name in names)
