"""What several suites share: an app in a folder of its own, and small tables of posts."""

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from audience.app.root import App
from audience.settings import Settings

COLUMNS = ("id", "s_id", "author", "content", "post_time")
MARIADB = os.environ.get("AUDIENCE_TEST_MARIADB", "mysql://root@127.0.0.1:3306/")
POSTGRES = os.environ.get("AUDIENCE_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("AUDIENCE_TEST_REDIS", "redis://127.0.0.1:6379/15")
RABBITMQ = os.environ.get("AUDIENCE_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")


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


# real servers: tests that need one say so and skip where it is not there, and fail in CI


def absent(server: str, error: Exception) -> None:
    reason = f"no {server} answers: {str(error).splitlines()[0]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def new_mysql_database() -> Iterator[str]:
    """The URL of a new, empty MariaDB database, which is dropped afterwards."""
    from audience.tables.mysql.server import MysqlServer

    server, name = MysqlServer.at(MARIADB), f"audience_test_{uuid.uuid4().hex[:12]}"
    try:
        with server.session() as connection:
            connection.cursor().execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    except Exception as error:
        absent("MariaDB", error)
    yield MARIADB + name
    with server.session() as connection:
        connection.cursor().execute(f"DROP DATABASE {name}")


@contextlib.contextmanager
def new_postgres_database() -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, which is dropped afterwards."""
    from audience.tables.postgres.server import PostgresServer

    server, name = PostgresServer.at(POSTGRES), f"audience_test_{uuid.uuid4().hex[:12]}"
    try:
        with server.session() as connection:
            connection.execute(f"CREATE DATABASE {name}")
    except Exception as error:
        absent("PostgreSQL", error)
    yield f"{POSTGRES.rpartition('/')[0]}/{name}"
    with server.session() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def mysql_url() -> Iterator[str]:
    with new_mysql_database() as url:
        yield url


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with new_postgres_database() as url:
        yield url


# making a database takes a while: suites of many small tests that name their own tables share one


@pytest.fixture(scope="session")
def shared_mysql_url() -> Iterator[str]:
    with new_mysql_database() as url:
        yield url


@pytest.fixture(scope="session")
def shared_postgres_url() -> Iterator[str]:
    with new_postgres_database() as url:
        yield url


STORES = ("sqlite", "mariadb", "postgresql")


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where records can be made, in each database that may hold them."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("mysql_url" if request.param == "mariadb" else "postgres_url"))


@pytest.fixture
def redis_url() -> str:
    return _answering(REDIS, "Redis")


@pytest.fixture
def rabbitmq_url() -> str:
    return _answering(RABBITMQ, "RabbitMQ")


def _answering(url: str, server: str) -> str:
    from kombu import Connection

    try:
        with Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1)
    except Exception as error:
        absent(server, error)
    return url
