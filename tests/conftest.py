"""What several suites share: an app in a folder of its own, and small tables of posts."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from audience.app import App
from audience.settings import Settings

COLUMNS = ("id", "s_id", "author", "content", "post_time")


@pytest.fixture(autouse=True)
def _nothing_crashes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Threads log what they did not expect, and go on: no test may leave such a record unseen."""
    yield
    crashes = [record for record in caplog.get_records("call") if record.levelname == "ERROR"]
    assert not [(record.getMessage(), str(record.exc_info)) for record in crashes]


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(Settings(home=tmp_path / "home"))


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Makes a SQLite file with the table `posts` from rows of `COLUMNS`."""

    def make(rows: Sequence[Sequence[Any]], name: str = "posts.db", columns: Sequence[str] = COLUMNS) -> Path:
        path = tmp_path / name
        db = sqlite3.connect(path)
        with db:
            db.execute(f"CREATE TABLE posts ({', '.join(columns)})")
            db.executemany(f"INSERT INTO posts VALUES ({', '.join('?' * len(columns))})", rows)
        db.close()
        return path

    return make


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., Path]:
    """Writes a rules file."""

    def write(text: str, name: str = "gender.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
