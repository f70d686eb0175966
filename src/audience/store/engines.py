"""The databases that our own records may be in: SQLite, MariaDB or MySQL, PostgreSQL. How each is opened, how a
transaction gets the turn to write, and its errors as ours.

Whoever writes is alone from the first statement, so that what is read before it is written is still true then. SQLite
has its write lock; a server locks the one row of `alembic_version`, and reads what is newest after that. Whoever only
reads sees one moment and waits for nobody."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from audience.databases import wal
from audience.errors import AudienceError, BadInput, NotFound, Transient

EXAMPLES = "sqlite:///PATH, mysql://user:password@host:3306/schema or postgresql://user:password@host:5432/database"
FAMILIES = {
    "sqlite": "sqlite",
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
PORTS = {"mysql": 3306, "postgresql": 5432}
BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""After which a server that says nothing is given up."""
IDLE_S = 30
"""After which a server ends a connection that holds the turn and does nothing: its process is asleep."""
POOL: dict[str, Any] = {
    "pool_size": 4,
    "max_overflow": 28,
    "pool_timeout": BUSY_TIMEOUT_S,
    "pool_pre_ping": True,
    "pool_recycle": IDLE_S // 2,
    "isolation_level": "REPEATABLE READ",
    "hide_parameters": True,
}
WRITING = {"turn": "write"}
MIGRATING = {"turn": "migrate"}
NEWEST = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
TURN = "SELECT version_num FROM alembic_version FOR UPDATE"

MISSING = ("1049", "3D000", "3F000")
REFUSED = ("1044", "1045", "1142", "1143", "1227", "1698", "3118", "28", "42501")
TOO_LARGE = "1153"
SAID_ON_CONNECTING = {
    r'database ".*" does not exist': "3D000",
    r'authentication failed|no password supplied|role ".*" does not exist|no pg_hba.conf entry': "28000",
}
"""PostgreSQL's SQLSTATE of a connection that was refused is only in its text."""


def open_engine(url: str, read_timeout_s: int = READ_TIMEOUT_S) -> sa.Engine:
    """Nothing is connected yet. `read_timeout_s`: how long one statement may take. Raises BadInput without the URL,
    which may hold a password."""
    parsed = _parsed(url)
    family = FAMILIES[parsed.get_backend_name()]
    if family == "sqlite":
        return _sqlite(parsed)
    if not parsed.host or not parsed.database:
        raise BadInput(f"AUDIENCE_STORE_URL names no host or no database; it looks like {EXAMPLES}")
    try:
        return _mysql(parsed, read_timeout_s) if family == "mysql" else _postgresql(parsed)
    except ModuleNotFoundError as error:
        extra = "mysql" if family == "mysql" else "postgres"
        raise BadInput(f"records in {family} need a driver ({error.name}): pip install 'audience[{extra}]'") from None


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise BadInput(f"AUDIENCE_STORE_URL is not the URL of a database; it looks like {EXAMPLES}") from None
    if parsed.get_backend_name() not in FAMILIES:
        raise BadInput(f"the store cannot be kept in {parsed.get_backend_name()}; use {EXAMPLES}")
    return parsed


def _sqlite(url: sa.URL) -> sa.Engine:
    # A connection a transaction: none is left open when an app goes away.
    timeout = {"timeout": BUSY_TIMEOUT_S}
    engine = sa.create_engine(url, connect_args=timeout, poolclass=sa.NullPool, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late, and not at all before DDL
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        for setting in wal.SETTINGS:
            connection.execute(setting)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = _turn(connection)
        if writes:
            wal.checkpoint_if_large(str(url.database))
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _mysql(url: sa.URL, read_timeout_s: int) -> sa.Engine:
    options = _checked_options(url, ("ssl", "ssl_ca"))
    encrypted = options.get("ssl_ca") or options.get("ssl", "false").lower() in ("1", "true", "yes")
    session = {
        "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        "wait_timeout": str(IDLE_S),
        "innodb_lock_wait_timeout": str(BUSY_TIMEOUT_S),
    }
    arguments = {
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": read_timeout_s,
        "write_timeout": read_timeout_s,
        "init_command": "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in session.items()),
        **({"ssl": {"ca": options.get("ssl_ca")}} if encrypted else {"ssl_disabled": True}),
    }
    url = url.set(drivername="mysql+pymysql", query={})
    engine = sa.create_engine(url, connect_args=arguments, **POOL)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        _take_turn(connection, _lock_mysql_layout)

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    options = _checked_options(url, ("sslmode", "sslrootcert", "schema"))
    session = {
        "lock_timeout": f"{BUSY_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        **({"search_path": _escaped(options.pop("schema"))} if "schema" in options else {}),
    }
    arguments = {
        "application_name": "audience",
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": 1000 * READ_TIMEOUT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        **options,
    }
    url = url.set(drivername="postgresql+psycopg", query={})
    engine = sa.create_engine(url, connect_args=arguments, **POOL)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        _take_turn(connection, _lock_postgresql_layout)

    return engine


def _escaped(schema: str) -> str:
    """One name in a search path, as an option of a connection has it."""
    return re.sub(r"([\\ ])", r"\\\1", '"' + schema.replace('"', '""') + '"')


def _checked_options(url: sa.URL, known: tuple[str, ...]) -> dict[str, str]:
    unknown = [name for name in url.query if name not in known]
    if unknown:
        raise BadInput(f"AUDIENCE_STORE_URL has the unknown option {unknown[0]!r}; known: {', '.join(known)}")
    return {name: str(value) for name, value in url.query.items()}


# turns


def _turn(connection: sa.Connection) -> str | None:
    turn: str | None = connection.get_execution_options().get("turn")
    return turn


def _take_turn(connection: sa.Connection, lock_layout: Callable[[sa.Connection], None]) -> None:
    """On a server. After having waited, it reads what others have written meanwhile."""
    if turn := _turn(connection):
        connection.exec_driver_sql(NEWEST)
        if turn == WRITING["turn"]:
            connection.exec_driver_sql(TURN).all()
        else:
            lock_layout(connection)


def _lock_mysql_layout(connection: sa.Connection) -> None:
    """Of the session, because every change of a table ends a transaction here."""
    lock = f"SELECT GET_LOCK(CONCAT('audience.', SHA1(DATABASE())), {BUSY_TIMEOUT_S})"
    if connection.exec_driver_sql(lock).scalar() != 1:
        raise Transient(f"{shown(connection.engine.url)} is being migrated by another process: wait for it")


def _lock_postgresql_layout(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('audience'), hashtext(current_schema()))")


@contextmanager
def migrating(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Alone with the right to change the layout; one transaction, where the database has those for that."""
    with engine.execution_options(**MIGRATING).connect() as connection:
        try:
            with connection.begin():
                yield connection
        finally:
            connection.invalidate()  # the lock of a session ends with it


# where, and what is wrong


def shown(url: sa.URL) -> str:
    """For messages: no password, no user."""
    return f"{url.host}:{url.port or PORTS[_family(url)]}/{url.database}" if url.host else str(url.database)


def _family(url: sa.URL) -> str:
    return FAMILIES[url.get_backend_name()]


def same_place(url: str, other: str) -> bool:
    """Whether two URLs mean the same schema of the same server, as far as their text tells."""
    try:
        return _place(sa.make_url(url)) == _place(sa.make_url(other)) is not None
    except (sa.exc.ArgumentError, ValueError):
        return False


def _place(url: sa.URL) -> tuple[object, ...] | None:
    family = FAMILIES.get(url.get_backend_name())
    if family not in PORTS or not url.host:
        return None
    host = "127.0.0.1" if url.host.lower() in ("localhost", "::1") else url.host.lower()
    schema = url.query.get("schema", "public") if family == "postgresql" else ""
    return (family, host, url.port or PORTS[family], url.database, schema)


@contextmanager
def mapped_errors(engine: sa.Engine) -> Iterator[None]:
    """The driver's errors as ours; no message shows a password."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DBAPIError as error:
        raise _as_ours(error, shown(engine.url)) from error
    except sa.exc.TimeoutError as error:
        raise Transient(f"too many at once use our own records in {shown(engine.url)}") from error


def _as_ours(error: sa.exc.DBAPIError, where: str) -> AudienceError:
    code, reason = _said(error.orig)
    if code in MISSING:
        return NotFound(f"our own records cannot be in {where}: {reason}. Make it, or mend AUDIENCE_STORE_URL")
    if code.startswith(REFUSED):
        return BadInput(
            f"our own records in {where} cannot be used: {reason}. Mend the user or the password in "
            "AUDIENCE_STORE_URL, or grant that user everything in it"
        )
    if code == TOO_LARGE:
        return BadInput(f"our own records in {where} cannot take it: {reason}. Raise max_allowed_packet of the server")
    if isinstance(error, sa.exc.DataError):
        return BadInput(f"our own records in {where} cannot take it: {reason}")
    passing = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
    if error.connection_invalidated or isinstance(error, passing):
        return Transient(f"our own records in {where} cannot be used now: {reason}")
    return BadInput(f"{where} does not hold our own records: {reason}")


def _said(error: BaseException | None) -> tuple[str, str]:
    """(MariaDB's number or the SQLSTATE, what the server said)."""
    arguments: tuple[Any, ...] = error.args if error else ()
    if len(arguments) > 1 and isinstance(arguments[0], int):
        return str(arguments[0]), str(arguments[1]) or type(error).__name__
    text = str(error).strip()
    if name := getattr(error, "sqlite_errorname", None):
        text = f"{text} ({name})"  # "disk I/O error" is a dozen different ones
    code = getattr(error, "sqlstate", None)
    found = (code for pattern, code in SAID_ON_CONNECTING.items() if re.search(pattern, text))
    return code or next(found, ""), text.splitlines()[0] if text else type(error).__name__
