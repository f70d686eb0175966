"""SQLite's write-ahead log, in our own records and in targets."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience.app.root import App
from audience.databases.wal import LARGE_BYTES
from audience.store import schema
from audience.tables.sqlite.server import SqliteFile

PIECE = "x" * 2**20


@pytest.fixture(params=["records", "target"])
def written(request: pytest.FixtureRequest, app: App, tmp_path: Path) -> tuple[Path, Callable[[int], None]]:
    """(a database, what writes a megabyte into it under a number)."""
    if request.param == "records":
        path = tmp_path / "home" / "audience.db"
        app.store.database.rows(sa.select(schema.run))

        def note(n: int) -> None:
            with app.store.database.changing("a", "b", str(n), text=PIECE):
                pass

        return path, note
    file = SqliteFile(tmp_path / "labels.db")
    with file.changing(new=True) as db:
        db.execute("CREATE TABLE t (n INTEGER, text TEXT)")

    def insert(n: int) -> None:
        with file.transaction() as db:
            db.execute("INSERT INTO t VALUES (?, ?)", (n, PIECE))

    return tmp_path / "labels.db", insert


def size_of_log(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def test_the_log_stays_small_while_somebody_else_is_connected(written: tuple[Path, Callable[[int], None]]) -> None:
    path, write = written
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM sqlite_master").fetchall()
        sizes = []
        for n in range(30):
            write(n)
            sizes.append(size_of_log(path))
    assert max(sizes) < 2 * LARGE_BYTES
    assert path.stat().st_size > 20 * len(PIECE)


def test_nobody_checkpoints_after_a_commit(written: tuple[Path, Callable[[int], None]]) -> None:
    path, write = written
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM sqlite_master").fetchall()
        before = path.stat().st_size
        while size_of_log(path) <= LARGE_BYTES:
            write(0)
        assert path.stat().st_size == before
        write(0)
        assert path.stat().st_size > before
