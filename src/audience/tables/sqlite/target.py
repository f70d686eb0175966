"""SQLite as a target: result and production tables, and the marks that say which partitions are in them."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audience.databases.sqlite import quoted
from audience.errors import Conflict
from audience.tables.base import PRODUCTION_COLUMNS, ConflictRules, Mark, Statistics
from audience.tables.batches import FETCH_ROWS
from audience.tables.result_rows import STORED, by_group, gathered, result_batch, types_of, with_time_texts
from audience.tables.sqlite.server import SqliteFile, columns_of, create, listed

SCHEMA = """
CREATE TABLE IF NOT EXISTS audience_task (
    task TEXT PRIMARY KEY, fence INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audience_partition (
    task TEXT NOT NULL, partition INTEGER NOT NULL, fence INTEGER NOT NULL, rows INTEGER NOT NULL,
    statistics TEXT NOT NULL, authors BLOB NOT NULL, PRIMARY KEY (task, partition)) WITHOUT ROWID;
"""
ADMIT = """
INSERT INTO audience_task VALUES (?, ?, 'open')
ON CONFLICT (task) DO UPDATE SET fence = excluded.fence WHERE fence <= excluded.fence AND state = 'open'
"""
DELETED = """
INSERT INTO audience_task VALUES (?, 0, 'deleted') ON CONFLICT (task) DO UPDATE SET state = 'deleted'
"""
BAR = "UPDATE audience_task SET fence = ? WHERE task = ? AND fence < ? AND state = 'open'"


class SqliteTarget:
    """Result and production tables in a SQLite file, beside whatever else lives there."""

    unstorable = ""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path
        self._file = SqliteFile(path)

    def prepare(self, task: str, fence: int, groups: Sequence[str]) -> None:
        with self._file.changing(new=True) as db:
            db.executescript(SCHEMA)
        with self._file.transaction() as db:
            if db.execute(ADMIT, (task, fence)).rowcount == 0:
                raise Conflict(f"task {task} was taken over or deleted; fence {fence} is not admitted")
        with self._file.changing() as db:
            for group in groups:
                create(db, f"production_{group}", types_of((*PRODUCTION_COLUMNS, "n")), "task_id, n")
                create(
                    db, f"results_{group}", types_of(STORED), "task_id, partition, n"
                )  # the last: by it a group is found

    def bar(self, task: str, fence: int) -> None:
        if self._is_prepared():
            with self._file.transaction() as db:
                db.execute(BAR, (fence, task, fence))

    def _is_prepared(self) -> bool:
        return self._file.has("audience_task")

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        batches = iter(rows)
        buffered = gathered(batches)
        with self._file.transaction() as db:
            _check_fence(db, task, fence)
            mark = "INSERT INTO audience_partition VALUES (?, ?, ?, 0, '', x'') ON CONFLICT DO NOTHING"
            if db.execute(mark, (task, partition, fence)).rowcount == 0:
                return False
            n_rows = sum(_insert(db, batch) for part in (buffered, batches) for batch in part)
            db.execute(
                "UPDATE audience_partition SET rows = ?, statistics = ?, authors = ? WHERE task = ? AND partition = ?",
                (n_rows, statistics.to_json(), statistics.packed_authors(), task, partition),
            )
        return True

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        if not self.path.exists():
            return
        blob = "authors" if authors else "x''"
        sql = f"SELECT partition, rows, statistics, {blob} FROM audience_partition WHERE task = ? ORDER BY partition"
        with self._file.session() as db:
            for row in db.execute(sql, (task,)):
                yield Mark(*row)

    def check(self) -> None:
        """It was looked at when it was opened."""

    def exists(self) -> bool:
        return self.path.exists()

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        names = columns or STORED
        for each in [group] if group else self._groups():
            sql = f"SELECT {listed(names)} FROM {quoted(f'results_{each}')} WHERE task_id = ? ORDER BY partition, n"
            yield from self._select(sql, (task,), names, each)

    def _select(self, sql: str, values: Sequence[Any], names: Sequence[str], group: str) -> Iterator[pa.RecordBatch]:
        with self._file.session() as db:
            cursor = db.execute(sql, values)
            while rows := cursor.fetchmany(8 * FETCH_ROWS):
                yield result_batch(names, rows, group)

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        found = []
        with self._file.session() as db:
            for group, partition, n in keys:
                sql = f"SELECT {listed(STORED)} FROM {quoted(f'results_{group}')}"
                row = db.execute(
                    f"{sql} WHERE task_id = ? AND partition = ? AND n = ?", (task, partition, n)
                ).fetchone()
                if row:
                    found.append({**dict(zip(STORED, row, strict=True)), "group": group})
        return found

    def _groups(self) -> list[str]:
        with self._file.session() as db:
            return _groups(db)

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        subject = "source_author" if rules.by_author else "id"
        table = quoted(f"production_{group}")
        names = {"production": table, "results": quoted(f"results_{group}"), "subject": subject}
        if not self._is_prepared():
            raise Conflict(f"the results are gone: there is no task {task} in {self.path}")
        with self._file.transaction() as db:
            _check_fence(db, task, fence)
            db.execute(f"DELETE FROM {table} WHERE task_id = ?", (task,))
            db.execute("CREATE TEMP TABLE conflict (panel TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID")
            db.executemany("INSERT INTO temp.conflict VALUES (?, ?)", rules.conflicts.items())
            for step in SETTLE:
                sql = step.format(**names)
                db.execute(sql, {"task": task} if ":task" in sql else {})
            counted = f"SELECT count(*), count(DISTINCT {subject}) FROM {table} WHERE task_id = ?"
            n_rows, n_subjects = db.execute(counted, (task,)).fetchone()
        return int(n_rows), int(n_subjects)

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        sql = f"SELECT {listed(PRODUCTION_COLUMNS)} FROM {quoted(f'production_{group}')} WHERE task_id = ? ORDER BY n"
        yield from self._select(sql, (task,), PRODUCTION_COLUMNS, group)

    def delete(self, task: str) -> None:
        if not self._is_prepared():
            return
        with self._file.transaction() as db:
            db.execute(DELETED, (task,))
            db.execute("DELETE FROM audience_partition WHERE task = ?", (task,))
            for group in _groups(db):
                db.execute(f"DELETE FROM {quoted(f'results_{group}')} WHERE task_id = ?", (task,))
                db.execute(f"DELETE FROM {quoted(f'production_{group}')} WHERE task_id = ?", (task,))

    def where(self, group: str, production: bool = False) -> str:
        return f"{self.path}, table {'production' if production else 'results'}_{group}"


# In steps through temporary tables with keys: as one statement the joins have no index to use.
SETTLE = (
    """
CREATE TEMP TABLE counted (subject TEXT, panel TEXT, posts INTEGER, PRIMARY KEY (subject, panel)) WITHOUT ROWID
""",
    """
INSERT INTO temp.counted SELECT {subject}, panel, count(DISTINCT id) FROM {results}
WHERE task_id = :task AND {subject} IS NOT NULL GROUP BY 1, 2
""",
    """
DELETE FROM temp.counted WHERE (subject, panel) IN (
    SELECT subject, panel FROM (
        SELECT subject, c.panel, posts, sum(posts) OVER (PARTITION BY subject, k.name) AS all_posts
        FROM temp.counted c JOIN temp.conflict k ON k.panel = c.panel)
    WHERE 2 * posts <= all_posts)
""",
    """
INSERT INTO {production}
SELECT id, task_id, source_author, panel, create_time, field_content, match_content, match_meta, model, score, evidence,
    posts, row_number() OVER (ORDER BY create_time, subject, panel)
FROM (
    SELECT r.*, c.subject, c.posts, row_number() OVER (
        PARTITION BY c.subject, c.panel ORDER BY r.create_time DESC, r.id DESC, r.partition DESC, r.n DESC) AS newest
    FROM {results} r JOIN temp.counted c ON c.subject = r.{subject} AND c.panel = r.panel
    WHERE r.task_id = :task)
WHERE newest = 1
""",
    "DROP TABLE temp.counted",
    "DROP TABLE temp.conflict",
)


def _check_fence(db: sqlite3.Connection, task: str, fence: int) -> None:
    present = db.execute("SELECT fence, state FROM audience_task WHERE task = ?", (task,)).fetchone()
    if present != (fence, "open"):
        raise Conflict(f"task {task} was taken over or deleted; nothing is written")


def _groups(db: sqlite3.Connection) -> list[str]:
    """The groups that have a table here; a table of such a name with other columns is not ours."""
    sql = "SELECT substr(name, 9) FROM sqlite_master WHERE type = 'table' AND name GLOB 'results_*' ORDER BY name"
    names = [row[0] for row in db.execute(sql)]
    return [name for name in names if columns_of(db, f"results_{name}") == list(STORED)]


def _insert(db: sqlite3.Connection, batch: pa.RecordBatch) -> int:
    for group, part in by_group(batch):
        sql = f"INSERT INTO {quoted(f'results_{group}')} VALUES ({', '.join('?' * len(STORED))})"
        db.executemany(sql, with_time_texts(part).iter_rows())
    return len(batch)
