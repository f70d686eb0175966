"""What is done with a publication goes on by itself when its worker is killed at the worst moments, and leaves nothing
when it is cancelled: real processes, killed by signal 9, on every kind of target."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from faults import LEASE_S, wait_until

from audience.app.actors import LOCAL
from audience.app.requests import PublicationRequest, PublishRequest, RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import Conflict, NotFound
from audience.labeling.panels import Panels
from audience.settings import Settings
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer

RULES = "label,content,match_type\nfemale,媽,partially\nmale,爸,partially\nfan,粉,partially\n"
SEX = Panels(conflicts={"sex": ("male", "female")})
TARGETS = ("published.db", "published", "mysql_url", "postgres_url")
MOMENTS = ("merge", "note_changes", "swap")
WORKER = """
import os, signal, sys
from audience.app.root import App
from audience.settings import Settings
from audience.store.publications import Publications

home, operation, moment = sys.argv[1:]
app = App(Settings(home=home, lease_s=%s, threads=1))

def dying(function, *, before=False):
    def last(*given, **named):
        if not before:
            function(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return last

record = app.store.publications.get("moods")
publisher = type(app.publications.jobs._publisher(record))
if moment == "merge":
    Publications.note_changes = dying(Publications.note_changes, before=True)
elif moment == "note_changes":
    Publications.note_changes = dying(Publications.note_changes)
else:
    setattr(publisher, moment, dying(getattr(publisher, moment)))
app.operations.work_on(operation)
"""
"""A worker that kills itself right after a step."""


@pytest.fixture
def app(tmp_path):
    return App(Settings(home=tmp_path / "home", lease_s=LEASE_S, threads=1))


@pytest.fixture
def runs(app, table, rules, tmp_path):
    """Two done runs, whose authors contradict themselves from one to the other."""
    model = app.models.add("m", rules(RULES), LOCAL, fields=("content",))[0]

    def done(n: int) -> str:
        posts = [(f"p{i}", "c", f"a{i}", "爸媽粉"[(i * n) % 3], "2024-01-01") for i in range(300 * n, 1200)]
        source = SourceRequest(location=str(table(posts, f"posts{n}.db")))
        tasks = (TaskRequest(name="posts", source=source),)
        target = str(tmp_path / "labels.db")
        request = RunRequest(tasks=tasks, models=(model,), target=target, conflict_groups=SEX)
        run = str(app.runs.create(request, LOCAL)["id"])
        app.operations.work_on(run)
        return run

    return [done(1), done(2)]


@pytest.fixture(params=TARGETS)
def target(request, tmp_path):
    return request.getfixturevalue(request.param) if request.param.endswith("_url") else str(tmp_path / request.param)


@pytest.fixture
def published(app, runs, target):
    """The publication `moods` of the first run, in version 1."""
    made(app, "moods", target, runs)
    return "moods"


def made(app: App, name: str, target: str, runs: list[str]) -> None:
    app.publications.add(PublicationRequest(name=name, target=target), LOCAL)
    carried_out(app, app.publications.publish(name, PublishRequest(runs=runs[:1]), LOCAL))


def carried_out(app: App, operation_id: str) -> dict:
    app.operations.work_on(operation_id)
    return app.operations.get(operation_id)


def rows(app: App, name: str = "moods") -> list[dict]:
    """What is published, but for the moment."""
    found = [row for batch in app.publications.exported(name).batches for row in batch.to_pylist()]
    plain = [{key: value for key, value in row.items() if key != "published_at"} for row in found]
    return sorted(plain, key=lambda row: (row["index"], row["subject"], row["panel"]))


def begin(app: App, runs: list[str]) -> str:
    return app.publications.publish("moods", PublishRequest(runs=runs[1:]), LOCAL)


def killed(app: App, operation_id: str, moment: str) -> None:
    """A worker begins with the operation, and is killed."""
    command = [sys.executable, "-c", WORKER % LEASE_S, str(app.settings.home), operation_id, moment]
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert app.operations.get(operation_id)["state"] == "running"


def undisturbed(app: App, runs: list[str], tmp_path: Path) -> tuple[list[dict], list[dict]]:
    """The rows and the changes of a second version that nobody disturbed."""
    made(app, "quiet", str(tmp_path / "quiet"), runs)
    begun = app.publications.publish("quiet", PublishRequest(runs=runs[1:]), LOCAL)
    changes = carried_out(app, begun)["result"]
    return rows(app, "quiet"), changes


@pytest.mark.parametrize("moment", MOMENTS)
def test_publishing_that_is_killed_ends_published_once_with_the_same_rows(app, runs, published, tmp_path, moment):
    expected, changes = undisturbed(app, runs, tmp_path)
    begun = begin(app, runs)
    killed(app, begun, moment)
    ended = carried_out(app, begun)
    assert (ended["state"], ended["result"]) == ("done", changes)
    found = app.publications.get("moods")
    assert (found["doing"], found["version"], found["previous"]) == (None, 2, 1)
    newest = found["versions"][0]
    assert (newest["version"], newest["changes"]) == (2, changes)
    assert rows(app) == expected
    assert [job["losses"] for job in app.store.operations.jobs(begun)] == [1]


def test_publishing_may_be_killed_again_and_again(app, runs, published, tmp_path):
    expected, changes = undisturbed(app, runs, tmp_path)
    begun = begin(app, runs)
    for moment in (*MOMENTS, "note_changes", "swap"):
        killed(app, begun, moment)
    ended = carried_out(app, begun)
    assert (ended["state"], ended["result"], rows(app)) == ("done", changes, expected)


def test_roll_back_that_is_killed_after_the_exchange_is_done_once(app, runs, published):
    before = rows(app)
    carried_out(app, begin(app, runs))
    begun = app.publications.roll_back("moods", LOCAL)
    killed(app, begun, "roll_back")
    assert carried_out(app, begun)["state"] == "done"
    found = app.publications.get("moods")
    assert (found["version"], found["previous"], rows(app)) == (1, 2, before)


def test_deleting_that_is_killed_after_the_tables_are_gone_is_done(app, runs, published, target):
    begun = app.publications.delete("moods", LOCAL)
    killed(app, begun, "remove")
    assert carried_out(app, begun)["state"] == "done"
    with pytest.raises(NotFound):
        app.publications.get("moods")
    made(app, "moods", target, runs)


# cancelled


@pytest.mark.parametrize("moment", ["nothing", "merge", "note_changes"])
def test_publishing_that_is_cancelled_leaves_nothing_and_frees_the_publication(
    app, runs, published, target, tmp_path, moment
):
    before = rows(app)
    tables = everything(target)
    begun = begin(app, runs)
    if moment != "nothing":
        killed(app, begun, moment)
        assert everything(target) != tables
    app.operations.cancel(begun, LOCAL)
    with pytest.raises(Conflict, match="is being published"):
        begin(app, runs)
    assert carried_out(app, begun)["state"] == "aborted"
    found = app.publications.get("moods")
    assert (found["doing"], found["version"], rows(app)) == (None, 1, before)
    assert everything(target) == tables
    expected, _ = undisturbed(app, runs, tmp_path)
    assert carried_out(app, begin(app, runs))["state"] == "done"
    versions = {row["version"] for row in rows(app)}
    assert versions == {1, 3}  # a number is never used again
    assert [row | {"version": 0} for row in rows(app)] == [row | {"version": 0} for row in expected]


@pytest.mark.parametrize("target", ["published.db", "published"], indirect=True)
def test_publishing_that_fails_for_good_at_its_swap_has_failed_and_says_why(app, runs, published, target, monkeypatch):
    before, tables = rows(app), everything(target)
    publisher = type(app.publications.jobs._publisher(app.store.publications.get("moods")))

    def refused(*_: object) -> None:
        raise Conflict("the table is another's now")

    with monkeypatch.context() as patch:
        patch.setattr(publisher, "swap", refused)
        ended = carried_out(app, begin(app, runs))
    assert (ended["state"], ended["error"]) == ("failed", "the table is another's now")
    assert app.publications.get("moods")["error"] == "the table is another's now"
    assert (rows(app), everything(target)) == (before, tables)
    assert carried_out(app, begin(app, runs))["state"] == "done"


def test_publishing_that_is_cancelled_just_after_its_swap_is_published(app, runs, published, tmp_path):
    expected, changes = undisturbed(app, runs, tmp_path)
    begun = begin(app, runs)
    killed(app, begun, "swap")
    app.operations.cancel(begun, LOCAL)
    ended = carried_out(app, begun)
    assert (ended["state"], ended["result"]) == ("done", changes)
    found = app.publications.get("moods")
    assert (found["doing"], found["version"], found["versions"][0]["changes"]) == (None, 2, changes)
    assert rows(app) == expected


def test_roll_back_that_is_cancelled_just_after_the_exchange_is_done(app, runs, published):
    before = rows(app)
    carried_out(app, begin(app, runs))
    begun = app.publications.roll_back("moods", LOCAL)
    killed(app, begun, "roll_back")
    app.operations.cancel(begun, LOCAL)
    assert carried_out(app, begun)["state"] == "done"
    assert (app.publications.get("moods")["version"], rows(app)) == (1, before)


@pytest.mark.parametrize("target", ["away/published.db", "away/published"], indirect=True)
def test_a_publication_is_forgotten_while_its_discarding_waits_for_a_target_that_is_gone(app, runs, target, tmp_path):
    (tmp_path / "away").mkdir()
    made(app, "moods", target, runs)
    begun = begin(app, runs)
    killed(app, begun, "merge")
    (tmp_path / "away").rename(tmp_path / "gone")
    app.operations.cancel(begun, LOCAL)
    app.operations.work_on(begun, lambda: app.operations.get(begun)["progress"]["waiting_for"] is not None)
    assert app.operations.get(begun)["state"] == "aborting"
    with pytest.raises(Conflict, match="is being published"):
        app.publications.delete("moods", LOCAL)
    assert carried_out(app, app.publications.delete("moods", LOCAL, forget=True))["state"] == "done"
    assert app.publications.all() == []
    assert app.operations.get(begun)["state"] == "aborted"
    assert app.operations.has_ended(begun)


def test_a_worker_that_publishes_stops_when_somebody_cancels(app, runs, published):
    """The worker itself lives on."""
    before = rows(app)
    worker = app.operations.worker()
    worker.start()
    try:
        begun = begin(app, runs)
        wait_until(lambda: app.operations.get(begun)["state"] == "running", "it has begun")
        try:
            app.operations.cancel(begun, LOCAL)
        except Conflict:
            assert app.operations.get(begun)["state"] == "done"
        wait_until(lambda: app.operations.has_ended(begun), "it has ended")
        ended = app.operations.get(begun)["state"]
        assert rows(app) == before if ended == "aborted" else len(rows(app)) > 0
        assert app.publications.get("moods")["doing"] is None
        again = begin(app, runs)
        wait_until(lambda: app.operations.has_ended(again), "the next one has ended")
        assert app.operations.get(again)["state"] == "done"
    finally:
        worker.stop()


def everything(target: str) -> list[str]:
    """Names of tables, or of files."""
    if "://" in target:
        mysql = target.startswith("mysql")
        server = MysqlServer.at(target) if mysql else PostgresServer.at(target)
        schema = "DATABASE()" if mysql else "current_schema()"
        with server.session() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}")
            return sorted(name for (name,) in cursor.fetchall())
    if target.endswith(".db"):
        with contextlib.closing(sqlite3.connect(target)) as db:
            return sorted(name for (name,) in db.execute("SELECT name FROM sqlite_master"))
    return sorted(str(path.relative_to(target)) for path in Path(target).rglob("*") if path.is_file())
