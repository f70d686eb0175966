"""What is special about MariaDB and MySQL as a source, with a real server."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from private_mariadb import encryption, running_mariadb

from audience.errors import AudienceError, Transient
from audience.tables.base import Selection, Source, SourceSpec
from audience.tables.mysql.server import MysqlServer
from audience.tables.registry import open_source

CONTENT = Selection(fields=("content",))
TAIPEI_NOON = dt.datetime(2020, 1, 1, 12)
Run = Callable[..., None]


@pytest.fixture
def run(mysql_url: str) -> Run:
    return statements(mysql_url)


def statements(url: str) -> Run:
    def run(*sql: str) -> None:
        with MysqlServer.at(url).session() as connection:
            for statement in sql:
                connection.cursor().execute(statement)

    return run


@pytest.fixture(scope="session")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(URL of a database, certificate) in another time zone and another sql_mode, with TLS."""
    folder = tmp_path_factory.mktemp("mariadb")
    certificate, tls = encryption(folder)
    modes = "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT"
    with running_mariadb(folder, modes, "--default-time-zone=-05:00", *tls) as server:
        server.execute("CREATE DATABASE odd CHARACTER SET big5")
        yield server.url("odd"), certificate


def opened(url: str, **spec: Any) -> Source:
    return open_source(SourceSpec(url=url, **spec))


def read(source: Source, selection: Selection = CONTENT) -> list[dict[str, Any]]:
    plan = source.plan(selection)
    batches = [b for p in plan.partitions for b in source.read(p, selection)]
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert plan.n_rows == len(rows)
    return rows


TYPES = {
    "BIGINT UNSIGNED": ("18446744073709551615", "18446744073709551615"),
    "DECIMAL(30,10)": ("-12345678901234567890.0123456789", "-12345678901234567890.0123456789"),
    "DOUBLE": ("1.5", "1.5"),
    "BIT(5)": ("b'101'", "5"),
    "BOOLEAN": ("true", "1"),
    "YEAR": ("2020", "2020"),
    "TIME(2)": ("'-12:00:01.50'", "-12:00:01.50"),
    "DATE": ("'2020-02-29'", "2020-02-29"),
    "DATETIME(6)": ("'2020-02-29 01:02:03.000004'", "2020-02-29 01:02:03.000004"),
    "ENUM('甲','乙')": ("'乙'", "乙"),
    "SET('a','b')": ("'a,b'", "a,b"),
    "JSON": ('\'{"a": "乙"}\'', '{"a": "乙"}'),
    "VARBINARY(20)": ("'乙'", "乙"),
    "VARCHAR(20) CHARACTER SET latin1": ("'é'", "é"),
    "VARCHAR(20) CHARACTER SET big5": ("'功能'", "功能"),
    "VARCHAR(20) CHARACTER SET ucs2": ("'乙'", "乙"),
    "VARCHAR(20) COLLATE utf8mb4_bin": ("'a '", "a "),
    "CHAR(5)": ("'a'", "a"),
    "LONGTEXT": ("'👩‍👩‍👧\\\\N'", "👩‍👩‍👧\\N"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_value_of_any_type_is_the_text_that_the_server_shows(mysql_url: str, run: Run, kind: str) -> None:
    literal, text = TYPES[kind]
    run("CREATE TABLE posts (id INT PRIMARY KEY, content " + kind + ")", f"INSERT INTO posts VALUES (1, {literal})")
    run("INSERT INTO posts VALUES (2, NULL)")
    assert [(r["id"], r["content"], r["error"]) for r in read(opened(mysql_url))] == [
        ("1", text, None),
        ("2", None, None),
    ]


@pytest.mark.parametrize("indexed", [True, False])
def test_time_that_no_calendar_has_is_set_aside_and_shown(mysql_url: str, run: Run, indexed: bool) -> None:
    key = ", PRIMARY KEY (id)" if indexed else ""
    run(f"CREATE TABLE posts (id INT, post_time DATETIME, content TEXT{key})")
    with MysqlServer.at(mysql_url).session() as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        times = ["2020-01-01", "0000-00-00", "2025-01-00", None, "9999-12-31 23:59:59"]
        cursor.executemany("INSERT INTO posts VALUES (%s, %s, 'x')", list(enumerate(times)))
    rows = read(opened(mysql_url))
    assert [r["error"] for r in rows] == [
        None,
        "post_time is not a time: 0000-00-00 00:00:00",
        "post_time is not a time: 2025-01-00 00:00:00",
        None,
        None,
    ]
    assert [r["post_time"] and str(r["post_time"]) for r in rows] == [
        "2020-01-01 00:00:00", None, None, None, "9999-12-31 23:59:59"
    ]  # fmt: skip


@pytest.mark.parametrize("index", ["", ", KEY (post_time)"])
def test_timestamps_are_moments_and_shown_in_the_timezone_of_the_source(mysql_url: str, run: Run, index: str) -> None:
    run(
        f"CREATE TABLE posts (id INT PRIMARY KEY, post_time TIMESTAMP(3) NULL, content TEXT{index})",
        "INSERT INTO posts VALUES (9, NULL, 'x')",
    )
    run("INSERT INTO posts SELECT seq, FROM_UNIXTIME(1577851200 + seq), 'x' FROM seq_0_to_5")  # noon in Taipei
    source = opened(mysql_url, timezone="Asia/Taipei")
    ranged = Selection(TAIPEI_NOON + dt.timedelta(seconds=1), TAIPEI_NOON + dt.timedelta(seconds=4), ("content",))
    assert [(r["id"], r["post_time"].second) for r in read(source, ranged)] == [("1", 1), ("2", 2), ("3", 3)]
    assert source.plan(ranged).set_aside == {"post_time is null": 1}
    assert source.describe().time_span == ("2020-01-01 12:00:00", "2020-01-01 12:00:05")
    assert len(read(source)) == 7


def test_range_within_an_hour_that_occurs_twice_loses_no_row(mysql_url: str, run: Run) -> None:
    run("CREATE TABLE posts (id INT PRIMARY KEY, post_time TIMESTAMP NULL, content TEXT, KEY (post_time))")
    with MysqlServer.at(mysql_url).session() as connection:
        connection.cursor().execute("SET time_zone = '+00:00'")
        connection.cursor().execute(
            "INSERT INTO posts SELECT seq, '2020-11-01 04:00:00' + INTERVAL seq * 10 MINUTE, 'x' FROM seq_0_to_18"
        )
    source = opened(mysql_url, timezone="America/New_York")
    start, end = dt.datetime(2020, 11, 1, 1, 20), dt.datetime(2020, 11, 1, 1, 40)
    local = [r["post_time"] for r in read(source, Selection(start, end, ("content",)))]
    assert sorted(t for t in local if start <= t < end) == [
        start,
        start,
        start.replace(minute=30),
        start.replace(minute=30),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_ids_that_a_collation_holds_for_one_are_neither_lost_nor_doubled(mysql_url: str, run: Run, size: int) -> None:
    ids = ["a", "a ", "A", "A ", "á", "b", "B", "c", "ß", "ss", "", " "]
    run("CREATE TABLE posts (id VARCHAR(9), content TEXT, KEY (id)) COLLATE utf8mb4_unicode_ci")
    with MysqlServer.at(mysql_url).session() as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO posts VALUES (%s, 'x')", [(i,) for i in ids])
    rows = read(opened(mysql_url), Selection(fields=("content",), partition_rows=size))
    assert sorted(r["id"] for r in rows) == sorted(ids)


@pytest.mark.parametrize("charset", ["latin1", "big5", "ucs2", "utf8mb4 COLLATE utf8mb4_bin", "binary"])
def test_keys_of_any_character_set_cut_by_their_index(mysql_url: str, run: Run, charset: str) -> None:
    run(f"CREATE TABLE posts (id VARCHAR(9) CHARACTER SET {charset} PRIMARY KEY, content TEXT)")
    run("INSERT INTO posts SELECT concat('k', seq), 'x' FROM seq_1_to_500")
    source = opened(mysql_url)
    plan = source.plan(Selection(fields=("content",), partition_rows=100))
    assert [p.n_rows for p in plan.partitions] == [100] * 5
    with MysqlServer.at(mysql_url).session() as connection, connection.cursor() as cursor:
        condition = source._condition(plan.partitions[2].slice["bounds"], "")  # type: ignore[attr-defined]
        cursor.execute(f"EXPLAIN SELECT id FROM posts WHERE {condition}")
        assert cursor.fetchone()[3] == "range"
    assert len(read(source, Selection(fields=("content",), partition_rows=100))) == 500


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_key_that_utf8_cannot_write_is_read_once_and_planning_ends(mysql_url: str, run: Run, size: int) -> None:
    run("CREATE TABLE posts (id VARCHAR(9) CHARACTER SET ucs2 PRIMARY KEY, content TEXT) COLLATE utf8mb4_bin")
    run("INSERT INTO posts SELECT concat('k', seq), 'x' FROM seq_10_to_19")
    run("INSERT INTO posts VALUES (_ucs2 X'003f', 'a'), (_ucs2 X'd83d', 'b'), (_ucs2 X'd83dd83d', 'c')")  # half pairs
    rows = read(opened(mysql_url), Selection(fields=("content",), partition_rows=size))
    assert sorted(r["content"] or "" for r in rows) == ["a", "b", "c", *"xxxxxxxxxx"]


@pytest.mark.parametrize("key", ["", ", PRIMARY KEY (id)"])
def test_padded_integer_has_its_zeros_whatever_reads_it(mysql_url: str, run: Run, key: str) -> None:
    run(f"CREATE TABLE posts (id INT(8) ZEROFILL NOT NULL, content MEDIUMINT(6) UNSIGNED ZEROFILL{key})")
    run("INSERT INTO posts VALUES (42, 17), (123456789, NULL)")
    assert [(r["id"], r["content"]) for r in read(opened(mysql_url))] == [("00000042", "000017"), ("123456789", None)]


def test_unsigned_ids_beyond_the_signed_ones_are_cut(mysql_url: str, run: Run) -> None:
    run("CREATE TABLE posts (id BIGINT UNSIGNED PRIMARY KEY, content TEXT)")
    run("INSERT INTO posts SELECT 18446744073709551615 - seq, 'x' FROM seq_0_to_99")
    source = opened(mysql_url)
    rows = read(source, Selection(fields=("content",), partition_rows=30))
    assert sorted(int(r["id"]) for r in rows) == [2**64 - 1 - i for i in range(99, -1, -1)]


def test_rows_without_an_id_are_numbered_by_the_primary_key(mysql_url: str, run: Run) -> None:
    run("CREATE TABLE posts (pk INT PRIMARY KEY, content TEXT)", "INSERT INTO posts VALUES (17, 'x'), (5, 'y')")
    assert [r["id"] for r in read(opened(mysql_url))] == ["posts#5", "posts#17"]


def test_pieces_of_a_partition_add_up_when_rows_are_large(
    mysql_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audience.tables.mysql.source.PIECE_BYTES", 200_000)
    run("CREATE TABLE posts (id INT PRIMARY KEY, post_time DATETIME, content TEXT, KEY (post_time))")
    run("INSERT INTO posts SELECT seq, '2020-01-01' + INTERVAL seq DIV 7 SECOND, repeat('x', 1000) FROM seq_1_to_5000")
    expected = [str(i) for i in range(1, 5001)]
    source = opened(mysql_url)
    assert [r["id"] for r in read(source)] == expected
    ranged = Selection(dt.datetime(2019, 1, 1), None, ("content",))
    assert [r["id"] for r in read(source, ranged)] == expected


def test_killed_connection_is_transient_and_gives_no_part_of_a_piece(mysql_url: str, run: Run) -> None:
    run("CREATE TABLE posts (id INT PRIMARY KEY, content TEXT)", "INSERT INTO posts VALUES (1, 'x'), (2, 'y')")
    run("CREATE VIEW slow AS SELECT id, CONCAT(SLEEP(3)) AS content FROM posts")
    slow = opened(mysql_url, table="slow")
    partition = slow.plan(CONTENT).partitions[0]
    killer = threading.Thread(target=kill_reader, args=(mysql_url,))
    killer.start()
    with pytest.raises(Transient):
        list(slow.read(partition, CONTENT))
    killer.join()


def kill_reader(url: str) -> None:
    """Ends the connection that reads the view, once it does."""
    server = MysqlServer.at(url)
    sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND STATE = 'User sleep'"
    with server.session() as connection, connection.cursor() as cursor:
        for _ in range(100):
            cursor.execute(sql, (server.database,))
            if found := cursor.fetchone():
                cursor.execute(f"KILL {found[0]}")
                return
            time.sleep(0.1)


def test_source_does_not_depend_on_modes_and_zone_of_the_server(odd_server: tuple[str, Path]) -> None:
    url, _ = odd_server
    run = statements(url)
    run(
        "DROP TABLE IF EXISTS posts",
        "CREATE TABLE posts (id VARCHAR(20) PRIMARY KEY, post_time TIMESTAMP, content TEXT CHARACTER SET utf8mb4)",
        "INSERT INTO posts VALUES ('a\\', FROM_UNIXTIME(1577851200), 'it''s \"C:\\n\"')",
        "INSERT INTO posts VALUES ('內''b', FROM_UNIXTIME(1), 'x')",
    )
    source = opened(url)
    rows = read(source, Selection(fields=("content",), partition_rows=1))
    assert [(r["id"], r["content"]) for r in rows] == [("a\\", 'it\'s "C:\\n"'), ("內'b", "x")]
    assert str(rows[0]["post_time"]) == "2020-01-01 04:00:00"


def test_connections_are_encrypted_when_asked(odd_server: tuple[str, Path]) -> None:
    url, certificate = odd_server
    run = statements(url)
    run("DROP TABLE IF EXISTS posts", "CREATE TABLE posts (id INT PRIMARY KEY, content TEXT)")
    run("INSERT INTO posts VALUES (1, 'x')", "CREATE OR REPLACE USER strict@'%' IDENTIFIED BY 'pa:ss@w/rd' REQUIRE SSL")
    run("GRANT SELECT ON odd.* TO strict@'%'")
    strict = url.replace("root@127.0.0.1", "strict:pa%3Ass%40w%2Frd@localhost")
    assert len(read(opened(f"{strict}?ssl=true"))) == 1
    assert len(read(opened(f"{strict}?ssl_ca={certificate}"))) == 1
    with pytest.raises(AudienceError) as caught:
        opened(strict)
    assert "w/rd" not in str(caught.value)
    assert "w%2Frd" not in str(caught.value)
