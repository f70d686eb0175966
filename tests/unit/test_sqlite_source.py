"""What is particular to SQLite as a source: values of any type in any column."""

import contextlib
import datetime as dt
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audience.tables.base import Selection, SourceSpec
from audience.tables.sqlite.source import SqliteSource

MAY = dt.datetime(2024, 5, 1), dt.datetime(2024, 6, 1)


def table(folder: Path, columns: str, rows: Sequence[Sequence[Any]], *more: str, end: str = "") -> Path:
    path = folder / "posts.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE posts ({columns}){end}")
        db.executemany(f"INSERT INTO posts VALUES ({', '.join('?' * len(rows[0]))})", rows)
        for sql in more:
            db.execute(sql)
    return path


def read(path: Path, selection: Selection, name: str = "posts") -> list[dict[str, Any]]:
    source = SqliteSource(SourceSpec(url=str(path), table=name), path)
    plan = source.plan(selection)
    rows = [r for p in plan.partitions for b in source.read(p, selection) for r in b.to_pylist()]
    assert plan.n_rows == len(rows)
    return rows


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_keys_of_every_type_are_cut_and_none_is_read_twice(tmp_path: Path, size: int) -> None:
    keys = [1, "1", b"1", 2.5, -7, 2**60, float("inf"), "a", b"a", b"\xff", "a\0b", "", b"", struct.pack("<q", 3)]
    path = table(tmp_path, "id PRIMARY KEY, content TEXT", [(k, "x") for k in keys], end=" WITHOUT ROWID")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO posts VALUES (CAST(X'fe61' AS TEXT), 'x')")
    rows = read(path, Selection(fields=("content",), partition_rows=size))
    assert len(rows) == len(keys) + 1
    assert sorted(r["id"] for r in rows if not r["error"])[2:7] == ["\x03" + "\0" * 7, "-7", "1", "1", "1"]
    assert sum(r["error"] is not None for r in rows) == 2  # the two that are not UTF-8


@pytest.mark.parametrize("size", [7, 100])
def test_blobs_in_a_column_of_texts_are_cut_through_a_view(tmp_path: Path, size: int) -> None:
    rows = [(struct.pack("<q", i), "x") for i in range(1, 31)]
    path = table(
        tmp_path, "pid TEXT, txt TEXT", rows, "CREATE VIEW seen AS SELECT pid AS id, txt AS content FROM posts"
    )
    assert len(read(path, Selection(fields=("content",), partition_rows=size), "seen")) == 30


@pytest.mark.parametrize("index", ["CREATE INDEX at ON posts (post_time)", "SELECT 1"])
def test_times_that_change_their_form_after_thousands_of_rows_are_selected_by_time(tmp_path: Path, index: str) -> None:
    old = [(i, str(dt.datetime(2024, 4, 1) + dt.timedelta(minutes=i)), "x") for i in range(1200)]
    new = [
        (2001, "2024-05-10T09:00:00", "x"),
        (2002, "2024-06-01 02:00:00+08:00", "x"),  # in May
        (2003, "2024-05-01 07:00:00+08:00", "x"),  # in April
        (2004, 1715337000, "x"),
        (2005, "2024/05/10 11:00", "x"),
        (2006, "2024-04-30 24:00:00", "x"),  # the first of May
        (2007, "2024-05-10 12:30:00.5", "x"),
    ]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, post_time, content TEXT", [*old, *new], index)
    rows = read(path, Selection(*MAY, ("content",)))
    inside = [r["id"] for r in rows if r["post_time"] and MAY[0] <= r["post_time"] < MAY[1]]
    assert sorted(inside) == ["2001", "2002", "2004", "2005", "2006", "2007"]


def test_texts_that_are_no_times_do_not_keep_a_range_from_being_selected(tmp_path: Path) -> None:
    rows = [(1, "2024-05-01 10:00:00", "x"), (2, "soon", "x"), (3, "2024-07-01 10:00:00.25", "x"), (4, None, "x")]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, post_time TEXT, content TEXT", rows)
    assert [r["id"] for r in read(path, Selection(*MAY, ("content",)))] == ["1"]


def test_whole_number_that_was_stored_as_a_real_keeps_its_digits(tmp_path: Path) -> None:
    rows = [(1001.0, "x"), (1234567890123456.0, "x"), (2.5, "x"), (1e300, "x"), (-3.0, "x")]
    found = read(table(tmp_path, "id REAL, content TEXT", rows), Selection(fields=("content",)))
    assert [r["id"] for r in found] == ["1001", "1234567890123456", "2.5", "1.0e+300", "-3"]
