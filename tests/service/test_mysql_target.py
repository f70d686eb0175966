"""What only a MariaDB or MySQL server can do to a target."""

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from private_mariadb import running_mariadb
from pymysql import err

from audience.errors import BadInput, Conflict, NotFound, Transient
from audience.tables.base import RESULT_SCHEMA, Bound, ConflictRules, ResultLayout, Target
from audience.tables.mysql.load import LoadingConnection
from audience.tables.mysql.server import MysqlServer
from audience.tables.registry import open_target

TASK = "0123456789abcdef"
NOBODY = ConflictRules({}, by_author=True)
HARD = (
    "emoji 👩‍👩‍👧",
    "NUL \0 in it",
    "tab\tline\r\nback\\slash\\",
    "'\"; --",
    "\\N",
    "NULL",
    "",
    "a ",
    "A",
    ',\n"',
    None,
)
WIDE = "x" * 9_000_000
"""Two of it are more than what is gathered before the transaction."""
PACKET_BYTES = 2**21
FILE_BYTES = 40 * 2**20


class Counted:
    def __init__(self, authors: bytes = b"") -> None:
        self.authors = authors

    def to_json(self) -> str:
        return "{}"

    def packed_authors(self) -> bytes:
        return self.authors


def batch(
    *numbers: int, texts: tuple[str | None, ...] = ("text",), partition: int = 0, **values: Any
) -> pa.RecordBatch:
    rows = [
        {"id": f"p{n}", "task_id": TASK, "source_author": "a", "panel": "/x", "create_time": dt.datetime(2020, 1, 1, 1)}
        | {"match_content": texts[n % len(texts)], "group": "forum", "partition": partition, "n": n, **values}
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, RESULT_SCHEMA)


@contextlib.contextmanager
def sql(url: str) -> Iterator[Callable[[str], list[Any]]]:
    with MysqlServer.at(url).session() as connection, connection.cursor() as cursor:
        yield lambda text: [cursor.execute(text), *cursor.fetchall()][1:]


@pytest.fixture
def target(mysql_url: str) -> Target:
    target = open_target(mysql_url)
    target.prepare(TASK, 1, ["forum"])
    return target


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """No LOAD DATA LOCAL, loose and odd SQL modes, small packets, little space."""
    options = (
        "--local-infile=0",
        "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT",
        f"--max-allowed-packet={PACKET_BYTES}",
        "--innodb-lock-wait-timeout=1",
    )
    with running_mariadb(tmp_path_factory.mktemp("mariadb"), *options, file_bytes=FILE_BYTES) as server:
        yield server.url("audience_test")


@pytest.fixture
def hostile_url(hostile_server: str) -> Iterator[str]:
    with sql(hostile_server) as run:
        run("DROP DATABASE IF EXISTS audience_test")
        run("CREATE DATABASE audience_test CHARACTER SET latin1")
    return hostile_server


@pytest.fixture
def hostile(hostile_url: str) -> Target:
    target = open_target(hostile_url)
    target.prepare(TASK, 1, ["forum"])
    return target


def texts_of(target: Target) -> list[str | None]:
    return [r["match_content"] for found in target.results(TASK) for r in found.to_pylist()]


def left(target: Target) -> tuple[int, int]:
    return len(texts_of(target)), len(list(target.marks(TASK)))


# LOAD DATA LOCAL


@contextlib.contextmanager
def loading(url: str) -> Iterator[LoadingConnection]:
    with MysqlServer.at(url).session(LoadingConnection) as connection:
        connection.cursor().execute("CREATE TABLE stolen (line LONGTEXT)")
        yield connection


@pytest.mark.parametrize("rows", [None, b"ours\n"])
def test_server_that_asks_for_a_file_gets_none(mysql_url: str, tmp_path: Path, rows: bytes | None) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for you\n")
    wanted = f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE stolen"
    with loading(mysql_url) as connection, connection.cursor() as cursor:
        with pytest.raises(err.OperationalError, match="nothing of one is ever sent"):
            connection.load(wanted, rows) if rows else cursor.execute(wanted)
        cursor.execute("SELECT * FROM stolen")
        assert cursor.fetchall() == ()


def test_server_that_asks_twice_gets_the_rows_once(mysql_url: str) -> None:
    ours = "LOAD DATA LOCAL INFILE 'audience' INTO TABLE stolen"
    with loading(mysql_url) as connection, connection.cursor() as cursor:
        assert connection.load(ours, b"a\nb\n") == (2, 0)
        with pytest.raises(err.OperationalError, match="nothing of one is ever sent"):
            cursor.execute(ours)
        cursor.execute("SELECT count(*) FROM stolen")
        assert cursor.fetchone() == (2,)


def test_rows_go_in_by_insert_where_load_data_is_forbidden(hostile: Target) -> None:
    assert hostile.write(TASK, 0, 1, [batch(*range(len(HARD)), texts=HARD)], Counted(b"\0\xff'\\"))
    assert texts_of(hostile) == list(HARD)
    assert next(hostile.marks(TASK)).authors == b"\0\xff'\\"
    assert hostile.produce(TASK, "forum", 1, ConflictRules({"/x": "c", "it's \\": "c"}, by_author=True)) == (1, 1)


def test_many_rows_go_in_by_insert_in_statements_that_fit(hostile: Target) -> None:
    assert hostile.write(TASK, 0, 1, [batch(*range(3_000), texts=("文字" * 500,))], Counted())
    assert left(hostile) == (3_000, 1)


def test_row_or_mark_that_no_packet_holds_is_named(hostile: Target) -> None:
    with pytest.raises(BadInput, match=r"id 'p1' \(n 1\).*max_allowed_packet \(2,097,152\)"):
        hostile.write(TASK, 0, 1, [batch(0, 1, texts=("a", "x" * PACKET_BYTES))], Counted())
    with pytest.raises(BadInput, match=r"mark of a partition .*max_allowed_packet"):
        hostile.write(TASK, 0, 1, [batch(0)], Counted(bytes(PACKET_BYTES)))
    assert left(hostile) == (0, 0)


def test_value_that_a_column_would_bend_is_refused_with_its_row(target: Target, mysql_url: str) -> None:
    with sql(mysql_url) as run:
        run("ALTER TABLE results_forum MODIFY panel VARCHAR(4) COLLATE utf8mb4_bin")
    with pytest.raises(BadInput, match=r"id 'p2' \(n 2\).*too long for column 'panel'|id 'p2'.*truncated.*'panel'"):
        target.write(TASK, 0, 1, [batch(0, 1), batch(2, panel="/long")], Counted())
    assert left(target) == (0, 0)


def test_value_that_a_column_would_bend_is_refused_by_insert_too(hostile: Target, hostile_url: str) -> None:
    with sql(hostile_url) as run:
        run("ALTER TABLE results_forum MODIFY panel VARCHAR(4) CHARACTER SET latin1")
    for panel in ("/long", "/男"):
        with pytest.raises(BadInput, match=r"cannot be written to results_forum: .*panel"):
            hostile.write(TASK, 0, 1, [batch(0, 1), batch(2, panel=panel)], Counted())
    assert left(hostile) == (0, 0)


def test_mark_of_megabytes_comes_back(target: Target) -> None:
    authors = bytes(range(256)) * 12_000
    target.write(TASK, 0, 1, [], Counted(authors))
    assert next(target.marks(TASK)).authors == authors


# faults


def test_connection_that_is_cut_in_mid_write_leaves_nothing(target: Target, mysql_url: str) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        for n in range(3):
            yield batch(n, texts=(WIDE,))
        with sql(mysql_url) as run:
            others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            for (number,) in run(others):
                run(f"KILL CONNECTION {number}")
        yield batch(3, texts=(WIDE,))

    with pytest.raises(Transient):
        target.write(TASK, 0, 1, rows(), Counted())
    assert left(target) == (0, 0)
    assert target.write(TASK, 0, 1, [batch(0)], Counted())


def test_full_tablespace_passes_and_leaves_nothing(hostile: Target) -> None:
    rows = (batch(*range(n, n + 1000), texts=("x" * 2_000,)) for n in range(0, 30_000, 1000))
    with pytest.raises(Transient, match="no space left"):
        hostile.write(TASK, 0, 1, rows, Counted())
    assert left(hostile) == (0, 0)


@pytest.mark.parametrize("raised", ["bar", "prepare"])
def test_fence_is_raised_without_waiting_for_a_writer(target: Target, raised: str) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield from (batch(n, texts=(WIDE,)) for n in range(2))
        target.bar(TASK, 2) if raised == "bar" else target.prepare(TASK, 2, ["forum"])
        yield batch(2)

    with pytest.raises(Conflict, match="taken over"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert left(target) == (0, 0)


def test_task_is_deleted_beside_a_writer_that_is_then_refused(target: Target) -> None:
    with ThreadPoolExecutor(1) as pool:
        deleting = []

        def rows() -> Iterator[pa.RecordBatch]:
            yield from (batch(n, texts=(WIDE,)) for n in range(2))
            deleting.append(pool.submit(target.delete, TASK))
            time.sleep(0.5)
            yield batch(2)

        with pytest.raises(Conflict, match="deleted"):
            target.write(TASK, 0, 1, rows(), Counted())
        deleting[0].result(timeout=30)
    assert left(target) == (0, 0)


def test_writers_of_one_task_do_not_wait_for_each_other(target: Target) -> None:
    both = threading.Barrier(2, timeout=30)

    def rows(partition: int) -> Iterator[pa.RecordBatch]:
        yield from (batch(n, texts=(WIDE,), partition=partition) for n in range(2))
        both.wait()  # the other one is in mid-write too, past what is gathered
        yield batch(2, partition=partition)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda p: target.write(TASK, p, 1, rows(p), Counted()), (0, 1))) == [True, True]
    assert left(target) == (6, 2)


def test_wait_for_a_stopped_writer_passes(hostile: Target) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield from (batch(n, texts=("x" * 1_000_000,)) for n in range(18))
        with pytest.raises(Transient, match="waiting for another transaction"):
            hostile.write(TASK, 0, 1, [batch(0)], Counted())

    assert hostile.write(TASK, 0, 1, rows(), Counted())


def test_deadlock_passes(target: Target, mysql_url: str) -> None:
    """Another program locks the task, then the marks; the lighter transaction gives way."""
    with ThreadPoolExecutor(1) as pool, sql(mysql_url) as run:
        run("CREATE TABLE heavy (a INT)")
        run("BEGIN")
        run(f"INSERT INTO heavy VALUES {', '.join(['(1)'] * 1000)}")
        run("SELECT * FROM audience_task FOR UPDATE")
        writing = pool.submit(target.write, TASK, 0, 1, [batch(0)], Counted())
        time.sleep(1)
        run("SELECT * FROM audience_partition FOR UPDATE")
        with pytest.raises(Transient, match="waiting for another transaction"):
            writing.result(timeout=30)
        run("ROLLBACK")
    assert left(target) == (0, 0)


def test_task_is_deleted_in_parts(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audience.tables.mysql.target.DELETE_ROWS", 7)
    target.write(TASK, 0, 1, [batch(*range(50))], Counted())
    target.delete(TASK)
    assert left(target) == (0, 0)


# who may do what


def test_missing_grant_is_named_and_the_password_is_not(hostile_url: str, hostile: Target) -> None:
    with sql(hostile_url) as run:
        run("CREATE OR REPLACE USER reader IDENTIFIED BY 's3cret'")
        run("GRANT SELECT ON audience_test.* TO reader")
    shown = hostile_url.replace("root@", "reader@")
    target = open_target(shown, url=hostile_url.replace("root@", "reader:s3cret@"))
    with pytest.raises(BadInput, match=r"INSERT.*command denied to user 'reader'") as caught:
        target.prepare(TASK, 1, ["forum"])
    with pytest.raises(BadInput, match="Access denied") as wrong:
        open_target(shown, url=hostile_url.replace("root@", "reader:wr0ng@")).prepare(TASK, 1, ["forum"])
    for text in (str(caught.value), str(wrong.value), repr(vars(target)), target.where("forum")):
        assert "s3cret" not in text
        assert "wr0ng" not in text


def test_missing_database_is_named(mysql_url: str) -> None:
    with pytest.raises(BadInput, match="names a database"):
        open_target(mysql_url.rpartition("/")[0])
    gone = open_target(f"{mysql_url}_gone")
    assert gone.exists() is False
    gone.delete(TASK)
    with pytest.raises(NotFound, match="Unknown database"):
        gone.prepare(TASK, 1, ["forum"])


def test_names_that_are_too_long_are_refused(target: Target) -> None:
    with pytest.raises(BadInput, match="64 at most"):
        target.prepare(TASK, 1, ["g" * 60])
    with pytest.raises(BadInput, match="more than 100 characters"):
        target.prepare("t" * 101, 1, ["forum"])


@pytest.mark.parametrize("collation", ["utf8mb4_bin", "utf8mb4_general_ci", "utf8mb4_unicode_ci"])
def test_results_are_joined_with_a_source_of_any_collation(mysql_url: str, collation: str) -> None:
    with sql(mysql_url) as run:
        declared = "id VARCHAR(40), author VARCHAR(20), number BIGINT PRIMARY KEY, KEY (id)"
        run(f"CREATE TABLE posts ({declared}) CHARACTER SET utf8mb4 COLLATE {collation}")
        run("INSERT INTO posts VALUES ('p1', 'a', 1), ('p2', 'b', 2)")
    target = open_target(mysql_url)
    target.prepare(TASK, 1, ["forum"], ResultLayout({"id": Bound("text", 40)}, indexes=("id",)))
    target.write(TASK, 0, 1, [batch(1, 2)], Counted())
    target.produce(TASK, "forum", 1, NOBODY)
    with sql(mysql_url) as run:
        found = "SELECT p.number FROM results_forum r JOIN posts p ON p.id = r.id ORDER BY 1"
        assert run(found) == [(1,), (2,)]
        assert run("SELECT p.id FROM production_forum r JOIN posts p ON p.author = r.source_author") == [("p1",)]


def test_ids_of_a_source_of_numbers_are_numbers(mysql_url: str) -> None:
    target = open_target(mysql_url)
    target.prepare(TASK, 1, ["forum"], ResultLayout({"id": Bound("unsigned")}))
    target.write(TASK, 0, 1, [batch(1, id=str(2**64 - 1))], Counted())
    with sql(mysql_url) as run:
        assert run("SELECT id FROM results_forum") == [(2**64 - 1,)]
    with pytest.raises(BadInput, match="cannot be written"):
        target.write(TASK, 1, 1, [batch(2, partition=1, id="p2")], Counted())


def test_tables_of_an_earlier_version_go_on_working(mysql_url: str) -> None:
    """Their texts have no bounds and another collation."""
    target = open_target(mysql_url)
    target.prepare(TASK, 1, ["forum"])
    with sql(mysql_url) as run:
        for table in ("results_forum", "production_forum"):
            run(f"ALTER TABLE {table} MODIFY panel LONGTEXT")
            run(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin")
            run(f"ALTER TABLE {table} MODIFY id LONGTEXT, MODIFY source_author LONGTEXT, MODIFY field_content LONGTEXT")
        run("ALTER TABLE production_forum DROP KEY panel, DROP KEY source_author")
    target.prepare(TASK, 2, ["forum"], ResultLayout({"id": Bound("signed")}, indexes=("id",)))
    assert target.write(TASK, 0, 2, [batch(1, 2, 3)], Counted())
    assert target.produce(TASK, "forum", 2, NOBODY) == (1, 1)
    with sql(mysql_url) as run:
        shown = "SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        assert set(run(f"{shown} AND table_name = 'results_forum' AND column_name = 'id'")) == {("utf8mb4_nopad_bin",)}
