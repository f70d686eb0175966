"""What only publications on servers can meet: readers in the way, attempts that still work when they are overtaken,
servers that forbid LOAD DATA LOCAL, rights of others."""

import contextlib
import datetime as dt
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from private_mariadb import running_mariadb

from audience.errors import BadInput, Conflict, Transient
from audience.tables.mysql import publisher as mysql_publisher
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.publications import STAGED_SCHEMA, Publisher, Publishing
from audience.tables.registry import open_publisher

ID = "0123456789abcdef0123456789abcdef"
WAITING = (
    "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for table%'"
)


def attempt(version: int, fence: int | None = None) -> Publishing:
    return Publishing(fence or version, version, dt.datetime(2024, 5, version), {"/male": "sex", "/female": "sex"})


def batch(*pairs: tuple[str, str]) -> pa.RecordBatch:
    rows = [
        {"subject": subject, "panel": panel, "id": f"p{n}", "task_id": "t", "posts": 1, "run": 1, "n": n}
        for n, (subject, panel) in enumerate(pairs)
    ]
    return pa.RecordBatch.from_pylist(rows, STAGED_SCHEMA)


def publish(publisher: Publisher, publishing: Publishing, *pairs: tuple[str, str]) -> None:
    publisher.begin(publishing, ["forum", "blog"])
    for index in ("forum", "blog"):
        publisher.merge(publishing, index, [batch(*pairs)])
    publisher.swap(publishing)


def published(publisher: Publisher) -> list[list[tuple[str, str]]]:
    """The pairs of both indexes."""
    return [
        sorted((row["subject"], row["panel"]) for found in publisher.published(index) for row in found.to_pylist())
        for index in ("forum", "blog")
    ]


OLD, NEW = [("amy", "/male")], [("amy", "/female")]


def publish_new(url: str) -> None:
    publish(open_publisher(url, ID, "labels"), attempt(2), *NEW)


@contextlib.contextmanager
def reading(url: str, table: str) -> Any:
    """Somebody has begun to read a table and does not end."""
    with MysqlServer.at(url).session() as connection, connection.cursor() as cursor:
        connection.begin()
        cursor.execute(f"SELECT * FROM {table}")
        yield


@pytest.fixture
def mysql(mysql_url: str) -> Publisher:
    publisher = open_publisher(mysql_url, ID, "labels")
    publish(publisher, attempt(1), *OLD)
    return publisher


@pytest.fixture
def postgres(postgres_url: str) -> Publisher:
    publisher = open_publisher(postgres_url, ID, "labels")
    publish(publisher, attempt(1), *OLD)
    return publisher


@pytest.mark.parametrize("in_the_way", ["published_blog", "published_forum", f"audience_edition_{ID}"])
def test_attempt_killed_while_its_renaming_waits_is_found_done_or_undone(
    mysql: Publisher, mysql_url: str, in_the_way: str
) -> None:
    with ThreadPoolExecutor() as pool:
        with reading(mysql_url, in_the_way), MysqlServer.at(mysql_url).session() as connection:
            process = multiprocessing.get_context("spawn").Process(target=publish_new, args=(mysql_url,))
            process.start()
            deadline, cursor = time.monotonic() + 60, connection.cursor()
            while cursor.execute(WAITING) and cursor.fetchone() == (0,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            following = pool.submit(mysql.begin, attempt(2, 3), ["forum", "blog"])
            time.sleep(0.5)  # so that it waits as well
        versions = following.result(60)
    assert versions == mysql.versions()
    assert published(mysql) == ([NEW, NEW] if versions.version == 2 else [OLD, OLD])
    publish_again = attempt(3, 4)
    publish(mysql, publish_again, *NEW)
    assert published(mysql) == [NEW, NEW]


def test_reader_that_does_not_end_keeps_the_old_version_and_the_attempt_says_so(
    mysql: Publisher, mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_publisher, "SETTINGS", ("SET SESSION lock_wait_timeout = 1",))
    with reading(mysql_url, "published_blog"), pytest.raises(Transient, match="waiting for another"):
        publish(mysql, attempt(2), *NEW)
    assert (mysql.versions().version, published(mysql)) == (1, [OLD, OLD])
    mysql.swap(attempt(2))
    assert (mysql.versions().version, published(mysql)) == (2, [NEW, NEW])


def test_version_of_an_earlier_audience_is_merged_with(mysql: Publisher, mysql_url: str) -> None:
    """Its keys are of the author alone, under other names."""
    publish(mysql, attempt(2), ("ben", "/male"))
    with MysqlServer.at(mysql_url).session() as connection, connection.cursor() as cursor:
        for table in ("published_forum", "published_blog"):
            cursor.execute(f"UPDATE {table} SET subject_hash = LEFT(UNHEX(SHA2(subject, 256)), 16)")
            old = "CHANGE subject_hash subject_key BINARY(16), CHANGE panel_hash panel_key BINARY(16), DROP KEY panel"
            cursor.execute(f"ALTER TABLE {table} {old}")
            cursor.execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin")
    publish(mysql, attempt(3), *NEW)
    assert published(mysql) == [[("amy", "/female"), ("ben", "/male")]] * 2


def test_server_that_forbids_load_data_local_is_published_to(tmp_path: Path) -> None:
    with running_mariadb(tmp_path / "server", "--local-infile=0") as server:
        publisher = open_publisher(server.url("audience_test"), ID, "labels")
        publish(publisher, attempt(1), *OLD)
        assert published(publisher) == [OLD, OLD]


def test_grants_on_a_view_stay(postgres: Publisher, postgres_url: str) -> None:
    with PostgresServer.at(postgres_url).session() as connection:
        connection.execute("GRANT SELECT ON published_forum TO pg_monitor")
        publish(postgres, attempt(2), *NEW)
        assert connection.execute(
            "SELECT has_table_privilege('pg_monitor', 'published_forum', 'SELECT')"
        ).fetchone() == (True,)


def test_version_that_somebody_builds_on_is_not_dropped(postgres: Publisher, postgres_url: str) -> None:
    with PostgresServer.at(postgres_url).session() as connection:
        connection.execute("CREATE VIEW theirs AS SELECT panel FROM published_forum__v1")
        publish(postgres, attempt(2), *NEW)
        with pytest.raises(Conflict, match=r"published_forum__v1 is in use \(view theirs depends"):
            publish(postgres, attempt(3), *OLD)
        assert (postgres.versions().version, published(postgres)) == (2, [NEW, NEW])
        connection.execute("DROP VIEW theirs")
    publish(postgres, attempt(3, 4), *OLD)
    assert published(postgres) == [OLD, OLD]


def test_overtaken_attempt_that_holds_its_tables_is_ended(postgres: Publisher, postgres_url: str) -> None:
    older = attempt(2)
    postgres.begin(older, ["forum"])
    postgres.merge(older, "forum", [batch(*NEW)])
    with PostgresServer.at(postgres_url).session() as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE published_forum__next")
        began = time.monotonic()
        postgres.begin(attempt(2, 3), ["forum"])
        assert time.monotonic() - began < 10
    with pytest.raises(Conflict, match="taken over"):
        postgres.swap(older)


def test_nul_is_refused_with_the_row_that_has_it(postgres: Publisher) -> None:
    with pytest.raises(BadInput, match=r"'p1'.*NUL character, which PostgreSQL cannot store"):
        publish(postgres, attempt(2), ("amy", "/male"), ("a\0b", "/male"))
    assert published(postgres) == [OLD, OLD]
