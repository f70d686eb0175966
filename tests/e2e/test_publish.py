"""Publishing from done runs, as users do it: the program, real processes, killed and begun again."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from audience.app.actors import LOCAL
from audience.app.requests import PublicationRequest, PublishRequest, RunRequest, SourceRequest, TaskRequest
from audience.errors import BadInput, Conflict, NotFound
from audience.jobs.control import JobControl
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels

RULES = "label,content,match_type\nfemale,媽,partially\nmale,爸,partially\nfan,粉,partially\n"
SEX = Panels(conflicts={"sex": ("male", "female")})
GROUPS = GroupMap.checked({"c1": "forum", "c2": "blog"}, "others")


def done(app, source, target, model, **options):
    """A run that has ended; its id."""
    tasks = (TaskRequest(name=source.name, source=SourceRequest(location=str(source))),)
    run = app.runs.create(RunRequest(tasks=tasks, models=(model,), target=str(target), **options), LOCAL)["id"]
    app.operations.work_on(run)
    return run


@pytest.fixture
def label(app, table, rules, tmp_path):
    """Labels posts (channel, author, text) in a run of its own; its id."""
    model = app.models.add("m", rules(RULES), LOCAL, fields=("content",))[0]

    def labelled(*posts, target="labels.db", **options):
        name = f"posts{time.monotonic_ns()}.db"
        rows = [(f"p{n}", *post, "2024-01-01") for n, post in enumerate(posts)]
        return done(app, table(rows, name), tmp_path / target, model, groups=GROUPS, conflict_groups=SEX, **options)

    return labelled


@pytest.fixture(params=["published.db", "published"])
def publication(app, request, tmp_path):
    add(app, "moods", tmp_path / request.param, indexes={"board": ("forum", "blog")})
    return "moods"


def add(app, name, target, **options):
    app.publications.add(PublicationRequest(name=name, target=str(target), **options), LOCAL)


def begin(app, name, *runs, **options):
    """Writes down what is to be published; the id of the operation."""
    return app.publications.publish(name, PublishRequest(runs=runs, **options), LOCAL)


def carried_out(app, operation_id):
    """What came of an operation; raises its error when it failed."""
    app.operations.work_on(operation_id)
    return app.operations.check_done(operation_id)["result"]


def publish(app, name, *runs, **options):
    return carried_out(app, begin(app, name, *runs, **options))


def is_busy(app, name):
    return app.store.publications.get(name)["doing"] is not None


def rows(app, name):
    found = [row for batch in app.publications.exported(name).batches for row in batch.to_pylist()]
    return sorted((row["index"], row["subject"], row["panel"], row["version"]) for row in found)


def counts(changes):
    return {(c["index"], c["panel"]): (c["added"], c["changed"], c["kept"], c["dropped"]) for c in changes}


def test_runs_are_merged_by_index_and_conflict_group(app, label, publication):
    first = label(("c1", "amy", "爸"), ("c1", "amy", "粉"), ("c2", "ben", "爸"), ("c9", "cat", "粉"))
    assert counts(publish(app, publication, first)) == {
        ("board", "/fan"): (1, 0, 0, 0),
        ("board", "/male"): (2, 0, 0, 0),
        ("others", "/fan"): (1, 0, 0, 0),
    }
    second = label(("c1", "amy", "媽"), target="others")
    previewed = publish(app, publication, second, preview=True)
    assert [version["version"] for version in app.publications.get(publication)["versions"]] == [1]
    assert app.publications.get(publication)["preview"]["changes"] == previewed
    assert publish(app, publication, second) == previewed
    assert rows(app, publication) == [
        ("board", "c1_amy", "/fan", 1),
        ("board", "c1_amy", "/female", 2),
        ("board", "c2_ben", "/male", 1),
        ("others", "c9_cat", "/fan", 1),
    ]
    assert app.publications.get(publication)["preview"] is None


def test_run_that_was_made_later_wins_in_whatever_order_they_are_named(app, label, publication):
    first, second = label(("c1", "amy", "爸"), ("c1", "amy", "粉")), label(("c1", "amy", "媽"))
    publish(app, publication, second, first)
    assert rows(app, publication) == [("board", "c1_amy", "/fan", 1), ("board", "c1_amy", "/female", 1)]


def test_replacing_drops_what_was_published_before(app, label, publication):
    publish(app, publication, label(("c1", "amy", "爸"), ("c9", "cat", "粉")))
    changes = publish(app, publication, label(("c1", "ben", "爸")), replace=True)
    assert counts(changes) == {("board", "/male"): (1, 0, 0, 1), ("others", "/fan"): (0, 0, 0, 1)}
    assert rows(app, publication) == [("board", "c1_ben", "/male", 2)]


def test_rows_without_authors_are_published_by_id(app, rules, tmp_path, publication):
    (tmp_path / "posts.csv").write_text("id,content\np1,爸\np2,媽\n")
    model = app.models.add("m", rules(RULES), LOCAL)[0]
    run = done(app, tmp_path / "posts.csv", tmp_path / "labels", model, conflict_groups=SEX)
    publish(app, publication, run)
    assert rows(app, publication) == [("all", "p1", "/male", 1), ("all", "p2", "/female", 1)]


def test_authors_are_published_trimmed_with_their_case_and_without_nobody(app, label, publication):
    names = ("a", "a ", "A", "👩‍👧", None)
    publish(app, publication, label(*(("c1", name, "爸") for name in names)))
    assert [row[1] for row in rows(app, publication)] == ["c1_A", "c1_a", "c1_👩‍👧"]


def test_runs_that_are_not_done_have_no_production_or_are_gone_are_refused(app, label, publication, tmp_path):
    without = label(("c1", "amy", "爸"), production=False)
    with pytest.raises(Conflict, match="no production tables"):
        publish(app, publication, without)
    waiting = label(("c1", "amy", "爸"))
    app.runs.delete(waiting, LOCAL)
    with pytest.raises(Conflict, match="is deleting"):
        publish(app, publication, waiting)
    app.operations.work_on(waiting)
    with pytest.raises(NotFound):
        publish(app, publication, waiting)
    gone = label(("c1", "amy", "爸"), target="gone.db")
    (tmp_path / "gone.db").unlink()
    with pytest.raises(NotFound, match="results of run"):
        publish(app, publication, gone)
    assert not is_busy(app, publication)


def test_run_that_is_deleted_meanwhile_is_not_published_half(app, label, publication, tmp_path):
    kept, run = label(("c1", "amy", "爸")), label(("c1", "ben", "爸"))
    publish(app, publication, kept)
    begun = begin(app, publication, run)
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.db")) as db, db:
        db.execute("DELETE FROM production_forum")
    with pytest.raises(Conflict, match="it is changing"):
        carried_out(app, begun)
    found = app.publications.get(publication)
    assert (found["doing"], found["version"]) == (None, 1)
    assert app.operations.get(begun)["state"] == "failed"
    assert "it is changing" in found["error"]
    assert rows(app, publication) == [("board", "c1_amy", "/male", 1)]


def test_second_publisher_is_refused_and_one_that_takes_over_bars_the_first(app, label, publication):
    run = label(("c1", "amy", "爸"))
    begun = begin(app, publication, run)
    with pytest.raises(Conflict, match="is being published by local since"):
        begin(app, publication, run)
    lost = app.store.workers.add("lost", 1)
    job = app.store.jobs.take(lost, begun)
    record = app.store.publications.attempt(begun)
    app.store.workers.remove(lost, lost=True)
    carried_out(app, begun)
    with pytest.raises(Conflict, match="done with the publication already"):
        app.job_kinds["publish"].run(job, JobControl())
    with pytest.raises(Conflict, match="overtaken"):
        app.store.publications.note_changes(record, [])
    with pytest.raises(Conflict, match="taken away"), app.store.jobs.finishing(job):
        pass
    found = app.publications.get(publication)
    assert (found["doing"], found["version"], len(found["versions"])) == (None, 1, 1)
    with pytest.raises(Conflict, match="is done"):
        app.operations.cancel(begun, LOCAL)


def test_publishing_what_was_previewed_is_refused_when_something_else_was_published(app, label, publication):
    run = label(("c1", "amy", "爸"))
    publish(app, publication, run)
    with pytest.raises(Conflict, match="is published now, not"):
        begin(app, publication, run, base=0)


def test_swap_that_our_records_did_not_hear_of_is_found_when_it_is_gone_on_with(app, label, publication):
    run = label(("c1", "amy", "爸"))
    begun = begin(app, publication, run)
    lost = app.store.workers.add("lost", 1)
    app.job_kinds["publish"].run(app.store.jobs.take(lost, begun), JobControl())
    app.store.workers.remove(lost, lost=True)
    assert is_busy(app, publication)
    changes = carried_out(app, begun)
    assert counts(changes) == {("board", "/male"): (1, 0, 0, 0)}
    assert rows(app, publication) == [("board", "c1_amy", "/male", 1)]


def test_previous_version_is_brought_back(app, label, publication):
    publish(app, publication, label(("c1", "amy", "爸")))
    with pytest.raises(Conflict, match="no previous version"):
        app.publications.roll_back(publication, LOCAL)
    publish(app, publication, label(("c1", "amy", "媽")))
    for version, panel in ((1, "/male"), (2, "/female")):
        carried_out(app, app.publications.roll_back(publication, LOCAL))
        assert [row[2] for row in rows(app, publication)] == [panel]
        assert app.publications.get(publication)["version"] == version
    actions = [entry["action"] for entry in app.store.audit([publication])]
    assert actions.count("publication.rolled_back") == 2


def test_published_rows_outlive_their_runs_and_a_deleted_publication_leaves_nothing(app, label, publication):
    run = label(("c1", "amy", "爸"))
    publish(app, publication, run)
    app.runs.delete(run, LOCAL)
    app.operations.work_on(run)
    assert len(rows(app, publication)) == 1
    carried_out(app, app.publications.delete(publication, LOCAL))
    with pytest.raises(NotFound, match="no publication"):
        app.publications.get(publication)


@pytest.mark.parametrize("target", ["labels.db", "labels"])
def test_publication_is_kept_where_its_runs_are(app, label, tmp_path, target):
    runs = [label(*(("c1", f"a{n}", text) for n in range(2_000)), target=target) for text in ("爸", "媽")]
    add(app, "here", tmp_path / target)
    for run in runs:
        publish(app, "here", run)
    assert {row[2:] for row in rows(app, "here")} == {("/female", 2)}
    app.runs.delete(runs[0], LOCAL)
    app.operations.work_on(runs[0])
    assert len(rows(app, "here")) == 2_000


def test_publication_whose_target_is_gone_says_so_and_can_be_forgotten(app, label, tmp_path):
    (tmp_path / "away").mkdir()
    for name in ("moods.db", "moods"):
        add(app, name, tmp_path / "away" / name)
    run = label(("c1", "amy", "爸"))
    (tmp_path / "away").rmdir()
    for name in ("moods.db", "moods"):
        with pytest.raises(Conflict, match="there is no folder"):
            publish(app, name, run)
        record = app.store.publications.get(name)
        assert (record["doing"], "there is no folder" in record["error"]) == (None, True)
        with pytest.raises(Conflict, match="there is no folder"):
            carried_out(app, app.publications.delete(name, LOCAL))
        carried_out(app, app.publications.delete(name, LOCAL, forget=True))
    assert app.publications.all() == []


@pytest.mark.parametrize(
    ("indexes", "reason"),
    [
        ({"a b": ("forum",)}, "use 1 to 40"),
        ({"a__next": ("forum",)}, "two underscores"),
        ({"a": ("forum",), "A": ("blog",)}, "differ only in case"),
        ({"a": ("forum",), "b": ("forum",)}, "in the index a already"),
        ({"a": ()}, "names no group"),
        ({"blog": ("forum",)}, "a group of that name"),
    ],
)
def test_indexes_that_cannot_be_are_refused(app, label, publication, indexes, reason):
    run = label(("c1", "amy", "爸"), ("c2", "ben", "爸"))
    with pytest.raises(BadInput, match=reason):
        publish(app, publication, run, indexes=indexes)


def test_runs_with_different_conflict_groups_need_a_decision(app, label, rules, table, tmp_path, publication):
    first = label(("c1", "amy", "爸"))
    source = table([("p1", "c1", "ben", "爸", "2024-01-01")], "more.db")
    second = done(app, source, tmp_path / "labels.db", "m", conflict_groups=Panels())
    with pytest.raises(BadInput, match="different conflict groups"):
        publish(app, publication, first, second)
    publish(app, publication, first, second, conflict_groups=SEX.conflicts)


# the program


@pytest.fixture
def audience(tmp_path):
    def run(*arguments, status=0, **more):
        environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home"), "COLUMNS": "160", "NO_COLOR": "1", **more}
        command = [sys.executable, "-m", "audience", *map(str, arguments)]
        done = subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    return run


def test_a_user_previews_publishes_looks_and_rolls_back(audience, label, tmp_path):
    label(("c1", "amy", "爸"))
    first = ("publish", "moods", "--run", "last", "--target", "published.db", "--index", "board=forum,blog")
    assert "AUDIENCE_PUBLICATION_URL" in audience("publish", "moods", "--run", "last", "--yes", status=1)
    assert "--yes" in audience(*first, status=1)
    assert "/male" in audience("publish", "moods", "--run", "last", "--target", "elsewhere.db", "--preview")
    assert "/male" in audience(*first, "--preview")
    assert "version 1" in audience("publish", "moods", "--run", "last", "--yes")
    label(("c1", "amy", "媽"))
    told = json.loads(audience("publish", "moods", "--run", "last", "--yes", "--json"))
    assert (told["version"], told["changes"][0]["changed"]) == (2, 1)
    assert "is kept in" in audience("publish", "moods", "--run", "last", "--target", "other.db", "--yes", status=1)
    assert "previous" in audience("publication", "show", "moods")
    assert "moods" in audience("publication", "list")
    assert "1 rows in out.csv" in audience("publication", "export", "moods", "--to", "out.csv")
    assert json.loads(audience("publication", "export", "moods", "--index", "board"))["panel"] == "/female"
    assert "version 1" in audience("publication", "rollback", "moods")
    assert json.loads(audience("publication", "export", "moods"))["panel"] == "/male"
    assert "is done; it cannot become aborting" in audience("operation", "cancel", "last", status=1)
    assert "deleted moods" in audience("publication", "delete", "moods")
    with contextlib.closing(sqlite3.connect(tmp_path / "published.db")) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
    assert not [name for name in tables if name.startswith("published")]


@pytest.mark.parametrize("target", ["published.db", "published"])
def test_program_that_is_killed_while_it_publishes_is_gone_on_with(audience, app, label, tmp_path, target):
    posts = [(("c1", "c2")[n % 2], f"a{n}", ("爸", "媽", "粉")[n % 3]) for n in range(3_000)]
    label(*posts)
    audience("publish", "moods", "--run", "last", "--target", target, "--yes")
    again = [(channel, author, ("爸", "媽", "粉")[n % 2]) for n, (channel, author, _) in enumerate(posts[1_000:])]
    label(*again)
    expected = json.loads(audience("publish", "moods", "--run", "last", "--preview", "--json"))
    environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home"), "AUDIENCE_LEASE_S": "1"}
    dice = random.Random(7)
    for attempt in range(3):
        words = ["publish", "moods", "--run", "last", "--yes"] if not attempt else ["operation", "wait", "last"]
        process = subprocess.Popen(
            [sys.executable, "-m", "audience", *words], env=environment, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        fence = app.store.publications.get("moods")["fence"]
        while app.store.publications.get("moods")["fence"] == fence and process.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if not is_busy(app, "moods"):
            break
        assert "is being published by local" in audience("publication", "show", "moods")
    if is_busy(app, "moods"):
        audience("operation", "wait", "last", AUDIENCE_LEASE_S="1")
    found = app.publications.get("moods")
    assert (found["doing"], found["version"], found["versions"][0]["changes"]) == (None, 2, expected)
    assert len(rows(app, "moods")) == sum(c["added"] + c["changed"] + c["kept"] for c in expected)


def test_two_programs_that_publish_at_once_publish_one_after_the_other_or_one_is_refused(
    audience, app, label, tmp_path
):
    label(*(("c1", f"a{n}", "爸") for n in range(2_000)))
    audience("publish", "moods", "--run", "last", "--target", "published.db", "--preview")
    environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "audience", "publish", "moods", "--run", "last", "--yes"]
    options = {"env": environment, "cwd": tmp_path, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    done = [process.returncode == 0 for process in both]
    assert any(done)
    assert all(fine or "is being published by local" in text for fine, text in zip(done, told, strict=True))
    found = app.publications.get("moods")
    assert (found["doing"], found["version"]) == (None, sum(done))
    assert len(rows(app, "moods")) == 2_000
