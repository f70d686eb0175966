"""One suite for every kind of target, and one truth for production on all of them."""

import contextlib
import datetime as dt
import errno
import multiprocessing
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience.errors import BadInput, Conflict
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA, Bound, ConflictRules, ResultLayout, Target
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import open_target

TASK = "0123456789abcdef0123456789abcdef"
DAY = dt.datetime(2020, 1, 1)
BY_AUTHOR = ConflictRules({"/male": "sex", "/female": "sex", "/married": "bond", "/unmarried": "bond"}, by_author=True)
FILES = {"sqlite": "labels.db", "folder": "labels/"}
SERVERS = {"mysql": "mysql_url", "postgres": "postgres_url"}
KINDS = [*FILES, *SERVERS]
Row = dict[str, Any]


@dataclass
class Counted:
    text: str = '{"n": 1}'
    authors: bytes = bytes(range(256))

    def to_json(self) -> str:
        return self.text

    def packed_authors(self) -> bytes:
        return self.authors


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    return str(request.getfixturevalue(SERVERS[kind])) if kind in SERVERS else f"{folder}/{FILES[kind]}"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


@pytest.fixture
def target(url: str) -> Target:
    return open_target(url)


def row(n: int, **values: Any) -> Row:
    return {
        "id": f"p{n}",
        "task_id": TASK,
        "source_author": "s_a",
        "panel": "/male",
        "create_time": DAY + dt.timedelta(days=n),
        "field_content": "author",
        "match_content": "先生",
        "match_meta": "{}",
        "model": "gender@1",
        "score": 0.5,
        "evidence": "[]",
        "group": "forum",
        "partition": 0,
        "n": n,
        **values,
    }


def batch(rows: Sequence[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), RESULT_SCHEMA)


def write(target: Target, rows: Sequence[Row], partition: int = 0, fence: int = 1, task: str = TASK) -> bool:
    whole = batch([{**r, "partition": partition} for r in rows])
    pieces = [whole[: len(rows) // 2], whole[len(rows) // 2 :]] if rows else []
    return target.write(task, partition, fence, pieces, Counted())


def storable(target: Target, text: str | None) -> str | None:
    """The text with another character for each that this kind of target cannot hold: a declared gap."""
    return text and "".join("\1" if c in target.unstorable else c for c in text)


def filled(target: Target, rows: Sequence[Row], *groups: str) -> Target:
    target.prepare(TASK, 1, groups or ("forum",))
    assert write(target, rows)
    return target


def results(target: Target, group: str | None = None, columns: Sequence[str] = (), task: str = TASK) -> list[Row]:
    return [r for found in target.results(task, group, columns) for r in found.to_pylist()]


def production(target: Target, group: str = "forum", task: str = TASK) -> list[Row]:
    return [r for found in target.production(task, group) for r in found.to_pylist()]


def is_database(url: str) -> bool:
    return url.endswith(".db") or "://" in url


def leftovers(url: str) -> list[str]:
    """Unfinished files; a database has none of its own making."""
    return [p.name for p in Path(url).rglob("*") if p.is_file() and p.suffix == ".tmp"]


@contextlib.contextmanager
def database(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Runs SQL in the database of a URL, past our own code."""
    if url.startswith("mysql"):
        with MysqlServer.at(url).session() as mysql, mysql.cursor() as cursor:
            cursor.execute("SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')")
            yield lambda sql: [cursor.execute(sql), *cursor.fetchall()][1:]
    elif url.startswith("postgres"):
        with PostgresServer.at(url).session() as postgres:
            yield lambda sql: ((found := postgres.execute(sql)) and found.description and found.fetchall()) or []
    else:
        with contextlib.closing(sqlite3.connect(url, isolation_level=None)) as db:
            yield lambda sql: db.execute(sql).fetchall()


def tables_of(url: str, run: Callable[[str], list[Any]]) -> list[str]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if not url.endswith(".db"):
        here = "DATABASE()" if url.startswith("mysql") else "'public'"
        sql = f"SELECT table_name FROM information_schema.tables WHERE table_schema = {here}"
    return sorted(name for (name,) in run(sql))


def everything(url: str) -> list[Any]:
    """Every file with what is in it, or every table with its rows."""
    if is_database(url):
        if url.endswith(".db") and not Path(url).exists():
            return []
        with database(url) as run:
            return [(table, run(f'SELECT * FROM "{table}"')) for table in tables_of(url, run)]
    return sorted((p, p.is_file() and p.read_bytes()) for p in Path(url).rglob("*"))


HARD = ("emoji 👩‍👩‍👧", "NUL \0 in it", "tab\tline\r\nback\\slash", "'\"; DROP TABLE", "\\N", "", " ", "a ", "A", None)


def test_rows_come_back_as_they_were(target: Target) -> None:
    times = [None, dt.datetime(1969, 7, 20, 20, 17, 40, 1), dt.datetime(2020, 1, 1, 0, 0, 0, 123000), DAY]
    rows = [
        row(n, match_content=text, source_author=text, evidence=text, score=None if n % 2 else n / 3)
        | {"create_time": times[n % 4]}
        for n, text in enumerate(storable(target, text) for text in HARD)
    ]
    found = results(filled(target, rows))
    assert found == rows
    assert all(b.schema.field("create_time").type == pa.timestamp("us") for b in target.results(TASK))


def test_text_that_cannot_be_stored_is_refused_with_its_row(target: Target) -> None:
    if not target.unstorable:
        pytest.skip("this kind of target holds any text")
    target.prepare(TASK, 1, ["forum"])
    for column in ("id", "source_author", "match_content", "evidence"):
        with pytest.raises(BadInput, match=r"n 1\D.*cannot"):
            write(target, [row(0), row(1, **{column: f"a{target.unstorable}b"})])
    assert (results(target), list(target.marks(TASK))) == ([], [])


def test_results_of_chosen_columns_keep_their_order(target: Target) -> None:
    filled(target, [row(0), row(1)])
    found = list(target.results(TASK, "forum", ("panel", "id")))
    assert [b.schema.names for b in found] == [["panel", "id", "group"]]
    assert found[0].to_pylist() == [{"panel": "/male", "id": f"p{n}", "group": "forum"} for n in (0, 1)]


def test_results_come_in_key_order_of_partitions_written_in_any_order(target: Target) -> None:
    target.prepare(TASK, 1, ["forum", "blog"])
    for partition in (2, 0, 11, 1):
        rows = [row(n, id=f"{partition}-{n}", group="forum" if n % 2 else "blog") for n in range(4)]
        write(target, rows, partition)
    for group, numbers in (("blog", (0, 2)), ("forum", (1, 3))):
        assert [r["id"] for r in results(target, group)] == [f"{p}-{n}" for p in (0, 1, 2, 11) for n in numbers]
    assert sorted(r["id"] for r in results(target)) == sorted(f"{p}-{n}" for p in (0, 1, 2, 11) for n in range(4))


def test_mark_tells_rows_statistics_and_authors(target: Target) -> None:
    target.prepare(TASK, 1, ["forum"])
    assert list(target.marks(TASK)) == []
    write(target, [row(0), row(1)], 1)
    write(target, [])
    marks = list(target.marks(TASK))
    assert [(m.partition, m.n_rows) for m in marks] == [(0, 0), (1, 2)]
    assert {(m.statistics, m.authors) for m in marks} == {(Counted().text, Counted().authors)}
    assert len(results(target)) == 2


def test_statistics_are_read_after_the_rows(target: Target) -> None:
    counted = Counted("nothing yet")

    def rows() -> Iterator[pa.RecordBatch]:
        yield batch([row(0)])
        counted.text = "one row"

    target.prepare(TASK, 1, ["forum"])
    target.write(TASK, 0, 1, rows(), counted)
    assert next(target.marks(TASK)).statistics == "one row"


def test_partition_written_twice_is_there_once(target: Target) -> None:
    filled(target, [row(0), row(1)])
    assert write(target, [row(n, panel="/other") for n in range(5)]) is False
    assert [r["panel"] for r in results(target)] == ["/male", "/male"]
    assert [m.n_rows for m in target.marks(TASK)] == [2]


def test_write_with_an_old_fence_leaves_nothing(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)], fence=0)
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_write_of_an_unknown_task_is_refused(target: Target) -> None:
    target.prepare("another", 1, ["forum"])
    with pytest.raises(Conflict, match=TASK):
        write(target, [row(0)])


def test_task_prepared_twice_keeps_marks_and_both_writers(target: Target, url: str) -> None:
    target.prepare(TASK, 3, ["forum"])
    assert write(target, [row(0)], 0, 3)
    again = open_target(url)
    again.prepare(TASK, 3, ["forum", "blog"])
    assert write(again, [row(0, group="blog")], 1, 3)
    assert write(target, [row(0)], 2, 3)
    assert [m.partition for m in target.marks(TASK)] == [0, 1, 2]


def test_newer_prepare_refuses_older_writers_and_keeps_marks(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])
    assert write(target, [row(0)], 0, 1)
    open_target(url).prepare(TASK, 2, ["forum"])
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)], 1, 1)
    assert write(target, [row(0)], 1, 2)
    assert ([m.partition for m in target.marks(TASK)], leftovers(url)) == ([0, 1], [])


def test_older_prepare_is_refused_and_changes_nothing(target: Target) -> None:
    target.prepare(TASK, 10, ["forum"])
    with pytest.raises(Conflict, match="taken over"):
        target.prepare(TASK, 9, ["forum"])
    with pytest.raises(Conflict, match="taken over"):
        write(target, [row(0)], 0, 9)
    assert write(target, [row(0)], 0, 10)


def test_write_with_a_fence_that_was_never_admitted_is_refused(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)], fence=2)
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_bar_refuses_older_writers_and_a_newer_fence_stays(target: Target, url: str) -> None:
    target.prepare(TASK, 2, ["forum"])
    for fence in (1, 2):
        target.bar(TASK, fence)
        assert write(target, [row(0)], fence, 2)
    for _ in range(2):
        open_target(url).bar(TASK, 3)
        with pytest.raises(Conflict, match="taken over or deleted"):
            write(target, [row(0)], 3, 2)
    with pytest.raises(Conflict, match="taken over"):
        target.prepare(TASK, 2, ["forum"])
    target.prepare(TASK, 3, ["forum"])
    assert write(target, [row(0)], 3, 3)
    assert ([m.partition for m in target.marks(TASK)], leftovers(url)) == ([1, 2, 3], [])


def test_a_task_that_is_deleted_before_it_is_known_cannot_begin(target: Target) -> None:
    target.prepare("another_task", 1, ["forum"])
    target.delete(TASK)
    with pytest.raises(Conflict):
        target.prepare(TASK, 1, ["forum"])
    assert list(target.marks(TASK)) == []


def test_production_with_an_old_fence_is_refused_and_the_rows_stay(target: Target) -> None:
    filled(target, [row(0)]).produce(TASK, "forum", 1, BY_AUTHOR)
    target.bar(TASK, 2)
    with pytest.raises(Conflict, match="taken over"):
        target.produce(TASK, "forum", 1, BY_AUTHOR)
    assert [r["id"] for r in production(target)] == ["p0"]


def test_production_of_a_deleted_task_is_refused_and_leaves_nothing(target: Target, url: str) -> None:
    filled(target, [row(0)]).delete(TASK)
    with pytest.raises(Conflict):
        target.produce(TASK, "forum", 1, BY_AUTHOR)
    assert (production(target), leftovers(url)) == ([], [])


def test_write_of_what_is_there_already_is_refused_when_the_fence_is_old(target: Target) -> None:
    filled(target, [row(0)])
    target.bar(TASK, 2)
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)])


@pytest.mark.parametrize("raised", ["bar", "prepare"])
def test_writer_that_is_overtaken_in_mid_write_leaves_nothing(target: Target, url: str, raised: str) -> None:
    other = open_target(url)

    def rows() -> Iterator[pa.RecordBatch]:
        yield batch([row(0)])
        other.bar(TASK, 2) if raised == "bar" else other.prepare(TASK, 2, ["forum"])
        yield batch([row(1)])

    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(Conflict, match="taken over or deleted"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_bar_where_nothing_was_prepared_creates_nothing(target: Target, url: str) -> None:
    target.bar(TASK, 2)
    assert (target.exists(), everything(url)) == (False, [])
    target.prepare("another", 1, ["forum"])
    before = everything(url)
    target.bar(TASK, 2)
    assert everything(url) == before
    target.prepare(TASK, 1, ["forum"])
    assert write(target, [row(0)])


def test_bar_and_delete_leave_a_database_of_somebody_else_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()
    open_target(str(path)).bar(TASK, 2)
    open_target(str(path)).delete(TASK)
    assert path.read_bytes() == before


def test_marks_without_authors_equal_marks_but_for_the_blob(target: Target) -> None:
    filled(target, [row(0), row(1)])
    write(target, [], 1)
    assert list(target.marks(TASK, authors=False)) == [replace(m, authors=b"") for m in target.marks(TASK)]


def meet(place: Path, name: str) -> None:
    """Waits for the other process, so that both go on at once."""
    (place / f"{name}-{os.getpid()}").touch()
    deadline = time.monotonic() + 60
    while len(list(place.glob(f"{name}-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)


def write_beside_another_process(url: str, place: Path) -> bool:
    def rows() -> Iterator[pa.RecordBatch]:
        yield batch([row(0)])
        meet(place, "writing")
        yield batch([row(1)])

    target = open_target(url)
    meet(place, "preparing")
    target.prepare(TASK, 1, ["forum"])
    return target.write(TASK, 0, 1, rows(), Counted())


def test_partition_that_two_processes_write_at_once_is_there_once(target: Target, url: str, tmp_path: Path) -> None:
    place = tmp_path / "meeting"
    place.mkdir()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        written = [pool.submit(write_beside_another_process, url, place) for _ in range(2)]
        assert sorted(each.result() for each in written) == [False, True]
    assert [r["n"] for r in results(target)] == [0, 1]
    assert ([m.n_rows for m in target.marks(TASK)], leftovers(url)) == ([2], [])


def killed_writer(folder: Path, fence: int, put_away: bool = False) -> None:
    """What a process leaves that was killed in mid-write; `put_away`: another one then, while it raised the fence."""
    writing = folder / (f".old-{fence}~{uuid.uuid4().hex}" if put_away else f".writing-{fence}")
    writing.mkdir(exist_ok=True)
    (writing / f".part-00000.parquet.{uuid.uuid4().hex}.tmp").write_text("half a file")


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.mark.parametrize("raised", ["bar", "prepare"])
def test_files_of_killed_writers_go_when_the_fence_is_raised(tmp_path: Path, raised: str) -> None:
    target, folder = open_target(f"{tmp_path}/labels/"), tmp_path / "labels" / "results" / TASK
    target.prepare(TASK, 9, ["forum"])
    killed_writer(folder, 9)
    killed_writer(folder, 7, put_away=True)
    target.bar(TASK, 10) if raised == "bar" else target.prepare(TASK, 10, ["forum"])
    assert hidden(folder) == [".writing-10"]
    assert list((folder / ".writing-10").iterdir()) == []


def test_raising_that_was_killed_halfway_is_finished_by_the_next_call(tmp_path: Path) -> None:
    target, folder = open_target(f"{tmp_path}/labels/"), tmp_path / "labels" / "results" / TASK
    target.prepare(TASK, 1, ["forum"])
    killed_writer(folder, 1)
    (folder / ".writing-3").mkdir()
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)])
    target.bar(TASK, 2)
    assert hidden(folder) == [".writing-3"]


def test_writer_of_a_deleted_task_is_refused_also_where_a_killed_prepare_left_its_folder(tmp_path: Path) -> None:
    target = filled(open_target(f"{tmp_path}/labels/"), [row(0)])
    target.delete(TASK)
    (tmp_path / "labels" / "results" / TASK / ".writing-1").mkdir(parents=True)
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)])
    assert list(target.marks(TASK)) == []


def test_files_of_killed_writers_go_with_the_task(tmp_path: Path) -> None:
    target, folder = open_target(f"{tmp_path}/labels/"), tmp_path / "labels" / "results" / TASK
    target.prepare(TASK, 1, ["forum"])
    killed_writer(folder, 1)
    killed_writer(folder, 0, put_away=True)
    target.delete(TASK)
    assert list(folder.parent.iterdir()) == []


def test_file_of_somebody_else_among_unfinished_ones_survives(tmp_path: Path) -> None:
    target, folder = open_target(f"{tmp_path}/labels/"), tmp_path / "labels" / "results" / TASK
    target.prepare(TASK, 1, ["forum"])
    killed_writer(folder, 1)
    (folder / ".writing-1" / "notes.txt").write_text("keep me")
    target.bar(TASK, 2)
    target.bar(TASK, 3)
    target.delete(TASK)
    assert [p.read_text() for p in folder.rglob("*") if p.is_file()] == ["keep me"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_partition_is_written_once_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    target = filled(open_target(f"{tmp_path}/labels/"), [row(0)])
    assert write(target, [row(0), row(1)]) is False
    target.bar(TASK, 2)
    with pytest.raises(Conflict, match="taken over or deleted"):
        write(target, [row(0)], 1)
    assert ([m.n_rows for m in target.marks(TASK)], leftovers(f"{tmp_path}/labels")) == ([1], [])


def test_rows_that_fail_halfway_leave_nothing(target: Target, url: str) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield batch([row(0)])
        raise RuntimeError("the source broke")

    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(RuntimeError, match="the source broke"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])
    assert write(target, [row(0)])


def test_statistics_that_fail_leave_nothing(target: Target, url: str) -> None:
    class Broken(Counted):
        def to_json(self) -> str:
            raise RuntimeError("no statistics")

    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(RuntimeError, match="no statistics"):
        target.write(TASK, 0, 1, [batch([row(0)])], Broken())
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_two_rows_with_one_key_are_refused(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])
    with pytest.raises(BadInput):
        write(target, [row(0), row(1), row(1)])
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_rows_are_fetched_in_the_order_asked(target: Target) -> None:
    rows = [row(n, group="forum" if n % 2 else "blog") for n in range(6)]
    filled(target, rows, "forum", "blog")
    found = target.fetch(TASK, [("forum", 0, 5), ("blog", 0, 0), ("forum", 7, 1), ("blog", 0, 1), ("forum", 0, 1)])
    assert [(r["id"], r["group"]) for r in found] == [("p5", "forum"), ("p0", "blog"), ("p1", "forum")]
    assert found[1] == {**rows[0], "create_time": "2020-01-01 00:00:00"}


def test_tasks_do_not_mix(target: Target) -> None:
    filled(target, [row(0)])
    other = "another_task"
    target.prepare(other, 1, ["forum"])
    target.write(other, 0, 1, [batch([row(1, task_id=other)])], Counted())
    target.produce(TASK, "forum", 1, BY_AUTHOR)
    target.produce(other, "forum", 1, BY_AUTHOR)
    target.delete(other)
    assert [r["id"] for r in results(target)] == [r["id"] for r in production(target)] == ["p0"]
    assert (list(target.results(other)), list(target.production(other, "forum")), list(target.marks(other))) == (
        [],
        [],
        [],
    )


GOLDEN: dict[str, tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]] = {
    "a tie in a conflict leaves none": ([("a", "/male", 1), ("a", "/female", 2)], []),
    "the majority wins and its newest row stands": (
        [("a", "/male", 1), ("a", "/male", 3), ("a", "/female", 2)],
        [("a", "/male", 3)],
    ),
    "labels without conflict all stay": (
        [("a", "A", 1), ("a", "B", 2), ("a", "C", 3)],
        [("a", "A", 1), ("a", "B", 2), ("a", "C", 3)],
    ),
    "conflict groups do not touch": (
        [("a", "/married", 1), ("a", "/male", 2), ("a", "/male", 3)],
        [("a", "/married", 1), ("a", "/male", 3)],
    ),
    "authors do not touch": (
        [("a", "/male", 1), ("b", "/female", 2), ("a ", "/female", 3), ("A", "/female", 4)],
        [("a", "/male", 1), ("b", "/female", 2), ("a ", "/female", 3), ("A", "/female", 4)],
    ),
    "two to one to one is no majority": ([("a", "x", 1), ("a", "x", 2), ("a", "y", 3), ("a", "z", 4)], []),
    "three to one to one is": (
        [("a", "x", 1), ("a", "x", 2), ("a", "x", 3), ("a", "y", 4), ("a", "z", 5)],
        [("a", "x", 3)],
    ),
}
THREE_WAY = ConflictRules(BY_AUTHOR.conflicts | dict.fromkeys("xyz", "three"), by_author=True)


@pytest.mark.parametrize("case", GOLDEN)
def test_production_settles_conflicts(target: Target, case: str) -> None:
    given_rows, expected = GOLDEN[case]
    rows = [row(n, source_author=a, panel=p, create_time=DAY + dt.timedelta(days=t)) for n, (a, p, t) in
            enumerate(given_rows)]  # fmt: skip
    counted = filled(target, rows).produce(TASK, "forum", 1, THREE_WAY)
    found = [(r["source_author"], r["panel"], (r["create_time"] - DAY).days) for r in production(target)]
    assert found == expected
    assert counted == (len(expected), len({author for author, _, _ in expected}))


def test_production_counts_distinct_rows_and_keeps_all_columns(target: Target) -> None:
    rows = [row(0, id="p"), row(1, id="p", evidence="newest"), row(2, source_author=None)]
    filled(target, rows).produce(TASK, "forum", 1, BY_AUTHOR)
    expected = {name: rows[1][name] for name in PRODUCTION_COLUMNS if name != "posts"}
    assert production(target) == [{**expected, "posts": 1, "group": "forum"}]
    names = [*PRODUCTION_COLUMNS, "group"]
    assert [b.schema.names for b in target.production(TASK, "forum")] == [names]


def test_production_without_authors_is_by_row(target: Target) -> None:
    rows = [row(n, id=i, panel=p, source_author=None) for n, (i, p) in
            enumerate([("p", "/male"), ("p", "/female"), ("q", "/male"), ("q", "A")])]  # fmt: skip
    settlement = ConflictRules(BY_AUTHOR.conflicts, by_author=False)
    assert filled(target, rows).produce(TASK, "forum", 1, settlement) == (2, 1)
    assert [(r["id"], r["panel"], r["posts"]) for r in production(target)] == [("q", "/male", 1), ("q", "A", 1)]


def test_production_made_twice_is_the_same(target: Target) -> None:
    filled(target, [row(n, source_author=f"a{n % 3}", panel=f"{n % 2}") for n in range(20)])
    first = target.produce(TASK, "forum", 1, BY_AUTHOR)
    once = production(target)
    assert (target.produce(TASK, "forum", 1, BY_AUTHOR), production(target)) == (first, once)
    assert len(once) == first[0] == 6


def test_production_of_two_groups_is_apart(target: Target) -> None:
    filled(target, [row(0, group="forum"), row(1, group="blog", panel="/female")], "forum", "blog")
    assert target.produce(TASK, "forum", 1, BY_AUTHOR) == target.produce(TASK, "blog", 1, BY_AUTHOR) == (1, 1)
    assert [[r["panel"] for r in production(target, g)] for g in ("forum", "blog")] == [["/male"], ["/female"]]


def test_production_of_nothing_is_nothing(target: Target) -> None:
    filled(target, [row(0)], "forum", "blog")
    assert target.produce(TASK, "blog", 1, BY_AUTHOR) == (0, 0)
    assert production(target, "blog") == []


def test_production_comes_by_time_with_unknown_times_first(target: Target) -> None:
    times = [None, DAY.replace(microsecond=5), DAY, DAY.replace(microsecond=500_000), DAY + dt.timedelta(seconds=1)]
    rows = [row(n, source_author=f"a{n}", create_time=time) for n, time in enumerate(reversed(times))]
    filled(target, rows).produce(TASK, "forum", 1, BY_AUTHOR)
    assert [r["create_time"] for r in production(target)] == [None, *sorted(t for t in times if t)]


RANDOM_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "r", "s", "é"]),
        st.sampled_from(["a", "b", "A", "a\0b", None]),
        st.sampled_from(["s", "t", None]),
        st.sampled_from(["/male", "/female", "x", "y", "z", "free"]),
        st.sampled_from([None, DAY, DAY.replace(microsecond=1), DAY.replace(microsecond=1000)]),
        st.sampled_from(["forum", "blog"]),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=RANDOM_ROWS, by_author=st.booleans(), cut=st.integers(0, 30))
def test_every_kind_settles_random_rows_as_the_rules_say(
    target: Target, rows: list[Any], by_author: bool, cut: int
) -> None:
    task = uuid.uuid4().hex
    names = ("id", "source_author", "field_content", "panel", "create_time", "group")
    made = [row(n, task_id=task, **dict(zip(names, values, strict=True))) for n, values in enumerate(rows)]
    made = [{**r, "source_author": storable(target, r["source_author"])} for r in made]
    target.prepare(task, 1, ["forum", "blog"])
    write(target, made[cut:], 1, task=task)
    write(target, made[:cut], 0, task=task)
    made = [{**r, "partition": int(n >= cut)} for n, r in enumerate(made)]
    for group in ("forum", "blog"):
        settled = settle([r for r in made if r["group"] == group], THREE_WAY.conflicts, by_author)
        counted = target.produce(task, group, 1, ConflictRules(THREE_WAY.conflicts, by_author))
        assert counted == (len(settled), len({subject_of(r, by_author) for r in settled}))
        kept = [*PRODUCTION_COLUMNS, "group"]
        assert production(target, group, task=task) == [{name: r[name] for name in kept} for r in settled]


def subject_of(row: Row, by_author: bool) -> Any:
    return (row["source_author"], row["field_content"]) if by_author else row["id"]


def settle(rows: list[Row], conflicts: dict[str, str], by_author: bool) -> list[Row]:
    """Production, row by row in plain Python."""

    def at(r: Row) -> dt.datetime:
        return r["create_time"] or dt.datetime(1, 1, 1)

    posts: dict[Any, set[str]] = {}
    newest: dict[Any, Row] = {}
    for r in rows:
        if not by_author or r["source_author"] is not None:
            pair = (subject_of(r, by_author), r["panel"])
            posts.setdefault(pair, set()).add(r["id"])
            newest[pair] = max(newest.get(pair, r), r, key=lambda r: (at(r), r["id"], r["partition"], r["n"]))
    votes: dict[Any, int] = {}
    for (subject, panel), ids in posts.items():
        contest = (subject, conflicts.get(panel))
        votes[contest] = votes.get(contest, 0) + len(ids)
    won = [
        {**newest[subject, panel], "posts": len(ids)}
        for (subject, panel), ids in posts.items()
        if panel not in conflicts or 2 * len(ids) > votes[subject, conflicts[panel]]
    ]
    return sorted(won, key=lambda r: (at(r), r["partition"], r["n"]))


def test_author_of_a_channel_is_not_another_whose_joined_name_is_the_same(target: Target) -> None:
    rows = [
        row(0, field_content="car_talk", source_author="car_talk_amy", panel="/male"),
        row(1, field_content="car", source_author="car_talk_amy", panel="/female"),
        row(2, field_content="car", source_author="car_talk_amy", panel="/female"),
    ]
    assert filled(target, rows).produce(TASK, "forum", 1, BY_AUTHOR) == (2, 2)
    found = [(r["field_content"], r["panel"], r["posts"]) for r in production(target)]
    assert found == [("car_talk", "/male", 1), ("car", "/female", 2)]


NUMBERS = ResultLayout({"id": Bound("signed"), "source_author": Bound("text", 20), "field_content": Bound("signed")})
"""Of a source whose ids and channels are whole numbers, and whose authors have a length."""


def test_rows_come_back_as_texts_where_ids_are_numbers(target: Target) -> None:
    target.prepare(TASK, 1, ["forum"], NUMBERS)
    rows = [row(n, id=str(n * 10**15), field_content=str(n) if n else None) for n in range(3)]
    write(target, rows)
    assert results(target) == rows
    assert [r["id"] for r in target.fetch(TASK, [("forum", 0, 2)])] == [rows[2]["id"]]
    target.produce(TASK, "forum", 1, BY_AUTHOR)
    assert [(r["id"], r["field_content"]) for r in production(target)] == [(r["id"], r["field_content"]) for r in rows]


@pytest.mark.parametrize("later", [ResultLayout({"id": Bound("text", 40)}), ResultLayout()])
def test_tables_are_widened_for_a_source_with_other_types(target: Target, later: ResultLayout) -> None:
    target.prepare(TASK, 1, ["forum"], NUMBERS)
    rows = [row(0, id="12", source_author="a" * 20, field_content="7")]
    write(target, rows)
    target.prepare("other", 1, ["forum"], later)
    others = [row(0, id="中" * 40, task_id="other", source_author="b" * 900, field_content="t" * 900)]
    write(target, others, task="other")
    target.prepare("third", 1, ["forum"], NUMBERS)
    assert results(target) == rows
    assert results(target, task="other") == others


def test_groups_may_be_called_like_an_index_of_another(target: Target) -> None:
    target.prepare(TASK, 1, ["x", "x__panel", "x_", "production_x__panel"], ResultLayout(indexes=("panel",)))
    write(target, [row(0, group="x"), row(1, group="x__panel")])
    assert [r["group"] for r in results(target)] == ["x", "x__panel"]


def test_indexed_columns_are_widened(target: Target) -> None:
    indexes = ("id", "source_author", "field_content")
    target.prepare(TASK, 1, ["forum"], ResultLayout(NUMBERS.bounds, indexes))
    target.prepare(TASK, 1, ["forum"], ResultLayout(indexes=indexes))
    rows = [row(n, **dict.fromkeys(indexes, "é" * 600)) for n in range(2)]
    write(target, rows)
    assert results(target) == rows


def indexes_of(url: str, run: Callable[[str], list[Any]], table: str) -> set[str]:
    if url.startswith("mysql"):
        schema = "table_schema = DATABASE() AND"
        sql = f"SELECT column_name FROM information_schema.statistics WHERE {schema} table_name = '{table}'"
    elif url.startswith("postgresql"):
        of_index = "pg_attribute JOIN pg_index ON indexrelid = attrelid"
        sql = f"SELECT attname FROM {of_index} WHERE indrelid = '{table}'::regclass"
    else:
        sql = f"SELECT i.name FROM pragma_index_list('{table}') l, pragma_index_info(l.name) i"
    return {name for (name,) in run(sql)}


def test_production_has_indexes_and_results_those_that_are_wanted(target: Target, url: str) -> None:
    if not is_database(url):
        pytest.skip("files have no indexes")
    target.prepare(TASK, 1, ["forum"])
    with database(url) as run:
        assert {"source_author", "panel"} <= indexes_of(url, run, "production_forum")
        assert indexes_of(url, run, "results_forum") == {"task_id", "partition", "n"}
    wanted = ("id", "source_author", "panel", "create_time", "field_content", "model", "score")
    target.prepare(TASK, 1, ["forum"], ResultLayout(indexes=wanted))
    target.prepare(TASK, 1, ["forum"], ResultLayout(indexes=wanted))
    with database(url) as run:
        assert indexes_of(url, run, "results_forum") == {"task_id", "partition", "n", *wanted}
    long = [row(0, **dict.fromkeys(("id", "source_author", "field_content"), "é" * 4000))]
    write(target, long)
    assert results(target) == long


@pytest.mark.parametrize(("page_bytes", "has_rowid"), [(0, False), (4096, True)])
def test_wide_rows_fit_the_pages_of_a_sqlite_file(tmp_path: Path, page_bytes: int, has_rowid: bool) -> None:
    """A row in the tree of its key spills into a page of its own where pages are small: such a file has rowids."""
    path = tmp_path / "labels.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in (f"PRAGMA page_size = {page_bytes}", "CREATE TABLE theirs (a)") if page_bytes else ():
            db.execute(statement)
    rows = [row(n, match_content="x" * 1000) for n in range(2000)]
    target = filled(open_target(str(path)), rows)
    with database(str(path)) as run:
        tables = run("SELECT name, wr FROM pragma_table_list WHERE name LIKE 'results_%'")
        [(n_pages,)], [(page,)] = run("PRAGMA page_count"), run("PRAGMA page_size")
    assert tables == [("results_forum", int(not has_rowid))]
    assert n_pages * page < 2000 * 1600
    assert results(target) == rows


def test_deleted_task_leaves_nothing_and_bars_late_writers(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])
    write(target, [row(0)])
    target.produce(TASK, "forum", 1, BY_AUTHOR)
    target.delete(TASK)
    with pytest.raises(Conflict, match="deleted"):
        write(target, [row(0)], 1)
    assert (results(target), production(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [], [])


def test_deleted_task_cannot_be_prepared_again(target: Target, url: str) -> None:
    filled(target, [row(0)])
    target.delete(TASK)
    before = everything(url)
    for fence in (1, 2, 99):
        target.bar(TASK, fence)
        with pytest.raises(Conflict, match="deleted"):
            target.prepare(TASK, fence, ["forum", "blog"])
        with pytest.raises(Conflict, match="deleted"):
            write(target, [row(0)], fence=fence)
    assert everything(url) == before


@pytest.mark.parametrize("moment", ["results", "production", TASK, ".writing-1"])
def test_task_that_is_deleted_while_it_is_prepared_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`moment`: the folder that is to be made when another process deletes the task."""
    target, mkdir = open_target(f"{tmp_path}/labels/"), os.mkdir

    def deleted_first(path: Path, *rest: Any) -> None:
        if path.name == moment:
            target.delete(TASK)
        mkdir(path, *rest)

    monkeypatch.setattr(os, "mkdir", deleted_first)
    with pytest.raises(Conflict, match="deleted"):
        target.prepare(TASK, 1, ["forum"])
    assert [p.name for p in (tmp_path / "labels").rglob(f"*{TASK}*")] == [f"{TASK}.json"]


def test_writer_that_began_before_the_task_was_deleted_leaves_nothing(target: Target, url: str) -> None:
    target.prepare(TASK, 1, ["forum"])

    def rows() -> Iterator[pa.RecordBatch]:
        yield batch([row(0)])
        target.delete(TASK)
        yield batch([row(1)])

    with pytest.raises(Conflict, match="deleted"):
        target.write(TASK, 0, 1, rows(), Counted())
    assert (results(target), list(target.marks(TASK)), leftovers(url)) == ([], [], [])


def test_deleting_what_is_not_there_is_no_error(target: Target) -> None:
    target.delete(TASK)
    target.prepare(TASK, 1, ["forum"])
    target.delete(TASK)
    target.delete(TASK)
    assert list(target.marks(TASK)) == []


def test_many_rows_stream_in_bounded_batches(target: Target) -> None:
    n = 60_000
    target.prepare(TASK, 1, ["forum"])
    long = "證" * 100

    def rows() -> Iterator[pa.RecordBatch]:
        for start in range(0, n, 20_000):
            frame = pl.DataFrame([row(0, evidence=long)] * 20_000).with_columns(n=start + pl.int_range(20_000))
            yield from frame.select(RESULT_SCHEMA.names).to_arrow().cast(RESULT_SCHEMA).to_batches()

    target.write(TASK, 0, 1, rows(), Counted())
    sizes = [(len(b), b.nbytes) for b in target.results(TASK, "forum", ("evidence", "n"))]
    assert sum(size for size, _ in sizes) == n
    assert max(size for _, size in sizes) < 16 * 2**20


def test_where_names_what_a_person_can_look_up(target: Target, url: str) -> None:
    for production_rows in (False, True):
        assert url.rstrip("/") in target.where("forum", production_rows)
        assert "forum" in target.where("forum", production_rows)
    assert target.url == url


def foreign(url: str) -> None:
    """Something that has our name and is not ours."""
    if is_database(url):
        with database(url) as run:
            run('CREATE TABLE "results_forum" (a INT, b INT)')
            run('INSERT INTO "results_forum" VALUES (1, 2)')
    else:
        path = Path(url) / "tasks" / f"{TASK}.json"
        path.parent.mkdir(parents=True)
        path.write_text("a shopping list")


def test_foreign_thing_with_our_name_is_left_alone(target: Target, url: str) -> None:
    foreign(url)
    with pytest.raises(Conflict, match="not Audience's"):
        target.prepare(TASK, 1, ["forum"])
    if is_database(url):
        with database(url) as run:
            assert [tuple(r) for r in run('SELECT * FROM "results_forum"')] == [(1, 2)]
    else:
        assert (Path(url) / "tasks" / f"{TASK}.json").read_text() == "a shopping list"


def test_foreign_things_beside_ours_survive_a_delete(target: Target, url: str) -> None:
    filled(target, [row(0)])
    theirs = Path(url) / "results" / TASK / "notes.txt"
    if is_database(url):
        with database(url) as run:
            run('CREATE TABLE "results_of_ours" (a INT)')
    else:
        theirs.write_text("keep me")
    assert len(results(target)) == 1
    target.delete(TASK)
    assert results(target) == []
    if is_database(url):
        with database(url) as run:
            assert run('SELECT * FROM "results_of_ours"') == []
    else:
        assert theirs.read_text() == "keep me"


def test_target_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    for name in FILES.values():
        with pytest.raises(BadInput, match="there is no folder"):
            open_target(f"{tmp_path}/missing/{name}")


@pytest.mark.parametrize("name", FILES.values())
def test_read_only_target_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    with pytest.raises(BadInput, match="read-only"):
        open_target(f"{tmp_path}/{name}")


def test_target_of_the_other_kind_of_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(BadInput, match="is a file"):
        open_target(f"{tmp_path}/file/")
    (tmp_path / "labels.db").write_text("this is long enough to be no database")
    with pytest.raises(BadInput, match="not a SQLite database"):
        open_target(f"{tmp_path}/labels.db")


def test_writers_in_threads_write_each_partition_once(target: Target) -> None:
    from concurrent.futures import ThreadPoolExecutor

    target.prepare(TASK, 1, ["forum"])
    jobs: Iterable[int] = [n % 8 for n in range(32)]
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda p: write(target, [row(0), row(1)], p), jobs))
    assert sum(written) == 8
    assert [m.partition for m in target.marks(TASK)] == list(range(8))
    assert len(results(target)) == 16
