"""Publications in SQLite: tables `published_INDEX`, and the row of `audience_publication` that says what they are.

published_INDEX             what is published
published_INDEX__former     what was before
published_INDEX__next       being made; renamed when it is whole
published_INDEX__new        the new rows, before they are merged
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from audience.databases.sqlite import listed, quoted
from audience.tables.batches import FETCH_ROWS
from audience.tables.publications import (
    CONTENT,
    PUBLISHED_SCHEMA,
    STAGED_SCHEMA,
    Change,
    PublishedVersions,
    Publishing,
    never_published,
    overtaken,
)
from audience.tables.result_rows import batch_of, with_time_texts
from audience.tables.sql.publications import (
    AT_FORMAT,
    as_json,
    following,
    from_json,
    incoming,
    present,
    previous,
    taken,
)
from audience.tables.sql.schema import not_ours
from audience.tables.sqlite.schema import columns_of, create
from audience.tables.sqlite.server import SqliteFile

RECORD = {
    "publication": pa.large_string(),
    "name": pa.large_string(),
    "fence": pa.int64(),
    "state": pa.large_string(),
    "version": pa.int64(),
    "former": pa.int64(),
    "indexes": pa.large_string(),
    "begun": pa.large_string(),
}
"""`state`: open or deleted. `indexes`: those with published or former tables, `begun`: those with tables aside."""

ADMIT = """
UPDATE audience_publication SET fence = ?, begun = '[]' WHERE publication = ? AND fence <= ? AND state = 'open'
"""
KEYS = ("subject", "panel")
COPIED = listed([name for name in PUBLISHED_SCHEMA.names if name not in KEYS])

NEW_ROWS = f"""
INSERT INTO {{next}} (subject, panel, published_at, version, {listed(CONTENT.names)})
WITH conflict (panel, name) AS ({{conflicts}}),
judged (n, run, conflict, newest, last_run) AS (
    SELECT k.n, k.run, c.name, row_number() OVER (PARTITION BY k.subject, k.panel ORDER BY k.n DESC),
        max(k.run) OVER (PARTITION BY k.subject, c.name)
    FROM (SELECT n, run, subject, panel FROM {{new}}) k LEFT JOIN conflict c ON c.panel = k.panel)
SELECT s.subject, s.panel, coalesce(o.published_at, :at), :version, {", ".join(f"s.{quoted(n)}" for n in CONTENT.names)}
FROM judged j JOIN {{new}} s ON s.n = j.n
LEFT JOIN {{old}} o ON o.subject = s.subject AND o.panel = s.panel AND :replace = 0
WHERE j.newest = 1 AND (j.conflict IS NULL OR j.run = j.last_run)
"""
OLD_ROWS = f"""
INSERT INTO {{next}} (subject, panel, {COPIED})
WITH conflict (panel, name) AS ({{conflicts}})
SELECT o.subject, o.panel, {COPIED}
FROM {{old}} o LEFT JOIN conflict k ON k.panel = o.panel
WHERE :replace = 0
    AND NOT EXISTS (SELECT 1 FROM {{next}} x WHERE x.subject = o.subject AND x.panel = o.panel AND x.version = :version)
    AND NOT EXISTS (
        SELECT 1 FROM {{next}} x JOIN conflict j ON j.panel = x.panel
        WHERE x.subject = o.subject AND x.version = :version AND j.name = k.name)
"""
CHANGES = """
WITH conflict (panel, name) AS ({conflicts}),
judged (panel, fate) AS (
    SELECT x.panel, CASE
        WHEN o.subject IS NOT NULL THEN 'kept'
        WHEN :replace = 0 AND EXISTS (
            SELECT 1 FROM {old} p JOIN conflict j ON j.panel = p.panel
            WHERE p.subject = x.subject AND j.name = k.name) THEN 'changed'
        ELSE 'added' END
    FROM {next} x LEFT JOIN conflict k ON k.panel = x.panel
    LEFT JOIN {old} o ON o.subject = x.subject AND o.panel = x.panel AND :replace = 0
    UNION ALL
    SELECT o.panel, 'dropped' FROM {old} o
    WHERE :replace = 1 OR NOT EXISTS (SELECT 1 FROM {next} x WHERE x.subject = o.subject AND x.panel = o.panel))
SELECT panel, sum(CASE WHEN fate = 'added' THEN 1 ELSE 0 END), sum(CASE WHEN fate = 'changed' THEN 1 ELSE 0 END),
    sum(CASE WHEN fate = 'kept' THEN 1 ELSE 0 END), sum(CASE WHEN fate = 'dropped' THEN 1 ELSE 0 END)
FROM judged GROUP BY panel ORDER BY panel
"""


@dataclass(frozen=True)
class Row:
    """Our row of `audience_publication`."""

    fence: int
    state: str
    version: int
    former: int
    indexes: tuple[str, ...]
    begun: tuple[str, ...]


class SqlitePublisher:
    """One publication's tables in a SQLite file."""

    def __init__(self, file: SqliteFile, publication: str, name: str) -> None:
        self.file = file
        self.publication = publication
        self.name = name

    def versions(self) -> PublishedVersions:
        if not self.file.has("audience_publication"):
            return PublishedVersions()
        with self.file.session() as db:
            row = self._row(db)
        return (
            PublishedVersions(row.version, row.former, row.indexes)
            if row and row.state == "open"
            else PublishedVersions()
        )

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        with self.file.changing(new=True) as db:
            create(db, "audience_publication", RECORD, ("publication",))
        with self.file.transaction() as db:
            row = self._admit(db, publishing.fence)
            if row.version != publishing.version:
                self._refuse_foreign(db, row, indexes)
                db.execute(
                    "UPDATE audience_publication SET begun = ? WHERE publication = ?",
                    (as_json(indexes), self.publication),
                )
        return PublishedVersions(row.version, row.former, row.indexes)

    def _admit(self, db: sqlite3.Connection, fence: int) -> Row:
        """The row, which from now on refuses older fences; what was left aside is gone."""
        first = "INSERT INTO audience_publication VALUES (?, ?, 0, 'open', 0, 0, '[]', '[]') ON CONFLICT DO NOTHING"
        db.execute(first, (self.publication, self.name))
        row = self._row(db)
        if row is None or db.execute(ADMIT, (fence, self.publication, fence)).rowcount == 0:
            raise overtaken()
        for index in row.begun:
            _drop(db, following(index), incoming(index))
        return row

    def _refuse_foreign(self, db: sqlite3.Connection, row: Row, indexes: Sequence[str]) -> None:
        others = "SELECT name, indexes, begun FROM audience_publication WHERE publication <> ? AND state = 'open'"
        for name, *lists in db.execute(others, (self.publication,)):
            theirs = {index.lower() for each in lists for index in from_json(each)}
            if twice := [index for index in indexes if index.lower() in theirs]:
                raise taken(twice[0], name)
        own = {table for index in row.indexes for table in (present(index), previous(index))}
        for table in (t for i in indexes for t in (present(i), previous(i), following(i), incoming(i))):
            if table not in own and columns_of(db, table):
                raise not_ours(table)

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        with self._transaction(publishing.fence) as db:
            _drop(db, following(index), incoming(index))
            create(db, incoming(index), _types(STAGED_SCHEMA), ("n",))
            create(db, following(index), _types(PUBLISHED_SCHEMA), KEYS)
        insert = f"INSERT INTO {quoted(incoming(index))} VALUES ({', '.join('?' * len(STAGED_SCHEMA))})"
        for batch in rows:
            with self._transaction(publishing.fence) as db:
                db.executemany(insert, with_time_texts(pl.DataFrame(batch)).select(STAGED_SCHEMA.names).iter_rows())
        with self._transaction(publishing.fence) as db:
            return _merged(db, publishing, index)

    def swap(self, publishing: Publishing) -> None:
        with self._transaction(publishing.fence) as db:
            row = self._known(db)
            if row.version == publishing.version:
                return
            for index in row.begun:
                _drop(db, previous(index), incoming(index))
                _rename(db, present(index), previous(index))
                _rename(db, following(index), present(index))
            indexes = as_json(dict.fromkeys([*row.indexes, *row.begun]))
            self._turn_to(db, publishing.version, row.version, indexes)

    def _turn_to(self, db: sqlite3.Connection, version: int, former: int, indexes: str) -> None:
        sql = "UPDATE audience_publication SET version = ?, former = ?, indexes = ?, begun = '[]' WHERE publication = ?"
        db.execute(sql, (version, former, indexes, self.publication))

    def discard(self, fence: int) -> None:
        if self.file.has("audience_publication"):
            with self.file.transaction() as db:
                self._admit(db, fence)

    def roll_back(self, fence: int, version: int) -> None:
        if not self.file.has("audience_publication"):
            raise never_published(0)
        with self.file.transaction() as db:
            row = self._admit(db, fence)
            if row.version == version:
                return
            if row.former != version:
                raise never_published(row.former)
            for index in row.indexes:
                aside = (
                    (present(index), following(index)),
                    (previous(index), present(index)),
                    (following(index), previous(index)),
                )
                for table, to in aside:
                    _rename(db, table, to)
            self._turn_to(db, version, row.version, as_json(row.indexes))

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        with self.file.session() as db:
            row = self._row(db)
            if row is None or index not in row.indexes or not columns_of(db, present(index)):
                return
            cursor = db.execute(f"SELECT {listed(PUBLISHED_SCHEMA.names)} FROM {quoted(present(index))}")
            while rows := cursor.fetchmany(8 * FETCH_ROWS):
                yield batch_of(rows, PUBLISHED_SCHEMA)

    def remove(self, fence: int) -> None:
        if not self.file.has("audience_publication"):
            return
        with self.file.transaction() as db:
            row = self._row(db)
            if row is None or row.state == "deleted":
                return
            row = self._admit(db, fence)
            for index in row.indexes:
                _drop(db, present(index), previous(index))
            gone = "UPDATE audience_publication SET state = 'deleted', indexes = '[]' WHERE publication = ?"
            db.execute(gone, (self.publication,))

    def where(self, index: str) -> str:
        return f"{self.file.path}, table {present(index)}"

    def _row(self, db: sqlite3.Connection) -> Row | None:
        if columns_of(db, "audience_publication") != list(RECORD):
            raise not_ours("audience_publication")
        sql = "SELECT fence, state, version, former, indexes, begun FROM audience_publication WHERE publication = ?"
        found = db.execute(sql, (self.publication,)).fetchone()
        return Row(*found[:4], *map(from_json, found[4:])) if found else None

    def _known(self, db: sqlite3.Connection) -> Row:
        row = self._row(db)
        if row is None:
            raise overtaken()
        return row

    @contextlib.contextmanager
    def _transaction(self, fence: int) -> Iterator[sqlite3.Connection]:
        """Everything or nothing, of this attempt if it is still the newest."""
        with self.file.transaction() as db:
            row = self._known(db)
            if (row.fence, row.state) != (fence, "open"):
                raise overtaken()
            yield db


def _merged(db: sqlite3.Connection, publishing: Publishing, index: str) -> list[Change]:
    """The next version from the new rows and the present ones, which both stay as they are."""
    merged = quoted(following(index))
    old = quoted(present(index)) if columns_of(db, present(index)) else f"(SELECT * FROM {merged} WHERE 1 = 0)"
    conflicts, values = _conflicts(publishing.conflicts)
    names = {"next": merged, "new": quoted(incoming(index)), "old": old, "conflicts": conflicts}
    values |= {"version": publishing.version, "replace": int(publishing.replace)}
    db.execute(NEW_ROWS.format(**names), {**values, "at": publishing.at.strftime(AT_FORMAT)})
    db.execute(OLD_ROWS.format(**names), values)
    _drop(db, incoming(index))
    return [Change(index, *counted) for counted in db.execute(CHANGES.format(**names), values)]


def _conflicts(conflicts: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Panels and their conflict groups as rows of SQL, and their values."""
    if not conflicts:
        return "SELECT NULL, NULL WHERE 1 = 0", {}
    rows = ", ".join(f"(:panel{n}, :name{n})" for n in range(len(conflicts)))
    values = {
        f"{key}{n}": text
        for n, pair in enumerate(conflicts.items())
        for key, text in zip(("panel", "name"), pair, strict=True)
    }
    return f"VALUES {rows}", values


def _drop(db: sqlite3.Connection, *tables: str) -> None:
    for table in tables:
        db.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def _rename(db: sqlite3.Connection, table: str, to: str) -> None:
    if columns_of(db, table):
        db.execute(f"ALTER TABLE {quoted(table)} RENAME TO {quoted(to)}")


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema}
