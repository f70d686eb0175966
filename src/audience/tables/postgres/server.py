"""A PostgreSQL server: its sessions and transactions, and its errors as ours.

Metadata, planning and writing go through psycopg; only bulk reading goes through ADBC (see `source`)."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from audience.databases import faults, postgres
from audience.databases.postgres import Address, quoted
from audience.errors import AudienceError, NotFound

IDLE_S = 300
LOCK_WAIT_S = 60
BEGINNING = (
    # who waited for a lock has to see what was committed meanwhile, not a snapshot from before
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'",
    f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'",
)


class PostgresServer(Address):
    """A server, and how it is spoken to."""

    @classmethod
    def at(cls, url: str) -> "PostgresServer":
        """Returns the server of a URL; nothing is connected yet. Raises BadInput."""
        return cls.parse(url)

    @contextlib.contextmanager
    def session(self, **options: Any) -> Iterator[Any]:
        """Opens a psycopg connection in autocommit mode whose errors are ours; `options` as psycopg has them."""
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
        """Opens a session in which plain names mean our schema."""
        with self.session() as connection:
            connection.execute("SELECT set_config('search_path', %s, false)", (quoted(self.schema),))
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """Does everything or nothing. The server takes the locks of a session that is silent for `IDLE_S`."""
        with self.writing() as connection, connection.transaction():
            for statement in BEGINNING:
                connection.execute(statement)
            yield connection

    def grants(self, connection: Any) -> str | None:
        """Returns the statements that let our role make tables in the schema, and those of production, which are gone
        with their transaction; None where it may."""
        needed = [found for found in (self._schema_grant(connection), self.temporary_grant(connection)) if found]
        return "; ".join(needed) or None

    def temporary_grant(self, connection: Any) -> str | None:
        """Returns the statement that lets our role make temporary tables; None where it may, as by default."""
        has = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), current_database(), current_user"
        may, database, role = connection.execute(has).fetchone()
        return None if may else f"GRANT TEMPORARY ON DATABASE {quoted(database)} TO {quoted(role)}"

    def _schema_grant(self, connection: Any) -> str | None:
        role = quoted(connection.execute("SELECT current_user").fetchone()[0])
        schema = quoted(self.schema)
        if connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,):
            return f"CREATE SCHEMA {schema} AUTHORIZATION {role}"
        rights = ("USAGE", "CREATE")
        has = "SELECT has_schema_privilege(%s, %s)"
        if all(connection.execute(has, (self.schema, right)).fetchone()[0] for right in rights):
            return None
        return f"GRANT {', '.join(rights)} ON SCHEMA {schema} TO {role}"

    def check_schema(self, connection: Any) -> None:
        """Refuses a schema that is not there: PostgreSQL itself takes the next one of the search path."""
        if connection.execute("SELECT current_schema()").fetchone() == (None,):
            needed = self.grants(connection)
            raise NotFound(f"there is no schema {self.schema} in {self.shown} that this user may use: {needed}")

    def stream(self, sql: str, *settings: str) -> Generator[Any, None, None]:
        """Yields Arrow batches of a query as the server sends them; `sql` takes no parameters. `settings` come before
        it."""
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
        """Raises psycopg's errors as ours; no message shows a password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise self.as_ours(error, error.sqlstate) from error

    def as_ours(self, error: Exception, state: str | None) -> AudienceError:
        """Returns what an error of a driver means to whoever asked. `state`: the SQLSTATE; None when the server said
        nothing."""
        reason = postgres.first_line(error)
        state = postgres.state_of(state, reason)
        return faults.as_ours(postgres.fault_of(state), f"the server {self.shown}", reason, state)
