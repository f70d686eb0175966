"""Publications in PostgreSQL: views `published_INDEX`, and the row of `audience_publication` that says what they show.

published_INDEX             the view of what is published
published_INDEX__v7         version 7; the present and the former one are kept
published_INDEX__next       being made; renamed when it is whole
published_INDEX__new        the new rows, before they are merged

Views, because what others build on a name here, views of their own and grants, goes with a table that is renamed."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from audience.databases.postgres import listed, quoted
from audience.errors import AudienceError, Conflict, NotFound
from audience.tables.batches import rebatched
from audience.tables.postgres.load import load
from audience.tables.postgres.merge import merge
from audience.tables.postgres.schema import DIALECT, TEXT, PostgresDialect, comment_of, create
from audience.tables.postgres.server import PostgresServer
from audience.tables.publications import (
    PUBLISHED_SCHEMA,
    STAGED_SCHEMA,
    Change,
    PublishedVersions,
    Publishing,
    never_published,
    overtaken,
)
from audience.tables.sql.publications import FIRST, PUBLICATIONS, ROWS, TURN, Row, as_json, following, incoming, present
from audience.tables.sql.schema import OURS, not_ours

DECLARED = (
    f"publication {TEXT} PRIMARY KEY, name {TEXT} NOT NULL, fence bigint NOT NULL, state text NOT NULL, "
    "version bigint NOT NULL, former bigint NOT NULL, indexes text NOT NULL, begun text NOT NULL"
)
TYPE_OF = {
    **DIALECT.types,
    "subject": f"{TEXT} NOT NULL",
    "panel": f"{TEXT} NOT NULL",
    "published_at": "timestamp NOT NULL",
    "version": "bigint NOT NULL",
    "run": "bigint NOT NULL",
}
PUBLISHED = PostgresDialect(quoted, TYPE_OF, TEXT)
COLUMNS = listed(PUBLISHED_SCHEMA.names)
ADMIT = f"UPDATE {PUBLICATIONS} SET fence = %s, state = %s, begun = %s WHERE publication = %s"
BEGUN = f"UPDATE {PUBLICATIONS} SET begun = %s WHERE publication = %s"
END_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE relation IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS t (name))
    AND database = datid AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
"""


class PostgresPublisher:
    """One publication's tables in a schema of a database."""

    def __init__(self, shown: str, url: str, publication: str, name: str) -> None:
        self.url = shown
        self.server = PostgresServer.at(url)
        self.publication = publication
        self.name = name

    def versions(self) -> PublishedVersions:
        row = self._known()
        return row.versions if row else PublishedVersions()

    def _known(self) -> Row | None:
        try:
            with self.server.writing() as connection:
                return self._row(connection) if comment_of(connection, PUBLICATIONS) == OURS else None
        except NotFound:  # the database is gone
            return None

    def _row(self, connection: Any, lock: str = "") -> Row | None:
        found = _rows(connection, f"{ROWS} WHERE publication = %s {lock}", (self.publication,))
        return found[0] if found else None

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        return self._admit(publishing.fence, indexes, version=publishing.version).versions

    def _admit(self, fence: int, indexes: Sequence[str] = (), state: str = "open", version: int = 0) -> Row:
        """Refuses older fences from now on, then removes what they left aside. `version`: to be made of `indexes`."""
        with self.server.writing() as connection:
            self.server.check_schema(connection)
            create(connection, PUBLICATIONS, DECLARED)
            connection.execute(FIRST, (self.publication, self.name))
        with self.server.transaction() as connection:
            rows = _rows(connection, f"{ROWS} ORDER BY publication FOR UPDATE")  # two do not begin the same index
            row = next(row for row in rows if row.publication == self.publication)
            row.check_admits(fence, state)
            indexes = indexes if version != row.version else ()
            row.refuse_taken((other for other in rows if other is not row), indexes)
            _refuse_foreign(connection, row, indexes, version)
            begun = tuple(dict.fromkeys([*row.begun, *indexes]))
            connection.execute(ADMIT, (fence, state, as_json(begun), self.publication))
        self._remove_aside(fence, begun, indexes)
        return row

    def _remove_aside(self, fence: int, begun: Sequence[str], indexes: Sequence[str]) -> None:
        """Removes what is aside of `begun`; of that, only `indexes` are begun now. Whoever still works with its tables
        was overtaken: nobody waits for the end of that."""
        tables = [table for index in begun for table in (incoming(index), following(index))]
        with self.server.writing() as connection:
            connection.execute(END_HOLDERS, ([quoted(table) for table in tables],))
        with self.server.transaction() as connection:
            row = self._row(connection, "FOR UPDATE")
            if row is None or row.fence != fence:
                raise overtaken()
            _drop(connection, *tables)
            connection.execute(BEGUN, (as_json(indexes), self.publication))

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        fence, new, merged = publishing.fence, incoming(index), following(index)
        with self._step(fence) as (connection, _):
            _drop(connection, new, merged)
            connection.execute(f"CREATE UNLOGGED TABLE {quoted(new)} ({PUBLISHED.declared(STAGED_SCHEMA.names)})")
            connection.execute(f"CREATE TABLE {quoted(merged)} ({PUBLISHED.declared(PUBLISHED_SCHEMA.names)})")
        for batch in rebatched(rows):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            with self._step(fence) as (connection, _):
                load(connection, new, frame)
        with self._step(fence) as (connection, row):
            old = _version(index, row.version)
            known = quoted(old) if comment_of(connection, old) is not None else None
            changes = merge(connection, publishing, index, quoted(new), quoted(merged), known)
            connection.execute(f"CREATE INDEX ON {quoted(merged)} USING hash (subject)")  # texts of any length
            _drop(connection, new)
        return changes

    def swap(self, publishing: Publishing) -> None:
        with self._step(publishing.fence) as (connection, row):
            if row.version == publishing.version:
                return
            for index in dict.fromkeys([*row.indexes, *row.begun]):
                made = following(index) if index in row.begun else _version(index, row.version)
                _rename(connection, made, _version(index, publishing.version))
                _show(connection, index, publishing.version)
                _drop(connection, _version(index, row.former), incoming(index))
            self._turn_to(connection, row.versions.followed_by(publishing.version, row.begun))

    def _turn_to(self, connection: Any, versions: PublishedVersions) -> None:
        values = (versions.version, versions.previous, as_json(versions.indexes), self.publication)
        connection.execute(TURN, values)

    def discard(self, fence: int) -> None:
        if self._known():
            self._admit(fence)

    def roll_back(self, fence: int, version: int) -> None:
        if not self._known():
            raise never_published(0)
        versions = self._admit(fence).versions.rolled_back(version)
        if versions is None:
            return
        with self._step(fence) as (connection, _):
            for index in versions.indexes:
                _show(connection, index, version, versions.previous)
            self._turn_to(connection, versions)

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        versions = self.versions()
        table = _version(index, versions.version)
        if index not in versions.indexes or not self._has(table):
            return
        sql = f"SELECT {COLUMNS} FROM {quoted(self.server.schema)}.{quoted(table)}"
        with contextlib.closing(self.server.stream(sql)) as stream:
            yield from rebatched(batch.cast(PUBLISHED_SCHEMA) for batch in stream)

    def _has(self, table: str) -> bool:
        with self.server.writing() as connection:
            return comment_of(connection, table) is not None

    def remove(self, fence: int) -> None:
        row = self._known()
        if row is None or (row.state == "deleted" and not row.indexes):
            return
        row = self._admit(fence, state="deleted")
        with self.server.transaction() as connection:
            for index in row.indexes:
                with _nothing_depends(present(index)):
                    connection.execute(f"DROP VIEW IF EXISTS {quoted(present(index))}")
                _drop(connection, *_versions(row, index))
            self._turn_to(connection, PublishedVersions())

    def where(self, index: str) -> str:
        return f"{self.url}, view {present(index)}"

    @contextlib.contextmanager
    def _step(self, fence: int) -> Iterator[tuple[Any, Row]]:
        """Opens a transaction of this attempt, if it is the newest at its beginning and at its end; our row, too. One
        that was overtaken meanwhile may find its tables or its session gone."""
        try:
            with self.server.transaction() as connection:
                yield connection, self._checked(connection, fence)
                self._checked(connection, fence, "FOR SHARE")
        except AudienceError:
            with self.server.writing() as connection:
                self._checked(connection, fence)
            raise

    def _checked(self, connection: Any, fence: int, lock: str = "") -> Row:
        row = self._row(connection, lock)
        if row is None:
            raise overtaken()
        row.check_newest(fence)
        return row


def _rows(connection: Any, sql: str, values: Sequence[Any] = ()) -> list[Row]:
    return [Row.read(found) for found in connection.execute(sql, values)]


def _refuse_foreign(connection: Any, row: Row, indexes: Sequence[str], version: int) -> None:
    for index in indexes:
        own = {present(index), *_versions(row, index)} if index in row.indexes else set()
        own |= {incoming(index), following(index)} if index in row.begun else set()
        wanted = {present(index), incoming(index), following(index), _version(index, version)}
        for table in sorted(wanted - own):
            if (comment := comment_of(connection, table)) is not None:
                raise not_ours(table, comment)


def _versions(row: Row, index: str) -> tuple[str, str]:
    return _version(index, row.version), _version(index, row.former)


def _version(index: str, version: int) -> str:
    return f"{present(index)}__v{version}"


def _show(connection: Any, index: str, version: int, other: int = 0) -> None:
    """Makes the view show this version; where the index had no rows in it, the other one's columns and none of its
    rows."""
    table, where = _version(index, version), ""
    if comment_of(connection, table) is None:
        table, where = _version(index, other), " WHERE false"
    view = quoted(present(index))
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {COLUMNS} FROM {quoted(table)}{where}")


def _rename(connection: Any, table: str, to: str) -> None:
    if comment_of(connection, table) is not None:
        connection.execute(f"ALTER TABLE {quoted(table)} RENAME TO {quoted(to)}")


def _drop(connection: Any, *tables: str) -> None:
    for table in tables:
        with _nothing_depends(table):
            connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


@contextlib.contextmanager
def _nothing_depends(name: str) -> Iterator[None]:
    from psycopg.errors import DependentObjectsStillExist

    try:
        yield
    except DependentObjectsStillExist as error:
        reason = (error.diag.message_detail or "").splitlines()[:1]
        raise Conflict(f"{name} is in use ({''.join(reason)}): drop that first, or build it on published_...") from None
