"""Publications in MariaDB and MySQL: tables `published_INDEX`, and a table that says which version they are.

published_INDEX             what is published
published_INDEX__former     what was before
published_INDEX__next7      being made by the attempt with the fence 7; renamed when it is whole
published_INDEX__new7       the new rows, before they are merged
audience_edition_ID         one row: which version is published, and which was before
audience_publication        a row for each publication: the newest fence

Statements that make, rename or drop tables are each a transaction of their own. Only one of them counts: a RENAME TABLE
that exchanges all tables of a version, the one with its number among them. A newer attempt raises the fence first, then
drops what is named with an older one: an older attempt that comes to its RENAME finds a name gone, and nothing
happens."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from audience.databases.mysql import quoted
from audience.errors import BadInput, NotFound
from audience.tables.batches import BATCH_BYTES, rebatched
from audience.tables.mysql.merge import COLUMNS, incoming_columns, merge, published_columns
from audience.tables.mysql.schema import comment_of, create, create_new
from audience.tables.mysql.server import MysqlServer, plain_values
from audience.tables.publications import (
    PUBLISHED_SCHEMA,
    Change,
    PublishedVersions,
    Publishing,
    never_published,
    overtaken,
)
from audience.tables.result_rows import batch_of
from audience.tables.sql.publications import (
    PUBLICATIONS,
    Moves,
    Row,
    as_json,
    exchanged,
    following,
    from_json,
    incoming,
    present,
    previous,
    swapped_in,
    taken,
)
from audience.tables.sql.schema import not_ours

COMMENT = "Audience, publication "
DECLARED = (
    "publication VARCHAR(100) NOT NULL PRIMARY KEY, name LONGTEXT NOT NULL, fence BIGINT NOT NULL, "
    "state VARCHAR(10) NOT NULL, begun LONGTEXT NOT NULL"
)
VERSIONS = "version BIGINT NOT NULL PRIMARY KEY, former BIGINT NOT NULL, indexes LONGTEXT NOT NULL"
FIRST = f"INSERT IGNORE INTO {PUBLICATIONS} VALUES (%s, %s, 0, 'open', '[]')"
LOCK = f"SELECT publication, name, fence, state, begun FROM {PUBLICATIONS} ORDER BY publication FOR UPDATE"
ADMIT = f"UPDATE {PUBLICATIONS} SET fence = %s, begun = %s, state = %s WHERE publication = %s"
TABLE_WAIT_S = 60
SETTINGS = (
    f"SET SESSION lock_wait_timeout = {TABLE_WAIT_S}",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)
NO_SUCH_TABLE = 1146
FIRST_PIECE_ROWS = 256
PIECE_ROWS = 8_192


class MysqlPublisher:
    """One publication's tables in a database of a server."""

    def __init__(self, shown: str, url: str, publication: str, name: str) -> None:
        self.url = shown
        self.server = MysqlServer.at(url)
        self.publication = publication
        self.name = name
        self.comment = COMMENT + publication
        self.pointer = f"audience_edition_{publication}"
        if not self.server.database:
            raise BadInput("the URL of a target names a database, as in mysql://user@host:3306/schema")

    def versions(self) -> PublishedVersions:
        try:
            with self.server.writing() as connection, connection.cursor() as cursor:
                return self._versions(cursor)
        except NotFound:  # the database is gone
            return PublishedVersions()

    def _versions(self, cursor: Any) -> PublishedVersions:
        found = _rows(cursor, f"SELECT version, former, indexes FROM {quoted(self.pointer)}")
        return PublishedVersions(found[0][0], found[0][1], from_json(found[0][2])) if found else PublishedVersions()

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        is_published = self.versions().version == publishing.version
        return self._admit(publishing.fence, () if is_published else indexes)

    def _admit(self, fence: int, indexes: Sequence[str] = (), state: str = "open") -> PublishedVersions:
        """Refuses older fences from now on, then removes what they left aside; only then it is sure what is
        published."""
        with self.server.writing() as connection, connection.cursor() as cursor:
            create(cursor, PUBLICATIONS, DECLARED)
            cursor.execute(FIRST, (self.publication, self.name))
        with self.server.transaction() as connection, connection.cursor() as cursor:
            cursor.execute(LOCK)  # all of them: two publications do not begin the same index
            rows = {
                name: Row(name, title, known, kept, begun=from_json(begun))
                for name, title, known, kept, begun in cursor.fetchall()
            }
            row = rows.pop(self.publication)
            row.check_admits(fence, state)
            row.refuse_taken(rows.values(), indexes)
            self._refuse_foreign(cursor, fence, rows, indexes)
            cursor.execute(ADMIT, (fence, as_json(indexes), state, self.publication))
        with self.server.writing() as connection, connection.cursor() as cursor:
            self._remove_aside(cursor)
            return self._versions(cursor)

    def _refuse_foreign(self, cursor: Any, fence: int, others: dict[str, Row], indexes: Sequence[str]) -> None:
        for index in indexes:
            for table in (present(index), previous(index), *_aside(index, fence)):
                comment = comment_of(cursor, table)
                if comment is not None and comment != self.comment:
                    owner = others.get(comment.removeprefix(COMMENT))
                    raise taken(index, owner.name) if owner else not_ours(table, comment)

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        from audience.tables.mysql.load import Loader, LoadingConnection

        fence = publishing.fence
        new, merged = _aside(index, fence)
        with self._step(fence) as cursor:
            _drop(cursor, (new, merged))
            self._create(cursor, fence, {new: incoming_columns(), merged: published_columns()})
        for batch in rebatched(rows):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            with self._step(fence, connection_class=LoadingConnection) as cursor:
                Loader(cursor.connection).load_frame(new, frame)
        with self._step(fence) as cursor:
            old = present(index) if comment_of(cursor, present(index)) == self.comment else None
            changes = merge(cursor, publishing, index, new, merged, old)
            _drop(cursor, (new,))
        return changes

    def swap(self, publishing: Publishing) -> None:
        fence = publishing.fence
        with self._step(fence) as cursor:
            versions = self._versions(cursor)
            if versions.version == publishing.version:
                return
            begun = self._begun(cursor)
            moves = [
                move
                for index in begun
                for move in (
                    (previous(index), f"{previous(index)}{fence}"),
                    *swapped_in(index, _aside(index, fence)[1]),
                )
            ]
            self._turn(cursor, fence, versions.followed_by(publishing.version, begun), moves)

    def _turn(self, cursor: Any, fence: int, versions: PublishedVersions, moves: Moves) -> None:
        """Renames tables, and with them the one that tells the version."""
        pointer = f"{self.pointer}__next{fence}"
        _drop(cursor, (pointer,))
        self._create(cursor, fence, {pointer: VERSIONS})
        sql = f"INSERT INTO {quoted(pointer)} VALUES (%s, %s, %s)"
        cursor.execute(sql, (versions.version, versions.previous, as_json(versions.indexes)))
        moves = [*moves, (self.pointer, f"{self.pointer}__old{fence}"), (pointer, self.pointer)]
        named = [f"{quoted(name)} TO {quoted(to)}" for name, to in _possible(self._tables(cursor), moves)]
        self._check(cursor, fence)  # all is there; who overtakes us from here on takes it away, and the renaming fails
        cursor.execute(f"RENAME TABLE {', '.join(named)}")
        self._remove_aside(cursor)

    def discard(self, fence: int) -> None:
        if self._exists():
            self._admit(fence)

    def roll_back(self, fence: int, version: int) -> None:
        if not self._exists():
            raise never_published(0)
        versions = self._admit(fence).rolled_back(version)
        if versions is None:
            return
        moves = [move for index in versions.indexes for move in exchanged(index, _aside(index, fence)[1])]
        with self._step(fence) as cursor:
            self._turn(cursor, fence, versions, moves)

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        """Reads piece after piece, so that who is slow to read does not keep a version from being published."""
        versions = self.versions()
        last, limit = 0, FIRST_PIECE_ROWS
        while index in versions.indexes and (rows := self._piece(index, versions.version, last, limit)):
            last = rows[-1][0]
            batch = batch_of([row[1:] for row in rows], PUBLISHED_SCHEMA)
            yield batch
            limit = max(1, min(PIECE_ROWS, len(rows) * BATCH_BYTES // max(batch.nbytes, 1)))

    def _piece(self, index: str, version: int, last: int, limit: int) -> Sequence[Sequence[Any]]:
        """Returns rows of this version, wherever it is now. While a transaction has read the pointer, no table is
        renamed."""
        with self.server.transaction(conv=plain_values()) as connection, connection.cursor() as cursor:
            versions = self._versions(cursor)
            if version not in (versions.version, versions.previous):
                raise overtaken()
            table = present(index) if version == versions.version else previous(index)
            sql = f"SELECT place, {COLUMNS} FROM {quoted(table)} WHERE place > %s ORDER BY 1 LIMIT %s"
            return _rows(cursor, sql, (last, limit))

    def remove(self, fence: int) -> None:
        if self._exists():
            self._admit(fence, state="deleted")
            with self.server.writing() as connection, connection.cursor() as cursor:
                _drop(cursor, sorted(self._tables(cursor)))

    def where(self, index: str) -> str:
        return f"{self.url}, table {present(index)}"

    def _exists(self) -> bool:
        """Returns whether this publication was ever begun."""
        with self.server.writing() as connection, connection.cursor() as cursor:
            return bool(_rows(cursor, f"SELECT 1 FROM {PUBLICATIONS} WHERE publication = %s", (self.publication,)))

    @contextlib.contextmanager
    def _step(self, fence: int, **options: Any) -> Iterator[Any]:
        """Opens a cursor for this attempt, if it is still the newest. One that was overtaken may find its tables
        gone."""
        from pymysql.err import MySQLError

        with self.server.writing(**options) as connection, connection.cursor() as cursor:
            for setting in SETTINGS:
                cursor.execute(setting)
            self._check(cursor, fence)
            try:
                yield cursor
            except MySQLError:
                self._check(cursor, fence)
                raise

    def _check(self, cursor: Any, fence: int) -> None:
        sql = f"SELECT fence, state FROM {PUBLICATIONS} WHERE publication = %s"
        if _rows(cursor, sql, (self.publication,)) != ((fence, "open"),):
            raise overtaken()

    def _begun(self, cursor: Any) -> tuple[str, ...]:
        """Returns the indexes of the newest attempt."""
        sql = f"SELECT begun FROM {PUBLICATIONS} WHERE publication = %s"
        return from_json(_rows(cursor, sql, (self.publication,))[0][0])

    def _create(self, cursor: Any, fence: int, tables: dict[str, str]) -> None:
        """Creates tables of this attempt; they stay only if nobody overtook it meanwhile and has cleaned up already."""
        for table, declared in tables.items():
            create_new(cursor, table, declared, self.comment)
        try:
            self._check(cursor, fence)
        except BaseException:
            _drop(cursor, tables)
            raise

    def _tables(self, cursor: Any) -> set[str]:
        """Returns the names of all that are this publication's."""
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_comment = %s"
        return {name for (name,) in _rows(cursor, sql, (self.comment,))}

    def _remove_aside(self, cursor: Any) -> None:
        """Removes what neither is published nor was before. First the pointers: without one nobody can rename."""
        indexes = self._versions(cursor).indexes
        ours = {self.pointer, *map(present, indexes), *map(previous, indexes)}
        _drop(cursor, sorted(self._tables(cursor) - ours))


def _aside(index: str, fence: int) -> tuple[str, str]:
    """Returns the names of (new rows, next version) of an attempt."""
    return f"{incoming(index)}{fence}", f"{following(index)}{fence}"


def _possible(tables: Iterable[str], moves: Moves) -> Iterator[tuple[str, str]]:
    """Yields those, one after another, whose table is there."""
    there = set(tables)
    for name, to in moves:
        if name in there:
            there ^= {name, to}
            yield name, to


def _drop(cursor: Any, tables: Iterable[str]) -> None:
    for table in tables:
        cursor.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def _rows(cursor: Any, sql: str, values: Sequence[Any] = ()) -> tuple[tuple[Any, ...], ...]:
    """Returns all rows; none where there is no such table."""
    from pymysql.err import ProgrammingError

    try:
        cursor.execute(sql, values)
    except ProgrammingError as error:
        if error.args[0] != NO_SUCH_TABLE:
            raise
        return ()
    found: tuple[tuple[Any, ...], ...] = tuple(cursor.fetchall())
    return found
