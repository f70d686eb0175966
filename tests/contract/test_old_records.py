"""Records of revision 0005, with work under way, become those of today: nothing is lost, and the work goes on to its
end."""

import copy
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from audience.app.actors import LOCAL
from audience.app.requests import PublicationRequest, PublishRequest, RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.jobs.control import JobCancelled, JobControl
from audience.labeling.export import encoded
from audience.labeling.groups import GroupMap
from audience.settings import Settings
from audience.store import schema
from audience.store.engines import migrating, open_engine
from audience.store.migrate import LATEST, MIGRATIONS, migrate, revision_of
from audience.store.types import DOCUMENT

Rows = list[dict[str, Any]]
RULES = "label,content,match_type\nfemale,媽,partially\nmale,爸,partially\n"
DOCUMENTS = {
    *("spec", "definition", "warnings", "slice", "set_aside", "report", "counts"),
    *("asked", "preview", "changes", "body", "details"),
}
"""Columns of 0005 that hold JSON."""
DEAD = "d" * 32
"""The worker that had a job when the program was replaced."""


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(store_url)
    yield engine
    engine.dispose()


@dataclass(frozen=True)
class Old:
    """What the tables of 0005 held: table -> rows. `running`, `aborted`, `failed`, `done`: runs; `exported`: what they
    come to."""

    tables: dict[str, Rows]
    runs: dict[str, str]
    exported: bytes
    published: Rows


class Asked(JobControl):
    """Ends a job when it has said what it will change."""

    def __init__(self, app: App, operation_id: str) -> None:
        super().__init__()
        self.app, self.operation_id = app, operation_id

    def check(self) -> None:
        if self.app.store.publications.get("moods")["doing"]["changes"]:
            raise JobCancelled


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    """Made by today's program, told in the words of then."""
    folder = tmp_path_factory.mktemp("old")
    app = App(Settings(home=folder / "home", partition_rows=10, threads=1))
    with closing(sqlite3.connect(folder / "posts.db")) as db, db:
        db.execute("CREATE TABLE posts (id, s_id, author, content, post_time)")
        rows = [(f"p{i}", "c", f"{'媽爸x'[i % 3]}{i % 7}", "buy", "2024-01-01") for i in range(50)]
        db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?)", rows)
    (folder / "gender.csv").write_text(RULES, encoding="utf-8")
    app.models.add("gender", folder / "gender.csv", LOCAL, fields=("author",))
    app.sources.add("posts", SourceRequest(location=str(folder / "posts.db")), LOCAL)
    app.mappings.save_groups("taiwan", GroupMap.checked({"c": "forum"}, None), LOCAL)
    runs = {name: _ask(app, folder, name) for name in ("done", "more", "quiet", "aborted", "running")}
    for name in ("done", "more", "quiet"):
        app.operations.work_on(runs[name])
    exported = b"".join(encoded(app.results.exported(runs["quiet"], production=False, comparable=True), "jsonl"))
    _work(app, runs["aborted"], 3)
    app.runs.abort(runs["aborted"], LOCAL)
    app.operations.work_on(runs["aborted"])
    _work(app, runs["running"], 2)
    taken = app.store.jobs.take(app.store.workers.add("host:1", 1), runs["running"])
    delayed = app.store.jobs.take(app.store.workers.add("host:2", 1), runs["running"])
    app.store.jobs.put_back(delayed, 3000.0, "the disk is full")
    published = _publications(app, folder, runs)
    return Old(_as_of_0005(app, taken), runs, exported, published)


def _ask(app: App, folder: Path, name: str) -> str:
    task = TaskRequest(name="posts", source=SourceRequest(saved="posts"))
    priority = "high" if name == "running" else "normal"
    details = {"models": ("gender",), "target": str(folder / "labels.db"), "priority": priority}
    return str(app.runs.create(RunRequest(tasks=(task,), **details), LOCAL)["id"])


def _work(app: App, run: str, n_jobs: int) -> None:
    worker, hands = app.store.workers.add("here", 1), app.operations.worker()
    for _ in range(n_jobs):
        hands.handle(app.store.jobs.take(worker, run))
    app.store.workers.remove(worker, lost=False)


def _publications(app: App, folder: Path, runs: dict[str, str]) -> Rows:
    """One that is idle, with a version before, and one that died between its counting and its swap; the rows that the
    latter comes to."""
    for name in ("idle", "moods", "quiet"):
        app.publications.add(PublicationRequest(name=name, target=str(folder / f"{name}.db")), LOCAL)
        versions = ("done", "more") if name != "moods" else ("done",)
        for run in versions:
            app.operations.work_on(app.publications.publish(name, PublishRequest(runs=(runs[run],)), LOCAL))
    app.operations.work_on(app.publications.publish("idle", PublishRequest(runs=(runs["done"],), preview=True), LOCAL))
    begun = app.publications.publish("moods", PublishRequest(runs=(runs["more"],)), LOCAL)
    with pytest.raises(JobCancelled):
        app.job_kinds["publish"].run(app.store.jobs.take(app.store.workers.add("gone", 1), begun), Asked(app, begun))
    return _published(app, "quiet")


def _published(app: App, name: str) -> Rows:
    found = [row for batch in app.publications.exported(name).batches for row in batch.to_pylist()]
    plain = [{key: value for key, value in row.items() if key != "published_at"} for row in found]
    return sorted(plain, key=lambda row: (row["index"], row["subject"], row["panel"]))


def _as_of_0005(app: App, taken: dict[str, Any]) -> dict[str, Rows]:
    """Today's rows in the tables of then."""
    tables_now = schema.metadata.sorted_tables
    with app.store.database.reading() as connection:
        today = {t.name: [dict(r) for r in connection.execute(sa.select(t)).mappings()] for t in tables_now}
    operations = {row["id"]: row for row in today["operation"]}
    attempts = {row["id"]: row for row in today["publication_attempt"]}
    moved = ("state", "error", "started_at", "finished_at", "priority", "queue", "created_by", "created_at")
    tables: dict[str, Rows] = {name: today[name] for name in ("source", "partition", "mapping", "answer", "audit")}
    tables["run"] = [
        {**row, **{n: operations[row["id"]][n] for n in moved}, "served": operations[row["id"]]["last_turn"]}
        for row in _without(today["run"], "models")
    ]
    tables["task"] = _renamed(today["task"], "may_have_rows", "touched")
    tables["job"] = [_old_job(row) for row in today["job"] if operations[row["operation_id"]]["kind"] == "run"]
    for job in tables["job"]:
        if job["id"] == taken["id"]:
            job |= {"worker": DEAD, "losses": 1, "sent": 2}
    tables["worker"] = [
        {"id": DEAD, "name": "host:1", "threads": 1, "beat": 7, "started_at": "2024-01-01T00:00:00.000000+00:00"}
        | {"queues": "default", "pool": "local"}
    ]
    kept = ("name", "version", "kind", "digest", "definition", "warnings", "created_by", "created_at")
    tables["model"] = [{name: row[name] for name in kept} for row in today["model"]]
    digest = app.store.blobs.put(b'{"rules": []}')
    tables["model"].append({**tables["model"][0], "name": "large", "definition": None, "digest": digest})
    tables["publication"] = [_old_publication(row, operations, attempts) for row in today["publication"]]
    tables["publication_version"] = _renamed(today["publication_version"], "request", "asked")
    tables["answer"] = [
        {"idempotency_key": "k", "digest": "d" * 64, "body": {"id": "x"}, "created_at": "2999-01-01T00:00:00+00:00"}
    ]
    return tables


def _without(rows: Rows, *columns: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def _renamed(rows: Rows, name: str, new_name: str) -> Rows:
    return [{(new_name if column == name else column): value for column, value in row.items()} for row in rows]


def _old_job(row: dict[str, Any]) -> dict[str, Any]:
    arguments, result = row["arguments"], row["result"]
    kept = ("id", "number", "kind", "state", "urgent", "worker", "attempts", "failures", "losses", "delay_s", "error")
    job = {name: row[name] for name in (*kept, "sent")}
    counts = result and {("undigested" if name == "model_errors" else name): n for name, n in result.items()}
    job |= {"run_id": row["operation_id"], "task_id": row["subject"], "n_read": row["progress"], "counts": counts}
    return {**job, "fence": (arguments or {}).get("fence", 1), "after": (arguments or {}).get("after")}


def _old_publication(row: dict[str, Any], operations: dict[str, Any], attempts: dict[str, Any]) -> dict[str, Any]:
    row = {**_renamed([row], "previous", "former")[0], "asked": None, "state": "idle"}
    if (operation_id := row.pop("operation_id")) is not None:
        attempt, operation = attempts[operation_id], operations[operation_id]
        asked = {"version": attempt["version"], "at": operation["created_at"], "action": "publish"}
        asked |= {**attempt["request"], "actor": "ann", "changes": attempt["changes"]}
        row |= {"state": "busy", "asked": asked}
    return row


def upgraded(engine: sa.Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with migrating(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


ORDER = ("source", "model", "run", "task", "partition", "job", "worker", "mapping")
ORDER += ("publication", "publication_version", "answer", "audit")


def fill(engine: sa.Engine, tables: dict[str, Rows]) -> None:
    """Makes records of 0005 that hold this."""
    upgraded(engine, "0005")
    booleans = {"urgent", "touched", "by_author"}
    with engine.begin() as connection:
        for name in ORDER:
            rows = [{c: bool(v) if c in booleans and v is not None else v for c, v in r.items()} for r in tables[name]]
            table = sa.table(name, *(sa.column(c, DOCUMENT) if c in DOCUMENTS else sa.column(c) for c in rows[0]))
            if name == "model":  # null there means that a definition is elsewhere
                rows = [row | {"definition": row["definition"] or sa.null()} for row in rows]
                for row in rows:
                    connection.execute(sa.insert(table).values(row))
            else:
                connection.execute(sa.insert(table), rows)
            if engine.dialect.name == "postgresql" and name in ("job", "audit"):  # ids that were given do not count
                newest = max(row["id"] for row in rows)
                connection.execute(sa.text(f"SELECT setval('{name}_id_seq', {newest})"))


def read(engine: sa.Engine, name: str) -> Rows:
    """The rows of a table of today, as the program reads them."""
    table = schema.metadata.tables[name]
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(sa.select(table)).mappings()]
    return sorted(found, key=str)


def expected(old: dict[str, Rows]) -> dict[str, Rows]:
    """What is to be in the tables of today, as far as it follows from those of then: every value of theirs."""
    tables = copy.deepcopy(old)
    found: dict[str, Rows] = {name: tables[name] for name in ("source", "partition", "worker", "mapping", "answer")}
    found["audit"] = tables["audit"]
    found["run"] = [{name: row[name] for name in ("id", "spec")} for row in tables["run"]]
    moved = ("id", "state", "error", "started_at", "finished_at", "priority", "queue", "created_by", "created_at")
    found["operation"] = [
        {"kind": "run", "last_turn": row["served"], **{name: row[name] for name in moved}} for row in tables["run"]
    ]
    found["task"] = _renamed(tables["task"], "touched", "may_have_rows")
    found["job"] = [_new_job(row) for row in tables["job"]]
    found["model"] = tables["model"]
    found["publication"] = _renamed(_without(tables["publication"], "state", "asked"), "former", "previous")
    found["publication_version"] = _renamed(tables["publication_version"], "asked", "request")
    for row in tables["publication"]:
        if row["state"] == "busy":
            asked = row["asked"]
            by = {"created_by": asked["actor"], "created_at": asked["at"]}
            found["operation"].append({"kind": "publication", "subject": row["name"], "state": "planned", **by})
            request = {name: asked[name] for name in ("runs", "replace", "indexes", "conflicts")}
            found["publication_attempt"] = [
                {"publication_id": row["id"], "action": "publish", "version": asked["version"]}
                | {"request": request, "changes": asked["changes"]}
            ]
            found["job"].append({"kind": "publish", "state": "waiting", "lane": "manage", "arguments": {}})
    return found


def _new_job(row: dict[str, Any]) -> dict[str, Any]:
    fence, after, counts = row.pop("fence"), row.pop("after"), row.pop("counts")
    new = {"operation_id": row.pop("run_id"), "subject": row.pop("task_id"), "progress": row.pop("n_read")}
    new["lane"] = "label" if row["kind"] == "partition" else "manage"
    new["arguments"] = {"fence": fence, **({"after": after} if after else {})}
    new["result"] = counts and {("model_errors" if name == "undigested" else name): n for name, n in counts.items()}
    return {**row, **new, "delay_s": 0, "due_at": 0, "urgent": bool(row["urgent"])}


def check_nothing_is_lost(engine: sa.Engine, old: Old) -> None:
    assert revision_of(engine) == LATEST
    for name, rows in expected(old.tables).items():
        found = read(engine, name)
        assert len(found) == len(rows), name
        for row in rows:
            alike = [{column: each[column] for column in row} for each in found]
            assert row in alike, (name, row, alike)
    [attempt] = read(engine, "publication_attempt")
    busy = next(row for row in read(engine, "publication") if row["operation_id"])
    assert (busy["name"], busy["operation_id"], busy["id"]) == ("moods", attempt["id"], attempt["publication_id"])
    [job] = [row for row in read(engine, "job") if row["kind"] == "publish"]
    assert job["operation_id"] == attempt["id"]


def test_nothing_of_an_old_store_is_lost(engine, old):
    fill(engine, old.tables)
    assert migrate(engine) == ("0005", LATEST)
    check_nothing_is_lost(engine, old)


@pytest.fixture
def restored(old: Old, tmp_path: Path) -> Iterator[None]:
    """The targets of the old records as they were, after a test has worked with them."""
    folder = Path(old.tables["source"][0]["spec"]["url"].removeprefix("sqlite:///")).parent
    kept = shutil.copytree(folder, tmp_path / "kept")
    yield
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


@pytest.fixture
def app(engine, store_url: str, old: Old, restored: None, tmp_path: Path) -> Iterator[App]:
    """Today's program with the old records."""
    fill(engine, old.tables)
    migrate(engine)
    app = App(Settings(home=tmp_path / "home", store_url=store_url, partition_rows=10, lease_s=0.6, threads=1))
    yield app
    app.store.database.close()


def test_work_that_was_under_way_goes_on_to_its_end(app, old):
    worker = app.operations.worker()
    worker.start()
    try:
        ids = [old.runs["running"], app.store.publications.get("moods")["operation_id"]]
        for operation_id in ids:
            app.operations.work_on(operation_id)
    finally:
        worker.stop()
    assert [app.operations.get(operation_id)["state"] for operation_id in ids] == ["done", "done"]
    rows = app.results.exported(old.runs["running"], production=False, comparable=True)
    assert b"".join(encoded(rows, "jsonl")) == old.exported
    found = app.publications.get("moods")
    assert (found["doing"], found["version"], found["previous"]) == (None, 2, 1)
    [busy] = [row for row in old.tables["publication"] if row["state"] == "busy"]
    assert found["versions"][0]["changes"] == busy["asked"]["changes"]
    assert _published(app, "moods") == old.published


def test_what_had_ended_can_be_gone_on_with_published_and_brought_back(app, old):
    app.runs.resume(old.runs["aborted"], LOCAL)
    app.operations.work_on(old.runs["aborted"])
    assert app.runs.get(old.runs["aborted"])["state"] == "done"
    app.operations.work_on(app.runs.produce(old.runs["done"], LOCAL))
    assert app.runs.get(old.runs["done"])["error"] is None
    app.operations.work_on(app.publications.roll_back("idle", LOCAL))
    assert app.publications.get("idle")["version"] == 1
    request = PublishRequest(runs=(old.runs["aborted"],))
    app.operations.work_on(app.publications.publish("idle", request, LOCAL))
    found = app.publications.get("idle")
    assert (found["version"], [each["version"] for each in found["versions"]]) == (3, [3, 2, 1])
    app.operations.work_on(app.runs.delete(old.runs["more"], LOCAL))
    assert old.runs["more"] not in {run["id"] for run in app.runs.page()}


def test_new_jobs_have_ids_that_no_old_one_had(app, old):
    app.operations.work_on(app.runs.produce(old.runs["done"], LOCAL))
    newest = app.store.operations.jobs(old.runs["done"])[-1]
    assert newest["id"] > max(job["id"] for job in old.tables["job"])


class Died(Exception):
    """Of a process, at some statement."""


CHANGES = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "SELECT SETVAL")


def cut_off(engine: sa.Engine, at: int) -> bool:
    """Migrates up to the n-th statement that changes something; whether it got that far."""
    n, last = 0, ""

    def count(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal n, last
        n += statement.lstrip().upper().startswith(CHANGES) and statement != last  # of many alike the first
        last = statement
        if n == at:
            raise Died

    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        migrate(engine)
    except Died:
        return True
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)
    return False


def emptied(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        found = sa.MetaData()
        found.reflect(connection)
        found.drop_all(connection)


def test_a_migration_of_old_records_that_dies_at_any_statement_is_finished_by_the_next_one(engine, old):
    """MariaDB and MySQL keep what was done; the others, nothing."""
    at, keeps = 1, engine.dialect.name in ("mysql", "mariadb")
    fill(engine, old.tables)
    while cut_off(engine, at):
        if keeps:
            migrate(engine)
            check_nothing_is_lost(engine, old)
            emptied(engine)
            fill(engine, old.tables)
        else:
            assert revision_of(engine) == "0005"
        at += 1
    assert at > 40
    check_nothing_is_lost(engine, old)
