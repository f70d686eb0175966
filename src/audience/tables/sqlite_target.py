"""SQLite as a target: result and production tables, and the marks that say which partitions are in them."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from audience.errors import BadInput, Conflict
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA, Mark, Settlement, Statistics
from audience.tables.sqlite import BUSY_TIMEOUT_S, FETCH_ROWS, check_is_database, mapped_errors, quoted
from audience.tables.times import parse_times

WRITE_BUFFER_BYTES = 16 * 2**20
WAL_RETRY_S = 0.02
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
SQL_TYPES = {"score": "REAL", "partition": "INTEGER", "n": "INTEGER", "posts": "INTEGER"}
STORED = tuple(name for name in RESULT_SCHEMA.names if name != "group")
TIME_FORMAT = "%Y-%m-%d %H:%M:%S%.f"


class SqliteTarget:
    """Result and production tables in a SQLite file, beside whatever else lives there."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path
        self._writing = threading.Lock()
        if path.is_dir():
            raise BadInput(f"{path} is a folder: name a file in it for the results, such as {path / 'labels.db'}")
        if not path.parent.is_dir():
            raise BadInput(f"there is no folder {path.parent} for the results: create it, or write elsewhere")
        if path.exists() and path.stat().st_size:
            check_is_database(path)
        if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise BadInput(f"{path} is read-only here: write elsewhere, or make the file and its folder writable")

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        with mapped_errors(self.path):
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            with contextlib.closing(db):
                db.execute("PRAGMA synchronous = NORMAL")
                yield db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; everything or nothing."""
        with self._writing, self._session() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    def prepare(self, task: str, fence: int, groups: Sequence[str]) -> None:
        with self._writing, self._session() as db:
            _use_wal(db)
            db.executescript(SCHEMA)
        with self._transaction() as db:
            if db.execute(ADMIT, (task, fence)).rowcount == 0:
                raise Conflict(f"task {task} was taken over or deleted; fence {fence} is not admitted")
        with self._writing, self._session() as db:
            for group in groups:
                _create(db, f"production_{group}", (*PRODUCTION_COLUMNS, "n"), "task_id, n")
                _create(db, f"results_{group}", STORED, "task_id, partition, n")  # the last: by it a group is found

    def bar(self, task: str, fence: int) -> None:
        if self._is_prepared():
            with self._transaction() as db:
                db.execute(BAR, (fence, task, fence))

    def _is_prepared(self) -> bool:
        if not self.path.exists():
            return False
        with self._session() as db:
            return bool(_columns(db, "audience_task"))

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        batches = iter(rows)
        buffered = _gather(batches)
        with self._transaction() as db:
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
        with self._session() as db:
            for row in db.execute(sql, (task,)):
                yield Mark(*row)

    def exists(self) -> bool:
        return self.path.exists()

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        names = columns or STORED
        for each in [group] if group else self._groups():
            sql = f"SELECT {_list(names)} FROM {quoted(f'results_{each}')} WHERE task_id = ? ORDER BY partition, n"
            yield from self._select(sql, (task,), names, each)

    def _select(self, sql: str, values: Sequence[Any], names: Sequence[str], group: str) -> Iterator[pa.RecordBatch]:
        with self._session() as db:
            cursor = db.execute(sql, values)
            while rows := cursor.fetchmany(8 * FETCH_ROWS):
                yield _result_batch(names, rows, group)

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        found = []
        with self._session() as db:
            for group, partition, n in keys:
                sql = f"SELECT {_list(STORED)} FROM {quoted(f'results_{group}')}"
                row = db.execute(
                    f"{sql} WHERE task_id = ? AND partition = ? AND n = ?", (task, partition, n)
                ).fetchone()
                if row:
                    found.append({**dict(zip(STORED, row, strict=True)), "group": group})
        return found

    def _groups(self) -> list[str]:
        with self._session() as db:
            return _groups(db)

    def produce(self, task: str, group: str, fence: int, settlement: Settlement) -> tuple[int, int]:
        subject = "source_author" if settlement.by_author else "id"
        table = quoted(f"production_{group}")
        names = {"production": table, "results": quoted(f"results_{group}"), "subject": subject}
        if not self._is_prepared():
            raise Conflict(f"the results are gone: there is no task {task} in {self.path}")
        with self._transaction() as db:
            _check_fence(db, task, fence)
            db.execute(f"DELETE FROM {table} WHERE task_id = ?", (task,))
            db.execute("CREATE TEMP TABLE conflict (panel TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID")
            db.executemany("INSERT INTO temp.conflict VALUES (?, ?)", settlement.conflicts.items())
            for step in SETTLE:
                sql = step.format(**names)
                db.execute(sql, {"task": task} if ":task" in sql else {})
            counted = f"SELECT count(*), count(DISTINCT {subject}) FROM {table} WHERE task_id = ?"
            n_rows, n_subjects = db.execute(counted, (task,)).fetchone()
        return int(n_rows), int(n_subjects)

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        sql = f"SELECT {_list(PRODUCTION_COLUMNS)} FROM {quoted(f'production_{group}')} WHERE task_id = ? ORDER BY n"
        yield from self._select(sql, (task,), PRODUCTION_COLUMNS, group)

    def delete(self, task: str) -> None:
        if not self._is_prepared():
            return
        with self._transaction() as db:
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


def _use_wal(db: sqlite3.Connection) -> None:
    """SQLite does not wait by itself when two processes switch a new database at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _check_fence(db: sqlite3.Connection, task: str, fence: int) -> None:
    present = db.execute("SELECT fence, state FROM audience_task WHERE task = ?", (task,)).fetchone()
    if present != (fence, "open"):
        raise Conflict(f"task {task} was taken over or deleted; nothing is written")


def _create(db: sqlite3.Connection, table: str, columns: Sequence[str], key: str) -> None:
    """Creates one of our tables, unless another process just did; one of that name which is not ours is left alone and
    reported."""
    declared = ", ".join(f"{quoted(c)} {SQL_TYPES.get(c, 'TEXT')}" for c in columns)
    if not _columns(db, table):
        db.execute(f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({declared}, PRIMARY KEY ({key})) WITHOUT ROWID")
    if _columns(db, table) != list(columns):
        raise Conflict(f"the table {table} is there already and is not Audience's: name the group or target otherwise")


def _groups(db: sqlite3.Connection) -> list[str]:
    """The groups that have a table here; a table of such a name with other columns is not ours."""
    sql = "SELECT substr(name, 9) FROM sqlite_master WHERE type = 'table' AND name GLOB 'results_*' ORDER BY name"
    names = [row[0] for row in db.execute(sql)]
    return [name for name in names if _columns(db, f"results_{name}") == list(STORED)]


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({quoted(table)})")]


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _gather(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Results of a partition before the database is locked for them; a huge partition is not gathered whole."""
    gathered, size = [], 0
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size > WRITE_BUFFER_BYTES:
            break
    return gathered


def _insert(db: sqlite3.Connection, batch: pa.RecordBatch) -> int:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(pl.col("create_time").dt.to_string(TIME_FORMAT))
    for (group,), part in frame.group_by("group", maintain_order=True):
        sql = f"INSERT INTO {quoted(f'results_{group}')} VALUES ({', '.join('?' * len(STORED))})"
        db.executemany(sql, part.select(STORED).iter_rows())
    return len(frame)


def _result_batch(names: Sequence[str], rows: list[Any], group: str) -> pa.RecordBatch:
    arrays = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        if name == "create_time":
            texts = pl.Series(values, dtype=pl.String)
            arrays.append(parse_times(texts).to_arrow().cast(pa.timestamp("us")))
        else:
            arrays.append(pa.array(values, pa.int64() if name == "posts" else RESULT_SCHEMA.field(name).type))
    arrays.append(pa.array([group] * len(rows), pa.large_string()))
    return pa.RecordBatch.from_arrays(arrays, names=[*names, "group"])
