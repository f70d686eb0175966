"""What is special about PostgreSQL as a source, with a real server."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from audience.errors import NotFound
from audience.tables.base import Selection, Source, SourceSpec
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import open_source

CONTENT = Selection(fields=("content",))
Run = Callable[..., None]


@pytest.fixture
def run(postgres_url: str) -> Run:
    def run(*sql: str) -> None:
        with PostgresServer.at(postgres_url).session() as connection:
            for statement in sql:
                connection.execute(statement)

    return run


def opened(url: str, **spec: Any) -> Source:
    return open_source(SourceSpec(url=url, **spec))


def read(source: Source, selection: Selection = CONTENT) -> list[dict[str, Any]]:
    plan = source.plan(selection)
    batches = [b for p in plan.partitions for b in source.read(p, selection)]
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert plan.n_rows == len(rows)
    return rows


TYPES = {
    "bigint": ("-9223372036854775808", "-9223372036854775808"),
    "numeric": ("12345678901234567890.01234567890123456789", "12345678901234567890.01234567890123456789"),
    "double precision": ("0.1", "0.1"),
    "boolean": ("true", "true"),
    "uuid": ("'00000000-0000-0000-0000-00000000000a'", "00000000-0000-0000-0000-00000000000a"),
    "jsonb": ('\'{"a": "乙"}\'', '{"a": "乙"}'),
    "text[]": ("ARRAY['a','b c']", '{a,"b c"}'),
    "mood": ("'樂'", "樂"),
    "short": ("'x'", "x"),
    "bytea": ("'乙'::text::bytea", "乙"),
    "varchar(5)": ("'a '", "a "),
    "interval": ("'-12:00:01.5'", "-12:00:01.5"),
    "date": ("'infinity'", "infinity"),
    "timestamptz": ("'2020-01-01 12:00+08'", "2020-01-01 04:00:00+00"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_value_of_any_type_is_its_text(postgres_url: str, run: Run, kind: str) -> None:
    literal, text = TYPES[kind]
    run("CREATE TYPE mood AS ENUM ('樂')", "CREATE DOMAIN short AS text CHECK (length(VALUE) < 9)")
    run(
        f"CREATE TABLE posts (id int PRIMARY KEY, content {kind})",
        f"INSERT INTO posts VALUES (1, {literal}), (2, NULL)",
    )
    found = [(r["id"], r["content"], r["error"]) for r in read(opened(postgres_url))]
    assert found == [("1", text, None), ("2", None, None)]


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz", "date"])
@pytest.mark.parametrize("index", [(), ("CREATE INDEX ON posts (post_time)",)])
def test_time_that_no_calendar_has_is_set_aside_and_shown(
    postgres_url: str, run: Run, kind: str, index: tuple[str, ...]
) -> None:
    run(f"CREATE TABLE posts (id int PRIMARY KEY, post_time {kind}, content text)", *index)
    run(
        "INSERT INTO posts VALUES (1, '2020-01-01', 'x'), (2, 'infinity', 'x'), (3, '-infinity', 'x'),"
        " (4, '0044-03-15 BC', 'x'), (5, NULL, 'x'), (6, '12020-01-01', 'x')"
    )
    source = opened(postgres_url)
    rows = read(source)
    shown = [r["error"] and r["error"].removeprefix("post_time is not a time: ")[:9] for r in rows]
    assert shown == [None, "infinity", "-infinity", "0044-03-1", None, "12020-01-"]
    assert str(rows[0]["post_time"]) == "2020-01-01 00:00:00"
    plan = source.plan(Selection(dt.datetime(2020, 1, 1), dt.datetime(2021, 1, 1), ("content",)))
    assert (plan.n_rows, plan.set_aside) == (1, {"post_time is null": 1, "post_time is not a time": 4})
    assert source.describe().time_span == ("2020-01-01 00:00:00", "2020-01-01 00:00:00")


def test_moments_are_shown_in_the_timezone_of_the_source(postgres_url: str, run: Run) -> None:
    run("CREATE TABLE posts (id int PRIMARY KEY, post_time timestamptz, content text)")
    run("CREATE INDEX ON posts (post_time)", "SET TIME ZONE 'America/New_York'")
    times = "timestamptz '2020-01-01 12:00+08' + n * interval '1 s'"
    run(f"INSERT INTO posts SELECT n, {times}, 'x' FROM generate_series(0, 5) n")
    source = opened(postgres_url, timezone="Asia/Taipei")
    noon = dt.datetime(2020, 1, 1, 12)
    ranged = Selection(noon + dt.timedelta(seconds=1), noon + dt.timedelta(seconds=4), ("content",))
    assert [(r["id"], r["post_time"].hour) for r in read(source, ranged)] == [("1", 12), ("2", 12), ("3", 12)]
    assert source.describe().time_span == ("2020-01-01 12:00:00", "2020-01-01 12:00:05")


KEYS = {
    "uuid": "md5(n::text)::uuid",
    "bpchar(9)": "'k' || n",
    "varchar(9)": "'k' || n",
    'text COLLATE "C"': "'k' || n",
    'text COLLATE "en-x-icu"': "chr(65 + n % 26) || chr(97 + n % 7) || n",
    "numeric": "n / 7.0",
    "bigint": "9223372036854775807 - n",
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type_cut_by_their_index(postgres_url: str, run: Run, kind: str) -> None:
    run(f"CREATE TABLE posts (id {kind} PRIMARY KEY, content text)")
    run(f"INSERT INTO posts SELECT {KEYS[kind]}, 'x' FROM generate_series(1, 500) n")
    source = opened(postgres_url)
    selection = Selection(fields=("content",), partition_rows=100)
    plan = source.plan(selection)
    assert [p.n_rows for p in plan.partitions] == [100] * 5
    assert len({r["id"] for r in read(source, selection)}) == 500
    with PostgresServer.at(postgres_url).session() as connection:
        connection.execute("SET enable_seqscan = off")
        condition = source._condition(plan.partitions[2].slice["bounds"], "")  # type: ignore[attr-defined]
        explained = connection.execute(f"EXPLAIN SELECT id FROM posts WHERE {condition}").fetchall()
        assert "Index Cond" in str(explained)


def test_tables_are_those_of_the_schema_that_is_named(postgres_url: str, run: Run) -> None:
    run("CREATE SCHEMA forum", "CREATE TABLE forum.posts (id int PRIMARY KEY, content text)")
    run("INSERT INTO forum.posts VALUES (1, 'x')", "CREATE TABLE posts (id int, content text)")
    assert len(read(opened(f"{postgres_url}?schema=forum", table="posts"))) == 1


def test_schema_that_is_not_there_or_empty_is_told(postgres_url: str, run: Run) -> None:
    run("CREATE SCHEMA empty")
    with pytest.raises(NotFound, match="there is no schema nope"):
        opened(f"{postgres_url}?schema=nope")
    with pytest.raises(NotFound, match="no table that this user may read"):
        opened(f"{postgres_url}?schema=empty")


def test_source_writes_nothing_even_through_a_function(postgres_url: str, run: Run) -> None:
    run("CREATE TABLE posts (id int PRIMARY KEY, content text)", "INSERT INTO posts VALUES (1, 'x')")
    run(
        "CREATE FUNCTION spy() RETURNS text LANGUAGE plpgsql AS $$ BEGIN DELETE FROM posts; RETURN 'x'; END $$",
        "CREATE VIEW trap AS SELECT id, spy() AS content FROM posts",
    )
    with pytest.raises(Exception, match="read-only"):
        read(opened(postgres_url, table="trap"))
