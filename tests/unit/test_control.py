"""How a job under way is stopped."""

import sqlite3
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from audience.jobs.control import JobCancelled, JobControl
from audience.tables.base import Selection, SourceSpec
from audience.tables.registry import open_source

SELECTION = Selection(fields=("content",), partition_rows=1_000)


def test_planning_of_a_view_that_takes_for_ever_ends_when_the_job_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "posts.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE n (i)")
        db.executemany("INSERT INTO n VALUES (?)", [(i,) for i in range(3_000)])
        db.execute("CREATE VIEW posts AS SELECT a.i AS id, 'x' AS content FROM n a, n b, n c")
    db.close()
    source, control = open_source(SourceSpec(url=str(path), table="posts")), JobControl()
    threading.Timer(0.5, control.stop.set).start()
    began = time.monotonic()
    with pytest.raises(JobCancelled), control.interrupting(source.interrupt):
        source.plan(SELECTION)
    assert time.monotonic() - began < 30


def test_planning_of_files_ends_when_the_job_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("id,content\n" + "".join(f"{i},x\n" for i in range(10)))
    source, control = open_source(SourceSpec(url=str(path))), JobControl()
    control.stop.set()

    def plan_for_ever() -> None:
        while True:
            source.plan(SELECTION)

    with pytest.raises(JobCancelled), control.interrupting(source.interrupt):
        plan_for_ever()


def test_an_error_of_a_job_that_goes_on_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), JobControl().interrupting(lambda: None):
        raise ValueError("mine")


def test_batches_are_counted_until_the_job_is_cancelled() -> None:
    control, batch = JobControl(), pa.record_batch({"id": ["a", "b"]})
    batches = control.counted([batch, batch])
    assert len(next(batches)) == control.progress == 2
    control.stop.set()
    with pytest.raises(JobCancelled):
        next(batches)


def test_rows_are_read_on_while_a_late_plan_of_the_same_source_is_interrupted(tmp_path: Path) -> None:
    """Two workers may believe to own the plan: the one that lost it is interrupted while the other's partitions are
    read, from the same source when both are threads of one process."""
    path = tmp_path / "posts.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, content TEXT)")
        db.executemany("INSERT INTO posts VALUES (?, 'x')", [(i,) for i in range(200_000)])
    db.close()
    source = open_source(SourceSpec(url=str(path)))
    selection = Selection(fields=("content",), partition_rows=200_000)
    (partition,) = source.plan(selection).partitions
    n_rows = 0
    for batch in source.read(partition, selection):
        source.interrupt()
        n_rows += len(batch)
    assert n_rows == 200_000
