"""The main job through the app: a table in, labels, production, statistics and samples out."""

import contextlib
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import BadInput, Conflict, NotFound
from audience.labeling.export import export
from audience.labeling.groups import GroupMap, load_groups
from audience.labeling.panels import Panels
from audience.settings import Settings
from audience.tables.base import Plan
from audience.tables.sqlite.source import SqliteSource
from audience.tables.times import parse_bound

GENDER = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"


SAMPLED = ["p0", "p36", "p57", "p31", "p46", "p52"]
"""Of the 60 posts below: the same rows on every machine and version, however the table is cut."""


def post(i: int, author: str | None = "x", channel: str = "c1", content: str = "", time: str | None = None) -> tuple:
    return (f"p{i}", channel, author, content, time or f"2024-01-{1 + i % 28:02d} 00:00:00")


def label(
    app: App, source: Path, target: Path, *models: str, tasks: list[TaskRequest] | None = None, **details: object
) -> dict:
    run_id = asked(app, tasks or [task(source)], target, *models, **details)
    app.operations.work_on(run_id)
    return app.runs.get(run_id)


def task(source: Path, name: str = "posts", roles: dict[str, str] | None = None, **details: object) -> TaskRequest:
    return TaskRequest(source=SourceRequest(location=str(source), options={"roles": roles or {}}), name=name, **details)


def asked(app: App, tasks: list[TaskRequest], target: Path, *models: str, **details: object) -> str:
    """A run that nobody has begun with; its id."""
    request = RunRequest(tasks=tuple(tasks), models=models, target=str(target), **details)
    return str(app.runs.create(request, LOCAL)["id"])


def report(run: dict) -> dict:
    assert run["state"] == "done", run["error"]
    return run["tasks"][0]["report"]


def rows(target: Path, table: str, columns: str = "id, panel") -> list[tuple]:
    with contextlib.closing(sqlite3.connect(target)) as db, db:
        return db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()


@pytest.fixture
def gender(app, rules):
    return app.models.add("gender", rules(GENDER), LOCAL, fields=("author",))[0]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "labels.db"


def test_numbers_of_a_run_add_up(app, table, gender, target):
    source = table(
        [
            post(1, "媽1"),
            post(2, "媽1"),
            post(3, "爸2"),
            post(4, "none"),
            post(5, "none "),
            post(6, "爸2", channel="c2"),
            post(7, "爸9", channel="elsewhere"),
            post(8, None, channel="c2"),
            post(9, "媽", channel="c1", time="soon"),
            (None, "c1", "媽", "", "2024-01-01"),
        ]
    )
    groups = GroupMap.checked({"c1": "forum", "c2": "fans"}, None)
    found = report(label(app, source, target, gender, groups=groups))
    assert found["read"] == found["planned"] == 10
    assert (found["missing"], found["outside"], found["received"]) == (0, 0, 7)
    assert found["unmapped"] == {"elsewhere": 1}
    assert found["set_aside"] == {"id is null": 1, "post_time is not a time": 1}
    assert found["bad_rows"] == [["p9", "post_time is not a time: soon"], [None, "id is null"]]
    assert found["groups"] == {
        "forum": {
            "received": 5,
            "results": 3,
            "authors": 3,
            "authorless": 0,
            "production": 2,
            "labelled": 2,
            "rate_of_label": 66.67,
        },
        "fans": {
            "received": 2,
            "results": 1,
            "authors": 1,
            "authorless": 1,
            "production": 1,
            "labelled": 1,
            "rate_of_label": 100.0,
        },
    }
    assert found["peak_memory_mb"] > 0
    assert found["production_seconds"] > 0
    assert rows(target, "results_forum") == [("p1", "/female"), ("p2", "/female"), ("p3", "/male")]
    assert rows(target, "production_forum", "source_author, panel, posts") == [
        ("c1_媽1", "/female", 2),
        ("c1_爸2", "/male", 1),
    ]


def test_rows_of_unmapped_channels_go_to_a_default_group_when_there_is_one(app, table, gender, target):
    groups = GroupMap.checked({"c1": "forum"}, "rest")
    run = label(app, table([post(1, "媽", channel="new")]), target, gender, groups=groups)
    assert rows(target, "results_rest") == [("p1", "/female")]
    assert report(run)["unmapped"] == {}


def test_a_result_row_tells_what_was_matched_and_where(app, table, gender, target):
    label(app, table([post(1, "小🐱媽爸", time="2024-01-02 03:04:05.678")]), target, gender)
    columns = "id, source_author, panel, create_time, field_content, match_content, match_meta, model, score, evidence"
    row = rows(target, "results_all", columns)[0]
    assert row[:6] == ("p1", "c1_小🐱媽爸", "/female", "2024-01-02 03:04:05.678", "c1", "小🐱媽爸")
    assert json.loads(row[6]) == [["女性", [["媽", 2]]], ["男性", [["爸", 3]]]]
    assert row[7:9] == ("gender@1", 1.0)
    hit = {"label": "女性", "rule": 1, "field": "author", "match": "partially", "text": "媽", "start": 2, "end": 3}
    assert json.loads(row[9])[0] == hit


def test_independent_models_each_label_a_row(app, table, gender, rules, target):
    spam = app.models.add("spam", rules("label,content\nspam,buy\n", "spam.csv"), LOCAL)[0]
    label(app, table([post(1, "媽", content="buy")]), target, gender, spam)
    assert rows(target, "results_all", "model, panel") == [("gender@1", "/female"), ("spam@1", "/spam")]


def test_with_first_wins_a_row_keeps_the_label_of_the_first_model_that_has_one(app, table, gender, rules, target):
    spam = app.models.add("spam", rules("label,content\nspam,buy\n", "spam.csv"), LOCAL)[0]
    posts = table([post(1, "媽", content="buy"), post(2, "x", content="buy"), post(3, "x")])
    label(app, posts, target, gender, spam, first_wins=True)
    assert rows(target, "results_all") == [("p1", "/female"), ("p2", "/spam")]


def test_a_null_field_is_no_hit_for_that_model_only(app, table, gender, rules, target):
    spam = app.models.add("spam", rules("label,content\nspam,buy\n", "spam.csv"), LOCAL)[0]
    label(
        app,
        table([("p1", "c1", None, "buy", "2024-01-01"), ("p2", "c1", "媽", None, "2024-01-01")]),
        target,
        gender,
        spam,
    )
    assert rows(target, "results_all") == [("p1", "/spam"), ("p2", "/female")]


def test_conflict_groups_and_label_names_are_data(app, table, rules, target):
    tea = app.models.add("tea", rules("label,content\nblack,紅茶\ngreen,綠茶\n", "t.csv"), LOCAL)[0]
    posts = table(
        [
            post(1, "a", content="紅茶"),
            post(2, "a", content="紅茶"),
            post(3, "a", content="綠茶"),
            post(4, "b", content="綠茶"),
        ]
    )
    panels = Panels(names={"black": "紅"}, conflicts={"tea": ("紅", "green")})
    label(app, posts, target, tea, conflict_groups=panels)
    assert rows(target, "production_all", "source_author, panel") == [("c1_a", "/紅"), ("c1_b", "/green")]


def test_the_rate_of_label_never_exceeds_a_hundred(app, table, rules, target):
    both = app.models.add("both", rules("label,content\na,x\nb,x\n", "b.csv"), LOCAL, labels="all")[0]
    found = report(label(app, table([post(1, "w", content="x")]), target, both))
    assert (found["groups"]["all"]["production"], found["groups"]["all"]["rate_of_label"]) == (2, 100.0)


def test_a_table_without_author_time_or_id_is_labelled_by_row(app, table, rules, target):
    spam = app.models.add("spam", rules("label,content\nspam,buy\n", "spam.csv"), LOCAL)[0]
    source = table([("buy now",), ("hello",), ("buy!",)], columns=("content",))
    found = report(label(app, source, target, spam))
    assert found["groups"]["all"] | {"seconds": 0} == {
        "received": 3,
        "results": 2,
        "authors": None,
        "authorless": None,
        "production": 2,
        "labelled": 2,
        "rate_of_label": 66.67,
        "seconds": 0,
    }
    assert rows(target, "production_all") == [("posts#1", "/spam"), ("posts#3", "/spam")]


def test_any_column_names_work_with_roles(app, table, gender, target):
    source = table([("1", "媽媽日記", "2024-01-01")], columns=("key", "nick", "at"))
    roles = {"id": "key", "author": "nick", "post_time": "at"}
    label(app, source, target, gender, tasks=[task(source, "t", roles)])
    assert rows(target, "results_all", "id, source_author") == [("1", "媽媽日記")]


def test_a_range_is_half_open(app, table, gender, target):
    source = table(
        [post(1, "媽", time="2024-01-01 00:00:00"), post(2, "媽", time="2024-01-02"), post(3, "媽", time="2024-01-03")]
    )
    for name in ("2024-01-01", "2024-01-02"):
        day = task(source, name, start=parse_bound(name, ""), end=parse_bound(f"2024-01-0{int(name[-1]) + 1}", ""))
        report(label(app, source, target, gender, tasks=[day]))
    assert rows(target, "results_all") == [("p1", "/female"), ("p2", "/female")]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("partition_rows", [1, 7, 1000])
def test_results_do_not_depend_on_how_the_work_was_cut(tmp_path, table, rules, partition_rows, threads):
    app = App(Settings(home=tmp_path / "h", threads=threads))
    gender = app.models.add("gender", rules(GENDER), LOCAL, fields=("author",))[0]
    source = table([post(i, f"{'媽爸x'[i % 3]}{i % 11}") for i in range(60)])
    target = tmp_path / "labels.db"
    run = label(app, source, target, gender, partition_rows=partition_rows)
    assert len(rows(target, "results_all")) == 40
    assert report(run)["groups"]["all"]["authors"] == 33
    assert [r["id"] for r in app.results.sample(run["id"], 3)] == SAMPLED


def test_several_sources_make_one_run_with_a_task_each(app, table, gender, target):
    a, b = table([post(1, "媽")], "a.db"), table([post(2, "爸")], "b.db")
    tasks = [task(path, path.stem) for path in (a, b)]
    run = label(app, a, target, gender, tasks=tasks)
    assert [t["report"]["read"] for t in run["tasks"]] == [1, 1]
    assert rows(target, "results_all") == [("p1", "/female"), ("p2", "/male")]


def test_a_failing_source_fails_its_task_and_leaves_the_others(app, table, gender, target):
    good, gone = table([post(1, "媽")], "a.db"), table([post(2, "爸")], "b.db")
    run_id = asked(app, [task(path, path.stem) for path in (gone, good)], target, gender)
    gone.unlink()
    app.operations.work_on(run_id)
    run = app.runs.get(run_id)
    assert [t["state"] for t in run["tasks"]] == ["failed", "done"]
    assert run["state"] == "failed"
    assert "no file" in run["error"]
    assert rows(target, "results_all") == [("p1", "/female")]


def test_production_twice_gives_the_same_table(app, table, gender, target):
    source = table([post(i, f"{'媽爸'[i % 2]}{i % 5}") for i in range(40)])
    run = label(app, source, target, gender)
    before = rows(target, "production_all", "*")
    app.operations.work_on(app.runs.produce(run["id"], LOCAL))
    assert rows(target, "production_all", "*") == before
    now, then = (r["tasks"][0]["report"] for r in (app.runs.get(run["id"]), run))
    assert now["groups"] == then["groups"]


def test_production_that_fails_leaves_the_run_as_it_was(app, table, gender, target):
    run = label(app, table([post(1, "媽")]), target, gender)
    target.unlink()
    app.operations.work_on(app.runs.produce(run["id"], LOCAL))
    found = app.runs.get(run["id"])
    assert found["state"] == "done"
    assert "are gone" in found["error"]


def test_production_of_a_run_that_is_not_done_is_refused(app, table, gender, target):
    run_id = asked(app, [task(table([]), "t")], target, gender)
    with pytest.raises(Conflict, match="is planned"):
        app.runs.produce(run_id, LOCAL)


def test_results_that_were_moved_away_are_missed_not_made_anew(app, table, gender, target, tmp_path):
    run = label(app, table([post(1, "媽")]), target, gender)
    target.unlink()
    with pytest.raises(NotFound, match="are gone"):
        app.results.exported(run["id"], production=False)
    assert not target.exists()


def test_deleting_a_run_removes_its_rows_and_leaves_other_runs(app, table, gender, target):
    first = label(app, table([post(1, "媽")], "a.db"), target, gender)
    label(app, table([post(2, "爸")], "b.db"), target, gender)
    app.operations.work_on(app.runs.delete(first["id"], LOCAL))
    assert rows(target, "results_all") == [("p2", "/male")]
    assert rows(target, "production_all") == [("p2", "/male")]
    with pytest.raises(NotFound):
        app.runs.get(first["id"])


def test_samples_are_the_same_for_the_same_seed_and_differ_for_another(app, table, gender, target):
    source = table([post(i, f"媽{i}") for i in range(300)])
    run = label(app, source, target, gender)
    ids = [[row["id"] for row in app.results.sample(run["id"], 10, seed)] for seed in (None, 0, 5, 5, 6)]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[4] not in (ids[0], ids[2])
    assert [len(found) for found in ids] == [10] * 5


def test_samples_are_of_the_label_and_group_asked_for(app, table, gender, target):
    run = label(app, table([post(1, "媽"), post(2, "爸")]), target, gender)
    for name in ("男性", "male", "/male"):
        assert [row["id"] for row in app.results.sample(run["id"], 5, label=name)] == ["p2"]
    with pytest.raises(NotFound, match=r"no group 'other'; it has: all"):
        app.results.sample(run["id"], 5, group="other")


@pytest.mark.parametrize("seed", [None, 3])
def test_a_folder_holds_the_same_results_as_a_database(app, table, gender, tmp_path, seed):
    source = table([post(i, f"{'媽爸x'[i % 3]}{i % 7}") for i in range(50)])
    found = []
    for target in ("labels.db", "labels"):
        run = label(app, source, tmp_path / target, gender, partition_rows=9)
        out = tmp_path / f"{target}.parquet"
        frames = []
        for production in (False, True):
            export(app.results.exported(run["id"], production=production), out)
            frames.append(pl.read_parquet(out).drop("task_id").sort("id", "panel"))
        groups = report(run)["groups"]
        found.append((frames, groups, [r["id"] for r in app.results.sample(run["id"], 3, seed)]))
    (a, b), (c, d) = found[0][0], found[1][0]
    assert a.equals(c)
    assert b.equals(d)
    assert found[0][1:] == found[1][1:]


def test_a_table_that_changes_while_it_is_read_is_reported(app, table, gender, target, monkeypatch):
    source = table([post(i, "媽") for i in range(10)])
    plan = SqliteSource.plan

    def plan_then_change(self: SqliteSource, selection: object) -> Plan:
        planned = plan(self, selection)
        with contextlib.closing(sqlite3.connect(source)) as db, db:
            db.execute("DELETE FROM posts WHERE id IN ('p3', 'p4')")
        return planned

    monkeypatch.setattr(SqliteSource, "plan", plan_then_change)
    found = report(label(app, source, target, gender))
    assert (found["planned"], found["read"], found["missing"]) == (10, 8, 2)


def test_an_empty_table_is_a_run_without_rows(app, table, gender, target):
    found = report(label(app, table([]), target, gender))
    assert (found["planned"], found["read"], found["groups"]) == (0, 0, {})


def test_five_thousand_nulls_before_the_first_text_do_no_harm(app, table, gender, target):
    source = table([post(i, None) for i in range(5000)] + [post(5000, "媽")])
    found = report(label(app, source, target, gender))
    assert (found["read"], found["groups"]["all"]["results"]) == (5001, 1)


def test_texts_that_no_engine_likes_do_no_harm(app, table, rules, target):
    spam = app.models.add("spam", rules("label,content\nspam,buy\n", "spam.csv"), LOCAL)[0]
    texts = ["a\0buy", "🐱buy", "x" * 10_000_000 + "buy", "\ufeffbuy", "buy\r\n", "ｂｕｙ"]
    source = table([post(i, content=text) for i, text in enumerate(texts)])
    with contextlib.closing(sqlite3.connect(source)) as db, db:
        db.execute("UPDATE posts SET content = CAST(x'ff62757900' AS TEXT) WHERE id = 'p4'")
    found = report(label(app, source, target, spam))
    assert [row[0] for row in rows(target, "results_all")] == ["p0", "p1", "p2", "p3"]
    assert found["set_aside"] == {"text is not UTF-8": 1}


def test_group_names_that_collide_without_case_are_refused():
    with pytest.raises(BadInput, match="differ only in case"):
        GroupMap.checked({"a": "Forum", "b": "forum"}, None)


def test_a_group_name_that_cannot_name_a_table_is_refused_with_the_remedy():
    with pytest.raises(BadInput, match=r"(?s)a column `table` of the file, or in `tables`.*'汽車': use .*A-Z"):
        GroupMap.checked({"a": "汽車"}, None)


def test_a_group_of_any_name_goes_to_the_table_that_is_said(app, table, gender, target, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("來源,群組,資料表\nc1,汽車,cars\nc2,phones,\nc3,汽車,\n")
    loaded = load_groups(groups)
    assert loaded.names == ("cars", "phones")
    source = table([post(n, "媽", channel) for n, channel in enumerate(("c1", "c2", "c3"))])
    run = label(app, source, target, gender, groups=loaded)
    assert report(run)["groups"].keys() == {"cars", "phones"}
    assert len(rows(target, "results_cars")) == 2
    assert run["spec"]["groups"]["tables"] == {"汽車": "cars"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("c1,汽車,cars\nc2,汽車,autos\n", r"groups\.csv:3: the table of 汽車 is cars already"),
        ("c1,汽車,汽車\n", "'汽車': use 1 to 40"),
        ("c1,汽車,cars\nc2,cars,\n", "'汽車' and 'cars' would both be the table cars"),
        ("c1,汽車,cars\nc2,車,Cars\n", "differ only in case"),
    ],
)
def test_tables_of_groups_that_contradict_each_other_are_refused(tmp_path, lines, reason):
    (tmp_path / "groups.csv").write_text(f"s_id,group,table\n{lines}")
    with pytest.raises(BadInput, match=reason):
        load_groups(tmp_path / "groups.csv")


def test_a_start_after_the_end_is_refused_before_anything_is_written(app, table, gender, target):
    first, last = parse_bound("2024-02-01", ""), parse_bound("2024-01-01", "")
    with pytest.raises(BadInput, match="before its end"):
        label(app, target, target, gender, tasks=[task(table([]), "t", start=first, end=last)])
    assert app.store.runs.page() == []
    assert not target.exists()


def test_a_field_without_a_column_is_refused_with_the_roles_there_are(app, table, gender, target):
    source = table([("x",)], columns=("content",))
    with pytest.raises(BadInput, match=r"--role author=COLUMN.*content"):
        label(app, source, target, gender)


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_full_disk_is_waited_for_and_what_was_finished_is_kept(
    tmp_path, table, rules, target, monkeypatch, max_retries
):
    from audience.tables.sqlite.load import Loader

    load, calls = Loader.load, []

    def full(loader: Loader, batch: object) -> int:
        calls.append(batch)
        if len(calls) == 3:
            pages = loader._db.execute("PRAGMA page_count").fetchone()[0]
            loader._db.execute(f"PRAGMA max_page_count = {pages}")
        return load(loader, batch)

    monkeypatch.setattr(Loader, "load", full)
    app = App(Settings(home=tmp_path / "h", retry_s=0.01, max_retries=max_retries))
    gender = app.models.add("gender", rules(GENDER), LOCAL, fields=("author",))[0]
    source = table([post(i, f"媽{i}" + "長" * 2000) for i in range(60)])
    run = label(app, source, target, gender, partition_rows=10)
    if not max_retries:
        assert run["state"] == "failed"
        assert "full" in run["error"]
        with contextlib.closing(sqlite3.connect(target)) as db, db:
            marks = db.execute("SELECT sum(rows) FROM audience_partition").fetchone()[0]
        assert len(rows(target, "results_all")) == marks > 0
        app.operations.work_on(app.runs.resume(run["id"], LOCAL))
    assert app.runs.get(run["id"])["state"] == "done"
    assert len(rows(target, "results_all")) == 60


def test_a_change_leaves_an_audit_row_with_its_actor(app, table, gender, target):
    label(app, table([]), target, gender)
    actions = [(row["actor"], row["action"]) for row in app.store.audit()]
    assert ("local", "model.add") in actions
    assert ("local", "run.add") in actions
    assert ("worker", "run.done") in actions


def test_a_run_that_has_ended_is_not_carried_out_again(app, table, gender, target):
    run = label(app, table([]), target, gender)
    app.operations.work_on(run["id"])
    assert app.runs.get(run["id"]) == run
    with pytest.raises(Conflict, match="is done"):
        app.runs.resume(run["id"], LOCAL)


@pytest.mark.parametrize(("limit", "state"), [(2, "done"), (1, "failed")])
def test_rows_that_a_model_cannot_digest_are_set_aside_up_to_a_limit_and_listed(
    app, table, rules, target, limit, state
):
    catastrophe = "(a*)" * 6 + r"\1\2\3b"
    slow = app.models.add("slow", rules(f"label,content,rule_type\nx,{catastrophe},regex\n", "slow.csv"), LOCAL)[0]
    texts = ["a" * 60 + "cb"] * 2 + ["b"] * 2
    source = table([post(i, content=text) for i, text in enumerate(texts)])
    run = label(app, source, target, slow, bad_rows_limit=limit)
    assert run["state"] == state
    assert [(row["task"], row["id"]) for row in app.results.set_aside(run["id"])] == [("posts", "p0"), ("posts", "p1")]
    assert "took longer" in next(app.results.set_aside(run["id"]))["reason"]
    if state == "failed":
        assert "could not digest 2 rows, more than the limit of 1" in run["error"]
        assert run["tasks"][0]["report"]["groups"]["all"]["results"] == 2
