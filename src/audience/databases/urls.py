"""The URLs of servers: the one place that takes them apart.

No message repeats any part of a URL that cannot be read: where its parts end is what is not known, so that each of
them may be a piece of a password. For the same reason no error of `urllib` or SQLAlchemy, which do repeat it, leaves
this module."""

import re
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from audience.errors import BadInput

SPECIAL = "special characters are written as %XX (@ as %40, / as %2F, # as %23, ? as %3F, a space as %20)"
LOOKS = "it looks like scheme://user:password@host:port/database"
SERVERS = (
    *("mysql", "mariadb", "postgresql", "postgres", "redis", "rediss", "amqp", "amqps"),
    *("oracle", "mssql", "mongodb", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "http", "https", "ftp", "sftp"),
)
"""Schemes after which a user and a password may stand, also of servers that we do not know how to use."""
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?")
AUTHORITY = re.compile(
    r"(?:(?P<user>[^:@\[\]]*)(?::(?P<password>[^@\[\]]*))?@)?"
    r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])?(?::(?P<port>[0-9]*))?"
)
ON_DISK = re.compile(r"(?:sqlite(?:\+\w+)?|file):///", re.IGNORECASE)
MISTYPED = re.compile(
    rf"(?:{'|'.join(SERVERS)})(?:\+\w+)?(?::|//)"  # mysql:u:p@h, mysql:/u:p@h, mysql//u:p@h
    r"|[a-z][a-z0-9+.-]+:/{0,2}[^/]*:[^/]*@"  # the same of a scheme that we have never heard of
    r"|/{0,2}[^/]+:[^/]*@"  # u:p@h and //u:p@h
    r"|[^/]*://"  # ://u:p@h
)
SEPARATORS = frozenset("/?#@:[]")
PASSWORDS = ("password", "passwd", "pwd", "sslpassword")
GREATEST_PORT = 65_535
LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True)
class ServerUrl:
    """The parts of a URL, decoded; absent ones are None or empty. `scheme` and `host` are in lower case. Neither its
    repr nor `shown` has the user or the password."""

    scheme: str
    host: str
    port: int | None
    database: str
    user: str = field(default="", repr=False)
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> str:
        """Returns host:port/database, for messages."""
        return place(self.host, self.port, self.database)

    def checked_options(self, known: tuple[str, ...]) -> dict[str, str]:
        """Returns the options, and refuses any that is not known."""
        if unknown := [name for name in self.options if name not in known]:
            raise BadInput(f"it has the unknown option {unknown[0]!r}; known: {', '.join(known)}")
        return dict(self.options)


def parse(url: str) -> ServerUrl:
    """Takes the URL of any server apart. Raises BadInput, whose message has nothing of the URL in it."""
    scheme, authority, path, query = _parts(url)
    found = _match(authority)
    try:
        user, password, database = (
            None if text is None else unquote(text, errors="strict")
            for text in (found["user"], found["password"], path)
        )
        options = dict(parse_qsl(query or "", keep_blank_values=True, errors="strict"))
    except ValueError:
        raise _unreadable("what its %XX stand for is not UTF-8") from None
    if any("\0" in text for text in (user or "", password or "", database or "", *options, *options.values())):
        raise _unreadable("it holds a NUL character (%00)")
    if any(name.lower() in PASSWORDS for name in options):
        raise _unreadable("its password is among the options, where it would be shown")
    port = int(found["port"] or 0)
    if port > GREATEST_PORT:
        raise _unreadable(f"its port is more than {GREATEST_PORT}")
    host = found["host"].strip("[]").lower()
    return ServerUrl(scheme, host, port or None, database or "", user or "", password, options)


def _parts(url: str) -> tuple[str, str, str | None, str | None]:
    """Returns scheme, authority, path and query as they are written; exactly one @ at most is left in them."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise _unreadable("it holds a space, the end of a line or a character that is not seen")
    if any(SEPARATORS & set(unicodedata.normalize("NFKC", c)) for c in url if not c.isascii()):
        # a driver or a resolver that normalises would see another host than we do
        raise _unreadable("it holds a character that means one of / ? # @ : [ ] in another form")
    match = URL.fullmatch(url)
    if match is None:
        raise _unreadable("it does not begin with a scheme and ://, or it holds a #")
    scheme, authority, path, query = match.groups()
    if authority.count("@") > 1 or "@" in (path or "") + (query or ""):
        raise _unreadable("it holds more than one @, or a / ? or # before it")
    for part in filter(None, (query or "").split("&")):
        if "=" not in part:  # it may be the second half of a password, and would be shown as an unknown option
            raise _unreadable("one of its options has no value")
    return scheme.lower(), authority, path, query


def _match(authority: str) -> re.Match[str]:
    found = AUTHORITY.fullmatch(authority)
    if found is None:
        raise _unreadable("its host or port is none, or a [ or ] is in its password")
    if not found["host"]:
        raise _unreadable("it has no host")
    return found


def _unreadable(why: str) -> BadInput:
    return BadInput(f"the URL cannot be read: {why}. {LOOKS[0].upper()}{LOOKS[1:]}; {SPECIAL}")


def place(host: str, port: int | None, database: str) -> str:
    """Returns what a message shows of a server: no user, no password."""
    return f"{in_brackets(host)}{f':{port}' if port else ''}/{database}"


def in_brackets(host: str) -> str:
    """Returns a host as it stands in a URL: the colons of IPv6 are not those before a port."""
    return f"[{host}]" if ":" in host else host


def written(scheme: str, user: str, password: str | None, host: str, port: int, database: str) -> str:
    """Returns a URL for drivers that take one. Holds the password: never shown, logged or stored."""
    secret = "" if password is None else f":{quote(password, safe='')}"
    return f"{scheme}://{quote(user, safe='')}{secret}@{in_brackets(host)}:{port}/{quote(database, safe='')}"


# references: a path, or a URL


def is_path(reference: str) -> bool:
    """Returns whether a reference is a path, or the URL of a file, and so holds no password. Refuses what is neither
    that nor a URL, but looks like a mistyped one: as a path it would be shown, and made."""
    if ON_DISK.match(reference):
        return True
    if URL.match(reference):
        return False
    # as somebody sees it: `ｍysql：//` and ` mysql:/` are no paths
    seen = "".join(c for c in unicodedata.normalize("NFKC", reference) if c.isprintable() and not c.isspace()).lower()
    if MISTYPED.match(seen):
        raise _unreadable("its scheme is not followed by ://, or something comes before it")
    return True


def password_of(reference: str) -> str | None:
    """Returns the password in a URL, decoded; None where there is none, and for paths."""
    return None if is_path(reference) else parse(reference).password


def without_password(reference: str) -> str:
    """Returns a URL without its password, and a path as it is."""
    return reference if is_path(reference) else _with_password(reference, None)


def with_password(url: str, password: str) -> str:
    """Returns a URL with this password. Never shown, logged or stored."""
    return _with_password(url, password)


def _with_password(url: str, password: str | None) -> str:
    """Leaves everything else as it is written, so that it is saved and compared as its owner knows it."""
    parse(url)
    scheme, rest = url.split("://", 1)
    before, at, after = rest.rpartition("@")  # there is one at most, and it ends the user and the password
    user = before.partition(":")[0] if at else ""
    credentials = user if password is None else f"{user}:{quote(password, safe='')}"
    return f"{scheme}://{credentials}@{after}" if credentials else f"{scheme}://{after}"


def displayed(reference: str) -> str:
    """Returns what a message may show of any reference, readable or not: a path, or a URL without its password. Raises
    nothing."""
    try:
        return without_password(reference)
    except BadInput:
        scheme = re.match(r"[a-z][a-z0-9+]*(?=://)", reference)
        return f"{scheme[0]}://..." if scheme else "a URL that cannot be read"


def location(url: str, ports: dict[str, int]) -> tuple[object, ...] | None:
    """Returns what two URLs of the same schema of a server have in common, as far as their text tells; None for what is
    not the URL of one of these. `ports`: those that a scheme means without one."""
    try:
        parsed = parse(url)
    except BadInput:
        return None
    scheme = parsed.scheme.partition("+")[0]
    if scheme not in ports:
        return None
    host = "127.0.0.1" if parsed.host in LOOPBACK else parsed.host
    default = ports[scheme]
    return (default, host, parsed.port or default, parsed.database, parsed.options.get("schema") or "public")
