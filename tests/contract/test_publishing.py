"""One suite for publications in every kind of target, compared with a plain model of the rules."""

import contextlib
import datetime as dt
import multiprocessing
import os
import random
import signal
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience.errors import Conflict
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.publications import STAGED_SCHEMA, Change, PublishedVersions, Publisher, Publishing
from audience.tables.registry import open_publisher

ID = "0123456789abcdef0123456789abcdef"
FILES = {"sqlite": "labels.db", "folder": "labels/"}
SERVERS = {"mysql": "mysql_url", "postgres": "postgres_url"}
KINDS = [*FILES, *SERVERS]
SEX = {"/male": "sex", "/female": "sex", "/married": "bond", "/unmarried": "bond"}
DAY = dt.datetime(2024, 5, 1, 12, 30, 0, 250)
Pairs = Sequence[tuple[int, str, str]]
"""(run, subject, panel), in the order of rows; `a@c` is the author `a` of the channel `c`."""


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in SERVERS:
        return str(request.getfixturevalue(SERVERS[request.param]))
    return f"{tmp_path}/{FILES[request.param]}"


@pytest.fixture
def publisher(url: str) -> Publisher:
    return open_publisher(url, ID, "labels")


def at(version: int) -> dt.datetime:
    return DAY + dt.timedelta(days=version)


def attempt(version: int, fence: int | None = None, **values: Any) -> Publishing:
    return Publishing(version if fence is None else fence, version, at(version), SEX, **values)


def batch(pairs: Pairs, first: int = 0) -> pa.RecordBatch:
    rows = [
        {
            "subject": subject.partition("@")[0],
            "panel": panel,
            "id": f"p{n}",
            "task_id": f"task{run}",
            "source_author": subject.partition("@")[0],
            "field_content": subject.partition("@")[2] or None,
            "create_time": DAY + dt.timedelta(seconds=n),
            "match_content": f"先生 {n}",
            "model": f"m@{run}",
            "score": n / 2,
            "evidence": "[]",
            "posts": n + 1,
            "run": run,
            "n": n,
        }
        for n, (run, subject, panel) in enumerate(pairs, first)
    ]
    return pa.RecordBatch.from_pylist(rows, STAGED_SCHEMA)


def batches(pairs: Pairs) -> Iterator[pa.RecordBatch]:
    half = len(pairs) // 2
    yield batch(pairs[:half])
    yield batch(pairs[half:], half)


def publish(
    publisher: Publisher, version: int, indexes: dict[str, Pairs], fence: int | None = None, **values: Any
) -> list[Change]:
    p = attempt(version, fence, **values)
    publisher.begin(p, list(indexes))
    changes = [change for index, pairs in indexes.items() for change in publisher.merge(p, index, batches(pairs))]
    publisher.swap(p)
    return changes


def rows(publisher: Publisher, index: str = "forum") -> list[dict[str, Any]]:
    found = [row for found in publisher.published(index) for row in found.to_pylist()]
    return sorted(found, key=lambda row: (row["subject"], row["panel"]))


def pairs_of(publisher: Publisher, index: str = "forum") -> dict[tuple[str, str], tuple[int, int]]:
    """(subject, panel) -> the version that it is published since, and the version that brought its row."""
    return {
        ("@".join(filter(None, [r["subject"], r["field_content"]])), r["panel"]): (
            (r["published_at"] - DAY).days,
            r["version"],
        )
        for r in rows(publisher, index)
    }


def everything(url: str) -> list[str]:
    """Names of tables, or of files."""
    if "://" in url:
        schema = "DATABASE()" if url.startswith("mysql") else "current_schema()"
        sql = f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}"
    else:
        sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if not url.endswith("/"):
        return sorted(name for (name,) in on_database(url, sql))
    return sorted(str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file())


def on_database(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Runs a statement as somebody else would; its rows."""
    if "://" not in url:
        with contextlib.closing(sqlite3.connect(url)) as db, db:
            return db.execute(sql).fetchall()
    server = MysqlServer.at(url) if url.startswith("mysql") else PostgresServer.at(url)
    with server.session() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


# the rules


class Model:
    """The rules in plain Python: what is published, as (subject, panel) -> (since, version)."""

    def __init__(self) -> None:
        self.published: dict[tuple[str, str], tuple[int, int]] = {}

    def publish(self, version: int, pairs: Pairs, replacing: bool) -> dict[str, list[int]]:
        before = self.published
        old = {} if replacing else before
        newest: dict[tuple[str, str], int] = {}
        for run, subject, panel in pairs:
            group = SEX.get(panel)
            if group:
                newest[(subject, group)] = max(run, newest.get((subject, group), 0))
        new = {
            (subject, panel)
            for run, subject, panel in pairs
            if panel not in SEX or newest[(subject, SEX[panel])] == run
        }
        self.published = {pair: (old[pair][0] if pair in old else version, version) for pair in new}
        for (subject, panel), since in old.items():
            if (subject, panel) not in new and (subject, SEX.get(panel)) not in newest:
                self.published[(subject, panel)] = since
        return self.counted(before, old)

    def counted(self, before: dict[Any, Any], old: dict[Any, Any]) -> dict[str, list[int]]:
        counts: dict[str, list[int]] = {}
        contested = {(subject, SEX[panel]) for subject, panel in old if panel in SEX}
        for pair in {*before, *self.published}:
            subject, panel = pair
            count = counts.setdefault(panel, [0, 0, 0, 0])
            if pair in self.published:
                fate = 2 if pair in old else 1 if (subject, SEX.get(panel)) in contested else 0
                count[fate] += 1
            if pair in before and (pair not in self.published or replace_all(old, before)):
                count[3] += 1
        return counts


def replace_all(old: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return bool(before) and not old


PAIRS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(["a", "A", "a b", "é👩‍👧", "'\"; DROP", "a\0b", "\\N", "a@c", "a@d"]),
        st.sampled_from([*SEX, "/free", "/Free", "/😀"]),
    ),
    max_size=25,
).map(lambda pairs: sorted(pairs, key=lambda pair: pair[0]))


def _storable(url: str, text: str) -> str:
    """PostgreSQL has no NUL."""
    return text.replace("\0", "") if url.startswith("postgres") else text


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(published=st.lists(st.tuples(PAIRS, st.booleans()), min_size=1, max_size=4))
def test_every_kind_follows_the_rules(published: list[tuple[Pairs, bool]], url: str) -> None:
    publisher = open_publisher(url, uuid.uuid4().hex, "labels")
    model = Model()
    try:
        for version, (any_pairs, replacing) in enumerate(published, 1):
            pairs = [(run, _storable(url, subject), panel) for run, subject, panel in any_pairs]
            changes = publish(publisher, version, {"forum": pairs}, replace=replacing)
            expected = model.publish(version, pairs, replacing)
            assert pairs_of(publisher) == model.published
            assert {c.panel: [c.added, c.changed, c.kept, c.dropped] for c in changes} == expected
            assert len(rows(publisher)) == len(model.published)
    finally:
        publisher.remove(99)


def test_changes_are_told_by_panel(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male"), (1, "ben", "/male"), (1, "ben", "/free"), (1, "cat", "/x")]})
    changes = publish(publisher, 2, {"forum": [(1, "amy", "/female"), (1, "ben", "/male"), (1, "dan", "/male")]})
    assert changes == [
        Change("forum", "/female", 0, 1, 0, 0),
        Change("forum", "/free", 0, 0, 1, 0),
        Change("forum", "/male", 1, 0, 1, 1),
        Change("forum", "/x", 0, 0, 1, 0),
    ]
    assert pairs_of(publisher) == {
        ("amy", "/female"): (2, 2),
        ("ben", "/free"): (1, 1),
        ("ben", "/male"): (1, 2),
        ("cat", "/x"): (1, 1),
        ("dan", "/male"): (2, 2),
    }


def test_conflict_group_with_nothing_new_keeps_its_rows(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male"), (1, "amy", "/married")]})
    publish(publisher, 2, {"forum": [(1, "amy", "/unmarried")]})
    publish(publisher, 3, {"forum": []})
    assert pairs_of(publisher) == {("amy", "/male"): (1, 1), ("amy", "/unmarried"): (2, 2)}


def test_subject_with_two_old_labels_in_a_conflict_group_gets_the_new_one(publisher: Publisher) -> None:
    p = replace(attempt(1), conflicts={})
    publisher.begin(p, ["forum"])
    publisher.merge(p, "forum", batches([(1, "amy", "/male"), (1, "amy", "/female")]))
    publisher.swap(p)
    changes = publish(publisher, 2, {"forum": [(1, "amy", "/male")]})
    assert pairs_of(publisher) == {("amy", "/male"): (1, 2)}
    assert [(c.panel, c.kept, c.dropped) for c in changes] == [("/female", 0, 1), ("/male", 1, 0)]


def test_rows_come_back_with_everything_they_had(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "小媽👩‍👧", "/female")]})
    expected = batch([(1, "小媽👩‍👧", "/female")]).drop_columns(["run", "n"]).to_pylist()[0]
    assert rows(publisher) == [{**expected, "published_at": at(1), "version": 1}]


def test_long_subjects_and_panels_are_told_apart_by_their_ends(publisher: Publisher) -> None:
    long = "媽" * 20_000
    publish(publisher, 1, {"forum": [(1, f"{long}{n}", f"/{long}{n % 2}") for n in range(6)]})
    publish(publisher, 2, {"forum": [(1, f"{long}5", f"/{long}{n % 2}") for n in range(2)]})
    since = {(subject[-1], panel[-1]): versions for (subject, panel), versions in pairs_of(publisher).items()}
    kept = {(str(n), str(n % 2)): (1, 1) for n in range(5)}
    assert since == {**kept, ("5", "0"): (2, 2), ("5", "1"): (1, 2)}


def test_indexes_do_not_touch(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")], "blog": [(1, "amy", "/female")]})
    publish(publisher, 2, {"forum": [(1, "amy", "/female")], "blog": []})
    assert (set(pairs_of(publisher)), set(pairs_of(publisher, "blog"))) == ({("amy", "/female")},) * 2
    assert pairs_of(publisher, "blog") == {("amy", "/female"): (1, 1)}
    assert publisher.versions() == PublishedVersions(2, 1, publisher.versions().indexes)
    assert sorted(publisher.versions().indexes) == ["blog", "forum"]


# versions


def test_nothing_is_seen_before_the_swap_and_nothing_is_left_after_discarding(publisher: Publisher, url: str) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    before = (everything(url), rows(publisher), publisher.versions())
    p = attempt(2)
    publisher.begin(p, ["forum", "blog"])
    seen = publisher.merge(p, "forum", batches([(1, "amy", "/female")]))
    assert (rows(publisher), publisher.versions()) == before[1:]
    publisher.discard(3)
    assert (everything(url), rows(publisher), publisher.versions()) == before
    with pytest.raises(Conflict, match="taken over"):
        publisher.swap(p)
    assert publish(publisher, 4, {"forum": [(1, "amy", "/female")]}) == seen


def test_swap_twice_is_once(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    publish(publisher, 2, {"forum": [(1, "amy", "/female")]})
    publisher.swap(attempt(2))
    again = replace(attempt(2), fence=9)
    assert publisher.begin(again, ["forum"]).version == 2
    publisher.swap(again)
    assert publisher.versions() == PublishedVersions(2, 1, ("forum",))
    assert pairs_of(publisher) == {("amy", "/female"): (2, 2)}


def test_former_version_comes_back_and_goes_again(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    first = rows(publisher)
    publish(publisher, 2, {"forum": [(1, "amy", "/female")], "blog": [(1, "ben", "/x")]})
    second = rows(publisher), rows(publisher, "blog")
    for _ in range(2):
        publisher.roll_back(3, 1)
        assert (rows(publisher), rows(publisher, "blog"), publisher.versions().version) == (first, [], 1)
    with pytest.raises(Conflict, match="only version 2"):
        publisher.roll_back(4, 7)
    publisher.roll_back(5, 2)
    assert (rows(publisher), rows(publisher, "blog")) == second


def test_after_a_rollback_the_next_version_follows_what_is_published(publisher: Publisher, url: str) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    publish(publisher, 2, {"forum": [(1, "amy", "/female")], "blog": [(1, "ben", "/x")]})
    publisher.roll_back(3, 1)
    publish(publisher, 3, {"forum": [(1, "ben", "/male")], "blog": []}, fence=4)
    assert pairs_of(publisher) == {("amy", "/male"): (1, 1), ("ben", "/male"): (3, 3)}
    assert pairs_of(publisher, "blog") == {}
    publisher.roll_back(5, 1)
    assert pairs_of(publisher) == {("amy", "/male"): (1, 1)}


def test_what_was_never_published_cannot_be_brought_back(publisher: Publisher) -> None:
    with pytest.raises(Conflict, match="there is none"):
        publisher.roll_back(1, 1)
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]}, fence=2)
    with pytest.raises(Conflict, match="there is none"):
        publisher.roll_back(3, 5)


def test_removed_publication_leaves_nothing_and_bars_late_publishers(publisher: Publisher, url: str) -> None:
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    publish(publisher, 2, {"forum": [(1, "amy", "/female")]})
    late = attempt(3)
    publisher.begin(late, ["forum"])
    for _ in range(2):
        publisher.remove(4)
    assert [name for name in everything(url) if "forum" in name] == []
    assert (publisher.versions(), rows(publisher)) == (PublishedVersions(), [])
    for step in (lambda: publisher.merge(late, "forum", batches([(1, "a", "/x")])), lambda: publisher.swap(late),
                 lambda: publisher.begin(attempt(9), ["forum"])):  # fmt: skip
        with pytest.raises(Conflict, match="taken over or deleted"):
            step()
    publish(open_publisher(url, "f" * 32, "labels"), 1, {"forum": [(1, "ben", "/male")]})


# publishers that meet, or die


def test_newer_publisher_bars_the_older_one_at_every_step(publisher: Publisher, url: str) -> None:
    newer = open_publisher(url, ID, "labels")
    for moment in ("merge", "rows", "swap"):
        fence = {"merge": 1, "rows": 3, "swap": 5}[moment]
        older = replace(attempt(1), fence=fence)
        publisher.begin(older, ["forum"])

        def rows_while_overtaken(fence: int = fence) -> Iterator[pa.RecordBatch]:
            yield batch([(1, "amy", "/male")])
            newer.begin(replace(attempt(1), fence=fence + 1), ["forum"])
            yield batch([(1, "ben", "/male")], 1)

        if moment == "rows":
            with pytest.raises(Conflict, match="taken over"):
                publisher.merge(older, "forum", rows_while_overtaken())
        else:
            if moment == "swap":
                publisher.merge(older, "forum", batches([(1, "amy", "/male")]))
            newer.begin(replace(attempt(1), fence=fence + 1), ["forum"])
            with pytest.raises(Conflict, match="taken over"):
                publisher.swap(older) if moment == "swap" else publisher.merge(older, "forum", [])
        with pytest.raises(Conflict, match="taken over"):
            publisher.begin(older, ["forum"])
        assert publisher.versions().version == 0


ROUNDS = {1: [(1, f"s{n}", ("/male", "/x")[n % 2]) for n in range(400)],
          2: [(1, f"s{n}", ("/female", "/x")[n % 3 == 1]) for n in range(200, 600)]}  # fmt: skip


def publish_and_say(url: str, fence: int, said: Any) -> None:
    publisher = open_publisher(url, ID, "labels")
    said.set()
    if publisher.begin(attempt(2, fence), ["forum", "blog"]).version != 2:  # the one before may have come to its end
        publish(publisher, 2, {"forum": ROUNDS[2], "blog": ROUNDS[2][:50]}, fence=fence)


def test_publisher_that_is_killed_anywhere_is_followed_by_one_with_the_same_rows(url: str) -> None:
    whole = open_publisher(url, "f" * 32, "labels")
    publish(whole, 1, {"forum": ROUNDS[1]})
    began = time.monotonic()
    publish(whole, 2, {"forum": ROUNDS[2], "blog": ROUNDS[2][:50]})
    took_s = time.monotonic() - began
    versions, tables = whole.versions(), [name.replace("f" * 32, ID) for name in everything(url)]
    expected = [rows(whole, index) for index in ("forum", "blog")]
    whole.remove(9)
    publish(open_publisher(url, ID, "labels"), 1, {"forum": ROUNDS[1]})
    spawn = multiprocessing.get_context("spawn")
    dice = random.Random(4)
    for fence in range(2, 8):
        said = spawn.Event()
        process = spawn.Process(target=publish_and_say, args=(url, fence, said))
        process.start()
        assert said.wait(60)
        time.sleep(dice.uniform(0, 1.5 * took_s))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        publisher = open_publisher(url, ID, "labels")
        found = rows(publisher)
        if publisher.versions().version == 2:
            assert found == expected[0]
        else:
            assert {row["version"] for row in found} == {1}
            assert len(found) == 400
    p = replace(attempt(2), fence=99)
    if publisher.begin(p, ["forum", "blog"]).version != 2:
        publish(publisher, 2, {"forum": ROUNDS[2], "blog": ROUNDS[2][:50]}, fence=100)
    assert [rows(publisher, index) for index in ("forum", "blog")] == expected
    assert publisher.versions() == versions
    publisher.discard(101)
    assert everything(url) == tables


def test_pointer_that_a_killed_process_did_not_finish_goes_with_the_next_attempt(tmp_path: Path) -> None:
    url = f"{tmp_path}/labels/"
    publisher = open_publisher(url, ID, "labels")
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    before = everything(url)
    (tmp_path / "labels" / "published" / "labels" / f".publication.json.{'0' * 32}.tmp").write_text("half")
    publisher.discard(2)
    assert everything(url) == before


@pytest.fixture(params=[kind for kind in KINDS if kind != "folder"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue(SERVERS[request.param])) if request.param in SERVERS else f"{tmp_path}/labels.db"


def test_publications_of_two_names_do_not_share_an_index_in_a_database(database: str) -> None:
    publish(open_publisher(database, ID, "monthly"), 1, {"forum": [(1, "amy", "/male")]})
    other = open_publisher(database, "f" * 32, "weekly")
    with pytest.raises(Conflict, match="of the publication 'monthly'"):
        other.begin(attempt(1), ["Forum"])
    publish(other, 1, {"weekly_forum": [(1, "amy", "/female")]})
    assert set(pairs_of(open_publisher(database, ID, "monthly"))) == {("amy", "/male")}


def test_index_that_another_publication_has_begun_is_refused(database: str) -> None:
    open_publisher(database, ID, "monthly").begin(attempt(1), ["forum"])
    other = open_publisher(database, "f" * 32, "weekly")
    with pytest.raises(Conflict, match="of the publication 'monthly'"):
        other.begin(attempt(1), ["forum"])
    open_publisher(database, ID, "monthly").discard(2)
    publish(other, 1, {"forum": [(1, "amy", "/female")]})
    assert set(pairs_of(other)) == {("amy", "/female")}


# what is not ours


def foreign_tables(url: str) -> list[str]:
    """Names that the first attempt wants."""
    if url.startswith("postgres"):
        return ["published_forum", "published_forum__next", "published_forum__v1"]
    return ["published_forum", "published_forum__former", f"published_forum__next{'1' * url.startswith('mysql')}"]


def test_foreign_table_of_the_same_name_is_never_touched(database: str) -> None:
    for table in foreign_tables(database):
        on_database(database, f"CREATE TABLE {table} AS SELECT 1 AS a")
        publisher = open_publisher(database, uuid.uuid4().hex, table)
        with pytest.raises(Conflict, match=f"the table {table} is there already"):
            publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
        publisher.discard(2)
        publisher.remove(3)
        assert on_database(database, f"SELECT * FROM {table}") == [(1,)]
        on_database(database, f"DROP TABLE {table}")


def test_foreign_files_are_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "labels" / "published" / "labels"
    (folder / "version-000001").mkdir(parents=True)
    (folder / "version-000001" / "notes.txt").write_text("keep me")
    publisher = open_publisher(f"{tmp_path}/labels/", ID, "labels")
    with pytest.raises(Conflict, match="not Audience's"):
        publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    (folder / "version-000001").rename(folder / "mine")
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    publisher.remove(2)
    assert (folder / "mine" / "notes.txt").read_text() == "keep me"
    (folder / "publication.json").write_text("a shopping list")
    with pytest.raises(Conflict, match="not Audience's"):
        publisher.begin(attempt(3), ["forum"])
    assert (folder / "publication.json").read_text() == "a shopping list"


def test_view_reads_the_new_version(database: str) -> None:
    publisher = open_publisher(database, ID, "labels")
    publish(publisher, 1, {"forum": [(1, "amy", "/male")]})
    on_database(database, "CREATE VIEW theirs AS SELECT panel FROM published_forum")
    publish(publisher, 2, {"forum": [(1, "amy", "/female")]})
    assert on_database(database, "SELECT * FROM theirs") == [("/female",)]
    publish(publisher, 3, {"forum": [(1, "amy", "/male")]})
    publisher.roll_back(4, 2)
    assert on_database(database, "SELECT * FROM theirs") == [("/female",)]


def test_reader_sees_whole_versions_while_they_are_swapped(publisher: Publisher) -> None:
    publish(publisher, 1, {"forum": [(1, f"s{n}", "/male") for n in range(5_000)]})
    reader = publisher.published("forum")
    first = next(reader)
    publish(publisher, 2, {"forum": [(1, f"s{n}", "/female") for n in range(5_000)]})
    found = pl.concat([pl.from_arrow(each) for each in (first, *reader)])
    assert (found["panel"].unique().to_list(), len(found)) == (["/male"], 5_000)
