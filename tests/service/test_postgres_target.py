"""What only a PostgreSQL server can do to a target."""

import contextlib
import datetime as dt
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import BadInput, Conflict, NotFound, Transient
from audience.tables.base import RESULT_SCHEMA, ConflictRules, Target
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import open_target

TASK = "0123456789abcdef"
NOBODY = ConflictRules({}, by_author=True)


class Counted:
    def __init__(self, authors: bytes = b"") -> None:
        self.authors = authors

    def to_json(self) -> str:
        return "{}"

    def packed_authors(self) -> bytes:
        return self.authors


def batch(*numbers: int, text: str = "text") -> pa.RecordBatch:
    rows = [
        {"id": f"p{n}", "task_id": TASK, "source_author": "a", "panel": "/x", "create_time": dt.datetime(2020, 1, 1)}
        | {"match_content": text, "group": "forum", "partition": 0, "n": n}
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, RESULT_SCHEMA)


@contextlib.contextmanager
def sql(url: str) -> Iterator[Callable[..., list[Any]]]:
    with PostgresServer.at(url).session() as connection:

        def run(text: str) -> list[Any]:
            found = connection.execute(text)
            return found.fetchall() if found.description else []

        yield run


@pytest.fixture
def target(postgres_url: str) -> Target:
    target = open_target(postgres_url)
    target.prepare(TASK, 1, ["forum"])
    return target


def n_rows(target: Target) -> int:
    return sum(len(found) for found in target.results(TASK))


def test_row_whose_text_the_target_cannot_hold_is_set_aside_once(
    app: App, table: Callable[..., Path], rules: Callable[..., Path], postgres_url: str
) -> None:
    posts = [("p0", "c", "mum", "a mum\0", None), ("p1", "c", "b", "a mum", None), ("p2", "c", "b", "no\0", None)]
    models = [app.models.add(f"m{n}", rules(f"label,content,match_type\n{n},mum,partially\n"), LOCAL)[0] for n in "ab"]
    tasks = (TaskRequest(name="posts", source=SourceRequest(location=str(table(posts)))),)
    run_id = app.runs.create(RunRequest(tasks=tasks, models=tuple(models), target=postgres_url), LOCAL)["id"]
    app.operations.work_on(run_id)
    report = app.runs.get(run_id)["tasks"][0]["report"]
    reason = "a text holds a character that the target cannot store"
    assert (report["received"], report["set_aside"]) == (3, {reason: 1})
    assert [row_id for row_id, _ in report["bad_rows"]] == ["p0"]
    assert report["groups"]["all"]["results"] == 2


def test_password_is_never_shown(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    url = f"postgresql://nobody_here:s3cret@127.0.0.1:{parts.port}{parts.path}"
    target = open_target(f"postgresql://nobody_here@127.0.0.1:{parts.port}{parts.path}", url=url)
    for shown in (target.url, target.where("forum"), repr(vars(target))):
        assert "s3cret" not in shown
    with sql(postgres_url) as run:  # trust needs no password, but an unknown user is refused
        assert run("SELECT 1 FROM pg_roles WHERE rolname = 'nobody_here'") == []
    with pytest.raises(BadInput) as caught:
        target.prepare(TASK, 1, ["forum"])
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def reader(postgres_url: str) -> Iterator[str]:
    """A URL of a user who may connect and nothing else."""
    name = "audience_test_reader_" + urlsplit(postgres_url).path[-8:]
    with sql(postgres_url) as run:
        run(f"CREATE ROLE {name} LOGIN")
    parts = urlsplit(postgres_url)
    yield postgres_url.replace(f"//{parts.username}@", f"//{name}@")
    with sql(postgres_url) as run:
        run(f"DROP OWNED BY {name}")
        run(f"DROP ROLE {name}")


def test_missing_grant_is_named(reader: str, target: Target, postgres_url: str) -> None:
    with pytest.raises(BadInput, match="permission denied for table audience_task"):
        open_target(reader).prepare(TASK, 1, ["forum"])
    with sql(postgres_url) as run:
        run("DROP TABLE audience_task, audience_partition")
        run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(BadInput, match="permission denied for schema public"):
        open_target(reader).prepare(TASK, 1, ["forum"])


def test_missing_schema_and_database_are_named(postgres_url: str) -> None:
    with pytest.raises(NotFound, match="no schema elsewhere"):
        open_target(f"{postgres_url}?schema=elsewhere").prepare(TASK, 1, ["forum"])
    gone = open_target(f"{postgres_url}_gone")
    assert gone.exists() is False
    with pytest.raises(NotFound, match="does not exist"):
        gone.prepare(TASK, 1, ["forum"])


def test_tables_live_in_the_schema_of_the_url(postgres_url: str) -> None:
    with sql(postgres_url) as run:
        run('CREATE SCHEMA "Odd ""name"')
    target = open_target(f"{postgres_url}?schema=Odd%20%22name")
    target.prepare(TASK, 1, ["forum"])
    assert target.write(TASK, 0, 1, [batch(0, 1)], Counted())
    assert target.produce(TASK, "forum", 1, NOBODY) == (1, 1)
    assert n_rows(target) == 2
    with sql(postgres_url) as run:
        assert run("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_connection_that_is_cut_in_mid_write_leaves_nothing(target: Target, postgres_url: str) -> None:
    wide = "x" * 6_000_000

    def rows() -> Iterator[pa.RecordBatch]:
        for n in range(4):
            yield batch(n, text=wide)
        with sql(postgres_url) as run:  # by now the first rows are written, past what is gathered
            assert run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
        yield batch(4, text=wide)

    with pytest.raises(Transient):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (n_rows(target), list(target.marks(TASK))) == (0, [])
    assert target.write(TASK, 0, 1, [batch(0)], Counted())


def test_fence_is_raised_without_waiting_for_a_writer(target: Target) -> None:
    wide = "x" * 9_000_000

    def rows() -> Iterator[pa.RecordBatch]:
        yield batch(0, text=wide)
        yield batch(1, text=wide)
        target.bar(TASK, 2)
        yield batch(2)

    with pytest.raises(Conflict, match="taken over"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (n_rows(target), list(target.marks(TASK))) == (0, [])


def test_task_is_deleted_without_waiting_for_a_writer(target: Target) -> None:
    wide = "x" * 9_000_000

    def rows() -> Iterator[pa.RecordBatch]:
        yield batch(0, text=wide)
        yield batch(1, text=wide)
        target.delete(TASK)
        yield batch(2)

    with pytest.raises(Conflict, match="deleted"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (n_rows(target), list(target.marks(TASK))) == (0, [])


def test_writers_of_one_task_do_not_wait_for_each_other(target: Target) -> None:
    wide, both = "x" * 9_000_000, threading.Barrier(2, timeout=30)

    def rows(partition: int) -> Iterator[pa.RecordBatch]:
        for n in range(2):
            yield batch(n, text=wide)
        both.wait()  # the other one is in mid-write too, past what is gathered
        yield batch(2)

    def write(partition: int) -> bool:
        found = (b.set_column(12, "partition", pa.array([partition] * len(b))) for b in rows(partition))
        return target.write(TASK, partition, 1, found, Counted())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, (0, 1))) == [True, True]
    assert n_rows(target) == 6


def test_mark_of_megabytes_comes_back(target: Target) -> None:
    authors = bytes(range(256)) * 20_000
    target.write(TASK, 0, 1, [], Counted(authors))
    assert next(target.marks(TASK)).authors == authors


def test_group_name_that_is_too_long_is_refused(target: Target) -> None:
    with pytest.raises(BadInput, match="more than 63 bytes"):
        target.prepare(TASK, 1, ["g" * 60])


def prepare(url: str) -> None:
    open_target(url).prepare(TASK, 1, [f"g{n}" for n in range(5)])


def test_processes_that_prepare_at_once_all_succeed(postgres_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(prepare, [postgres_url] * 3)


def test_reader_that_stops_early_is_quick(target: Target) -> None:
    target.write(TASK, 0, 1, [batch(*range(n, n + 1000), text="x" * 1000) for n in range(0, 60_000, 1000)], Counted())
    found = target.results(TASK)
    assert len(next(iter(found))) < 60_000
    found.close()  # type: ignore[attr-defined]
