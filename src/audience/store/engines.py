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

from audience.databases import mysql, postgres, urls, wal
from audience.errors import AudienceError, BadInput, NotFound, Transient

EXAMPLES = "sqlite:///PATH, mysql://user:password@host:3306/schema or postgresql://user:password@host:5432/database"
PORTS = {
    **dict.fromkeys(mysql.SCHEMES, mysql.DEFAULT_PORT),
    **dict.fromkeys(postgres.SCHEMES, postgres.DEFAULT_PORT),
}
SQLITE = re.compile(r"sqlite(\+\w+)?://(/.*)?", re.DOTALL)
BUSY_TIMEOUT_S = 30
READ_TIMEOUT_S = 60
"""After which a server that says nothing is given up."""
IDLE_S = 30
"""After which a server ends a connection that holds the turn and does nothing: its process is asleep."""
POOL: dict[str, Any] = {
    "pool_size": 4,
    "max_overflow": 28,
    "pool_timeout": BUSY_TIMEOUT_S,
    "pool_pre_ping": True,
    "pool_recycle": IDLE_S // 2,  # younger than `wait_timeout`, after which the server closes it unasked
    "isolation_level": "REPEATABLE READ",
    "hide_parameters": True,
}
WRITING = {"turn": "write"}
MIGRATING = {"turn": "migrate"}
# A snapshot would be taken before the wait for the turn, and show what was true then.
NEWEST = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
TURN = "SELECT version_num FROM alembic_version FOR UPDATE"


def open_engine(url: str, read_timeout_s: int = READ_TIMEOUT_S) -> sa.Engine:
    """Returns the engine of a URL; nothing is connected yet. `read_timeout_s`: how long one statement may take. Raises
    BadInput without the URL, which may hold a password."""
    if SQLITE.fullmatch(url):
        return _sqlite(_sqlite_url(url))
    try:
        parsed = urls.parse(url)
    except BadInput as error:
        raise BadInput(f"AUDIENCE_STORE_URL is not the URL of a database, such as {EXAMPLES}: {error}") from None
    scheme = parsed.scheme.partition("+")[0]  # mysql+pymysql: which driver, is our business
    if scheme not in PORTS:
        raise BadInput(f"the store cannot be kept in {scheme}; use {EXAMPLES}")
    if not parsed.database:
        raise BadInput(f"AUDIENCE_STORE_URL names no database; it looks like {EXAMPLES}")
    family, extra = ("mysql", "mysql") if scheme in mysql.SCHEMES else ("postgresql", "postgres")
    try:
        return _mysql(parsed, read_timeout_s) if family == "mysql" else _postgresql(parsed)
    except BadInput as error:
        raise BadInput(f"AUDIENCE_STORE_URL cannot be used: {error}") from None
    except ModuleNotFoundError as error:
        raise BadInput(f"records in {family} need a driver ({error.name}): pip install 'audience[{extra}]'") from None


def _sqlite_url(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise BadInput(f"AUDIENCE_STORE_URL is not the URL of a database; it looks like {EXAMPLES}") from None


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


def _mysql(url: urls.ServerUrl, read_timeout_s: int) -> sa.Engine:
    address = mysql.Address.of(url)
    session = {
        "sql_mode": f"'{mysql.SQL_MODE}'",
        "wait_timeout": str(IDLE_S),
        "innodb_lock_wait_timeout": str(BUSY_TIMEOUT_S),
    }
    arguments = {
        "charset": "utf8mb4",
        "password": address.password.encode(),  # a text it would encode as Latin-1, and fail with what is not
        "connect_timeout": mysql.CONNECT_TIMEOUT_S,
        "read_timeout": read_timeout_s,
        "write_timeout": read_timeout_s,
        "init_command": "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in session.items()),
        **address.tls_arguments(),
    }
    engine = sa.create_engine(_url("mysql+pymysql", url, address.port), connect_args=arguments, **POOL)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        _take_turn(connection, _lock_mysql_layout)

    return engine


def _postgresql(url: urls.ServerUrl) -> sa.Engine:
    address, schema = postgres.Address.of(url), url.options.get("schema")
    session = {
        "lock_timeout": f"{BUSY_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        **({"search_path": _escaped(schema)} if schema else {}),  # else as the server has it for this user
    }
    arguments = {
        "application_name": "audience",
        "client_encoding": "utf8",
        "connect_timeout": postgres.CONNECT_TIMEOUT_S,
        "keepalives_idle": postgres.CONNECT_TIMEOUT_S,
        "tcp_user_timeout": 1000 * READ_TIMEOUT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        **address.tls,
    }
    engine = sa.create_engine(_url("postgresql+psycopg", url, address.port), connect_args=arguments, **POOL)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        _take_turn(connection, _lock_postgresql_layout)

    return engine


def _url(driver: str, url: urls.ServerUrl, port: int) -> sa.URL:
    return sa.URL.create(driver, url.user or None, url.password, url.host, port, url.database)


def _escaped(schema: str) -> str:
    """Returns one name in a search path, as an option of a connection has it."""
    return re.sub(r"([\\ ])", r"\\\1", postgres.quoted(schema))


# turns


def _turn(connection: sa.Connection) -> str | None:
    turn: str | None = connection.get_execution_options().get("turn")
    return turn


def _take_turn(connection: sa.Connection, lock_layout: Callable[[sa.Connection], None]) -> None:
    """Takes the turn on a server. After having waited, the transaction reads what others have written meanwhile."""
    if turn := _turn(connection):
        connection.exec_driver_sql(NEWEST)
        if turn == WRITING["turn"]:
            connection.exec_driver_sql(TURN).all()
        else:
            lock_layout(connection)


def _lock_mysql_layout(connection: sa.Connection) -> None:
    """Takes a lock of the session, because every change of a table ends a transaction here."""
    lock = f"SELECT GET_LOCK(CONCAT('audience.', SHA1(DATABASE())), {BUSY_TIMEOUT_S})"
    if connection.exec_driver_sql(lock).scalar() != 1:
        raise Transient(f"{shown(connection.engine.url)} is being migrated by another process: wait for it")


def _lock_postgresql_layout(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('audience'), hashtext(current_schema()))")


@contextmanager
def migrating(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Opens a connection that is alone with the right to change the layout; one transaction, where the database has
    those for that."""
    with engine.execution_options(**MIGRATING).connect() as connection:
        try:
            with connection.begin():
                yield connection
        finally:
            connection.invalidate()  # the lock of a session ends with it


# where, and what is wrong


def shown(url: sa.URL) -> str:
    """Returns what messages show of it: no password, no user."""
    return urls.place(url.host, url.port, url.database or "") if url.host else str(url.database)


def same_place(url: str, other: str) -> bool:
    """Returns whether two URLs mean the same schema of the same server, as far as their text tells."""
    return urls.location(url, PORTS) == urls.location(other, PORTS) is not None


@contextmanager
def mapped_errors(engine: sa.Engine) -> Iterator[None]:
    """Raises the driver's errors as ours; no message shows a password."""
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
    if code == mysql.NO_DATABASE or code in postgres.NO_DATABASE:
        return NotFound(f"our own records cannot be in {where}: {reason}. Make it, or mend AUDIENCE_STORE_URL")
    if code in mysql.REFUSED or str(code).startswith(postgres.REFUSED):
        return BadInput(
            f"our own records in {where} cannot be used: {reason}. Mend the user or the password in "
            "AUDIENCE_STORE_URL, or grant that user everything in it"
        )
    if code == mysql.TOO_LARGE:
        return BadInput(f"our own records in {where} cannot take it: {reason}. Raise max_allowed_packet of the server")
    if isinstance(error, sa.exc.DataError):
        return BadInput(f"our own records in {where} cannot take it: {reason}")
    passing = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
    if error.connection_invalidated or isinstance(error, passing):
        return Transient(f"our own records in {where} cannot be used now: {reason}")
    return BadInput(f"{where} does not hold our own records: {reason}")


def _said(error: BaseException | None) -> tuple[int | str | None, str]:
    """Returns (MariaDB's number or the SQLSTATE, what the server said)."""
    if error is None:
        return None, "no reason is known"
    if error.args and isinstance(error.args[0], int):
        return mysql.said(error)
    reason = postgres.first_line(error)
    if name := getattr(error, "sqlite_errorname", None):
        return None, f"{reason} ({name})"  # "disk I/O error" is a dozen different ones
    return postgres.state_of(getattr(error, "sqlstate", None), reason), reason
