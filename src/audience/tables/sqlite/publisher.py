"""Publications in SQLite: tables `published_INDEX`, and the row of `audience_publication` that says what they are.

published_INDEX             what is published
published_INDEX__former     what was before
published_INDEX__next       being made; renamed when it is whole
published_INDEX__new        the new rows, before they are merged
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import pyarrow as pa

from audience.databases.sqlite import listed, quoted
from audience.tables.batches import FETCH_ROWS
from audience.tables.publications import (
    PUBLISHED_SCHEMA,
    STAGED_SCHEMA,
    Change,
    PublishedVersions,
    Publishing,
    never_published,
    overtaken,
)
from audience.tables.result_rows import batch_of
from audience.tables.sql.publications import (
    COLUMNS,
    FIRST,
    PUBLICATIONS,
    ROWS,
    TURN,
    Moves,
    Row,
    as_json,
    exchanged,
    following,
    incoming,
    present,
    previous,
    swapped_in,
)
from audience.tables.sql.schema import not_ours
from audience.tables.sqlite.load import load
from audience.tables.sqlite.merge import merge
from audience.tables.sqlite.schema import DIALECT, columns_of, create
from audience.tables.sqlite.server import SqliteFile

ADMIT = f"UPDATE {PUBLICATIONS} SET fence = ?, begun = '[]' WHERE publication = ?"


class SqlitePublisher:
    """One publication's tables in a SQLite file."""

    def __init__(self, file: SqliteFile, publication: str, name: str) -> None:
        self.file = file
        self.publication = publication
        self.name = name

    def versions(self) -> PublishedVersions:
        if not self.file.has(PUBLICATIONS):
            return PublishedVersions()
        with self.file.session() as db:
            row = self._row(db)
        return row.versions if row else PublishedVersions()

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        with self.file.changing(new=True) as db:
            create(db, PUBLICATIONS, COLUMNS, ("publication",))
        with self.file.transaction() as db:
            row = self._admit(db, publishing.fence)
            if row.version != publishing.version:
                self._refuse_foreign(db, row, indexes)
                begun = f"UPDATE {PUBLICATIONS} SET begun = ? WHERE publication = ?"
                db.execute(begun, (as_json(indexes), self.publication))
        return row.versions

    def _admit(self, db: sqlite3.Connection, fence: int) -> Row:
        """Returns the row, which from now on refuses older fences; what was left aside is gone."""
        db.execute(DIALECT.bound(FIRST), (self.publication, self.name))
        row = self._known(db)
        row.check_admits(fence)
        db.execute(ADMIT, (fence, self.publication))
        for index in row.begun:
            _drop(db, following(index), incoming(index))
        return row

    def _refuse_foreign(self, db: sqlite3.Connection, row: Row, indexes: Sequence[str]) -> None:
        others = db.execute(f"{ROWS} WHERE publication <> ?", (self.publication,))
        row.refuse_taken(map(Row.read, others), indexes)
        own = {table for index in row.indexes for table in (present(index), previous(index))}
        for table in (t for i in indexes for t in (present(i), previous(i), following(i), incoming(i))):
            if table not in own and columns_of(db, table):
                raise not_ours(table)

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        with self._transaction(publishing.fence) as db:
            _drop(db, following(index), incoming(index))
            create(db, incoming(index), STAGED_SCHEMA.names, ("n",))
            create(db, following(index), PUBLISHED_SCHEMA.names)
        for batch in rows:
            with self._transaction(publishing.fence) as db:
                load(db, incoming(index), pl.DataFrame(batch).select(STAGED_SCHEMA.names))
        with self._transaction(publishing.fence) as db:
            changes = merge(db, publishing, index)
            _drop(db, incoming(index))
        return changes

    def swap(self, publishing: Publishing) -> None:
        with self._transaction(publishing.fence) as db:
            row = self._known(db)
            if row.version == publishing.version:
                return
            for index in row.begun:
                _drop(db, previous(index), incoming(index))
                _rename(db, swapped_in(index, following(index)))
            self._turn_to(db, row.versions.followed_by(publishing.version, row.begun))

    def _turn_to(self, db: sqlite3.Connection, versions: PublishedVersions) -> None:
        values = (versions.version, versions.previous, as_json(versions.indexes), self.publication)
        db.execute(DIALECT.bound(TURN), values)

    def discard(self, fence: int) -> None:
        if self.file.has(PUBLICATIONS):
            with self.file.transaction() as db:
                self._admit(db, fence)

    def roll_back(self, fence: int, version: int) -> None:
        if not self.file.has(PUBLICATIONS):
            raise never_published(0)
        with self.file.transaction() as db:
            row = self._admit(db, fence)
            if versions := row.versions.rolled_back(version):
                for index in row.indexes:
                    _rename(db, exchanged(index, following(index)))
                self._turn_to(db, versions)

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        with self.file.session() as db:
            row = self._row(db)
            if row is None or index not in row.indexes or not columns_of(db, present(index)):
                return
            cursor = db.execute(f"SELECT {listed(PUBLISHED_SCHEMA.names)} FROM {quoted(present(index))}")
            while rows := cursor.fetchmany(8 * FETCH_ROWS):
                yield batch_of(rows, PUBLISHED_SCHEMA)

    def remove(self, fence: int) -> None:
        if not self.file.has(PUBLICATIONS):
            return
        with self.file.transaction() as db:
            row = self._row(db)
            if row is None or row.state == "deleted":
                return
            row = self._admit(db, fence)
            for index in row.indexes:
                _drop(db, present(index), previous(index))
            gone = f"UPDATE {PUBLICATIONS} SET state = 'deleted', indexes = '[]' WHERE publication = ?"
            db.execute(gone, (self.publication,))

    def where(self, index: str) -> str:
        return f"{self.file.path}, table {present(index)}"

    def _row(self, db: sqlite3.Connection) -> Row | None:
        if columns_of(db, PUBLICATIONS) != list(COLUMNS):
            raise not_ours(PUBLICATIONS)
        found = db.execute(f"{ROWS} WHERE publication = ?", (self.publication,)).fetchone()
        return Row.read(found) if found else None

    def _known(self, db: sqlite3.Connection) -> Row:
        row = self._row(db)
        if row is None:
            raise overtaken()
        return row

    @contextlib.contextmanager
    def _transaction(self, fence: int) -> Iterator[sqlite3.Connection]:
        """Does everything or nothing, of this attempt if it is still the newest."""
        with self.file.transaction() as db:
            self._known(db).check_newest(fence)
            yield db


def _drop(db: sqlite3.Connection, *tables: str) -> None:
    for table in tables:
        db.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def _rename(db: sqlite3.Connection, moves: Moves) -> None:
    """Renames those tables that are there: an index may have had no rows in a version."""
    for table, to in moves:
        if columns_of(db, table):
            db.execute(f"ALTER TABLE {quoted(table)} RENAME TO {quoted(to)}")
