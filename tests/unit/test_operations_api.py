"""Operations over HTTP, without a network: list, show, watch, cancel, fetch; sources that are tested and files that are
made in the background."""

import contextlib
import datetime as dt
import json
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from audience.api.server import create_api
from audience.app.actors import LOCAL
from audience.app.requests import SourceRequest
from audience.app.root import App
from audience.jobs import sweeping
from audience.settings import Settings
from audience.store import idempotency, sweeps

CSV = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
POSTS = [(f"p{i}", "c1", f"{'媽爸x'[i % 3]}{i % 5}", "buy", "2024-01-01") for i in range(30)]
SECONDS = 20
"""How long may be waited for what takes a moment, on a busy machine."""


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "files").mkdir()
    settings = {"files_roots": (tmp_path / "files",), "partition_rows": 7, "lease_s": 3, "stop_s": 1}
    return App(Settings(home=tmp_path / "home", **settings))


@pytest.fixture
def client(app: App) -> Iterator[TestClient]:
    with TestClient(create_api(app), base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def run(client, app, table) -> dict[str, Any]:
    """A run that is done."""
    table(POSTS, "files/posts.db")
    client.post("/v1/sources", json={"name": "posts", "url": "posts.db"})
    client.post("/v1/models", json={"name": "gender", "csv": CSV, "fields": ["author"]})
    body = {"sources": [{"source": "posts"}], "models": ["gender"], "target": "labels.db"}
    made = client.post("/v1/runs", json=body).json()
    app.operations.work_on(made["id"])
    return made


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)
    return found


def begun(reply: Any) -> str:
    assert (reply.status_code, reply.headers["location"]) == (202, reply.json()["href"]), reply.text
    return str(reply.json()["href"])


def export(client, run, **body: object) -> str:
    return begun(client.post(f"{run['href']}/exports", json=body))


# runs that are forgotten


def test_a_run_that_is_at_work_is_forgotten_by_the_worker_that_works_on_it(client, app, run, table, tmp_path):
    table([(f"q{i}", *POSTS[0][1:]) for i in range(60_000)], "files/many.db")
    body = {"sources": [{"source": {"url": "many.db"}}], "models": ["gender"], "target": "many-labels.db"}
    made = client.post("/v1/runs", json={**body, "partition_rows": 500}).json()
    worker = app.operations.worker()
    worker.start()
    try:
        wait_until(lambda: client.get(made["href"]).json()["tasks"][0]["progress"]["partitions_done"] > 1, "it works")
        reply = client.delete(made["href"], params={"forget": True})
        assert (reply.status_code, reply.json()["state"]) == (202, "deleting")
        wait_until(lambda: client.get(made["href"]).status_code == 404, "it is gone")
    finally:
        worker.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "files" / "many-labels.db")) as db:
        assert db.execute("SELECT count(*) FROM results_all").fetchone() == (0,)


# list, show, cancel


def test_operations_are_listed_by_pages_and_filters(client, app, run):
    exports = [export(client, run) for _ in range(3)]
    app.operations.work_on(exports[0].rpartition("/")[2])
    seen, cursor = [], None
    while True:
        found = client.get("/v1/operations", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [item["href"] for item in found["items"]]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert seen == [*reversed(exports), f"/v1/operations/{run['id']}"]

    def kinds(query: str) -> list[str]:
        return [item["kind"] for item in client.get(f"/v1/operations?{query}").json()["items"]]

    assert kinds("kind=run") == ["run"]
    assert kinds("kind=run&kind=export&state=done") == ["export", "run"]
    assert kinds("state=planned") == ["export", "export"]
    assert kinds("created_by=nobody") == []
    assert client.get("/v1/operations?kind=nonsense").status_code == 422
    assert client.get("/v1/operations?cursor=nonsense").status_code == 422


def test_a_run_is_an_operation_with_the_same_id(client, run):
    found = client.get(f"/v1/operations/{run['id']}").json()
    assert (found["kind"], found["state"], found["progress"]["done"], found["error"]) == ("run", "done", 30, None)
    assert found["started_at"] < found["finished_at"]
    assert client.get(f"/v1/operations/{'0' * 32}").status_code == 404
    assert client.get("/v1/operations/nonsense").status_code == 422


MODEL = {"name": "many", "csv": "regex,label\n" + "".join(f"字{n}[a-c]+,l{n % 20}\n" for n in range(4000))}
"""Large enough to be checked in the background."""


def test_a_large_model_is_saved_by_an_operation_and_answered_when_it_is_soon_over(client, app):
    made = client.post("/v1/models", json=MODEL)
    assert (made.status_code, made.json()["model"]) == (201, "many@1")
    later = begun(client.post("/v1/models", json={**MODEL, "notes": "again"}, headers={"Prefer": "respond-async"}))
    app.operations.work_on(later.rpartition("/")[2])
    assert client.get(later).json()["result"] == {"model": "many@1", "warnings": []}
    assert client.get(later).json()["kind"] == "model"


def test_faults_of_a_large_model_are_told(client):
    reply = client.post("/v1/models", json={**MODEL, "csv": MODEL["csv"] + "(unclosed,l1\n"})
    assert reply.status_code == 422
    assert "rules.csv:4002" in reply.json()["detail"]


def test_operations_of_every_kind_are_cancelled_once(client, app, run):
    more = client.post("/v1/runs", json={"sources": [{"source": "posts"}], "models": ["gender"], "target": "b.db"})
    client.post("/v1/publications", json={"name": "moods", "target": "published.db"})
    hrefs = {
        "run": f"/v1/operations/{more.json()['id']}",
        "export": export(client, run),
        "publication": begun(client.post("/v1/publications/moods/publish", json={"runs": [run["id"]]})),
        "model": begun(client.post("/v1/models", json=MODEL, headers={"Prefer": "respond-async"})),
        "source_test": f"/v1/operations/{app.sources.begin_test(SourceRequest(saved='posts'), LOCAL)}",
    }
    for kind, href in hrefs.items():
        reply = client.post(f"{href}/cancel")
        assert (reply.status_code, reply.json()["kind"]) == (202, kind)
        assert reply.json()["state"] == ("aborting" if kind in ("run", "publication") else "aborted")
        app.operations.work_on(href.rpartition("/")[2])
        assert client.get(href).json()["state"] == "aborted"
        again = client.post(f"{href}/cancel")
        assert (again.status_code, again.json()["state"]) == (409, "aborted")
    assert client.get("/v1/publications/moods").json()["state"] == "idle"
    assert client.get(f"{hrefs['export']}/file").status_code == 409
    done = client.post(f"/v1/operations/{run['id']}/cancel")
    assert (done.status_code, done.json()["state"]) == (409, "done")


# watch


def told(text: str) -> list[dict[str, str]]:
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in block if not line.startswith(":")) for block in blocks]


def test_events_of_an_operation_go_on_after_the_last_one_received(client, app, run):
    href = export(client, run)
    app.operations.work_on(href.rpartition("/")[2])
    found = told(client.get(f"{href}/events").text)
    moves = [event for event in found if event["event"] == "moved"]
    states = [(json.loads(event["data"])["kind"], json.loads(event["data"])["state"]) for event in moves]
    assert states == [("export", "add"), ("export", "running"), ("export", "done")]
    progress = [json.loads(event["data"]) for event in found if event["event"] == "progress"]
    assert [(each["id"], each["result"]["rows"]) for each in progress] == [(href.rpartition("/")[2], 20)]
    again = told(client.get(f"{href}/events", headers={"Last-Event-ID": moves[0]["id"]}).text)
    assert [event["id"] for event in again if "id" in event] == [event["id"] for event in moves[1:]]
    assert client.get(f"{href}/events", headers={"Last-Event-ID": moves[-1]["id"]}).status_code == 204


def test_events_of_a_publication_tell_why_it_failed(client, app, run, tmp_path):
    client.post("/v1/publications", json={"name": "moods", "target": "published.db"})
    href = begun(client.post("/v1/publications/moods/publish", json={"runs": [run["id"]]}))
    (tmp_path / "files" / "labels.db").unlink()
    app.operations.work_on(href.rpartition("/")[2])
    last = [json.loads(event["data"]) for event in told(client.get(f"{href}/events").text) if "id" in event][-1]
    assert (last["state"], "are gone" in last["error"]) == ("failed", True)
    assert client.get(href).json()["error"] == last["error"]


# files


@pytest.mark.parametrize("layout", ["csv", "jsonl", "parquet"])
def test_a_file_that_was_made_in_the_background_is_the_one_that_is_streamed(client, app, run, layout):
    href = export(client, run, of="production", format=layout)
    early = client.get(f"{href}/file")
    assert (early.status_code, early.json()["state"]) == (409, "planned")
    app.operations.work_on(href.rpartition("/")[2])
    reply = client.get(f"{href}/file")
    streamed = client.get(f"{run['href']}/export", params={"of": "production", "format": layout})
    assert (reply.status_code, reply.headers["content-type"]) == (200, streamed.headers["content-type"])
    assert reply.content == streamed.content
    assert f"export-{href.rpartition('/')[2][:12]}.{layout}" in reply.headers["content-disposition"]
    assert client.get(f"/v1/operations/{run['id']}/file").status_code == 404


def test_published_rows_are_made_into_a_file(client, app, run):
    client.post("/v1/publications", json={"name": "moods", "target": "published.db"})
    body = {"runs": [run["id"]]}
    app.operations.work_on(begun(client.post("/v1/publications/moods/publish", json=body)).rpartition("/")[2])
    href = begun(client.post("/v1/publications/moods/exports", json={"format": "jsonl"}))
    app.operations.work_on(href.rpartition("/")[2])
    assert client.get(f"{href}/file").text == client.get("/v1/publications/moods/export").text
    assert client.post("/v1/publications/moods/exports", json={"index": "nothing"}).status_code == 404


def swept(app: App) -> dict[str, int]:
    """What a sweep found."""
    sweep = app.store.operations.add("sweep", LOCAL)
    app.operations.work_on(sweep)
    found: dict[str, int] = app.operations.check_done(sweep)["result"]
    return found


def test_a_file_is_kept_for_a_week_and_what_models_name_for_ever(client, app, run, monkeypatch):
    large = {"rules": [{"label": "a", "any": [{"keyword": f"字{i}"}]} for i in range(10_000)]}
    assert client.post("/v1/models", json={"name": "large", "rules": large}).status_code == 201
    href = export(client, run)
    app.operations.work_on(href.rpartition("/")[2])
    blob = client.get(href).json()["result"]["blob"]
    monkeypatch.setattr(sweeping, "BLOB_AGE", dt.timedelta())
    assert swept(app)["blobs"] == 0
    assert client.get(f"{href}/file").status_code == 200
    monkeypatch.setattr(sweeps, "KEPT", dt.timedelta())
    found = swept(app)
    assert (found["operations"], found["blobs"]) == (3, 2)  # the model, the export, and the sweep before
    assert client.get(href).status_code == client.get(f"{href}/file").status_code == 404
    assert not app.store.blobs.exists(blob)
    assert len(client.get("/v1/models/large").json()["definition"]["rules"]) == 10_000
    assert client.get(run["href"]).json()["state"] == "done"


def test_two_exports_of_the_same_rows_share_a_blob_that_goes_with_the_last(client, app, run, monkeypatch):
    first, second = export(client, run), export(client, run)
    for href in (first, second):
        app.operations.work_on(href.rpartition("/")[2])
    assert client.get(first).json()["result"]["blob"] == client.get(second).json()["result"]["blob"]
    with app.store.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE operation SET finished_at = '2020-01-01T00:00:00+00:00' WHERE id = ?", (first.rpartition("/")[2],)
        )
    monkeypatch.setattr(sweeping, "BLOB_AGE", dt.timedelta())
    assert swept(app) == {"answers": 0, "operations": 1, "blobs": 0}
    assert client.get(f"{second}/file").status_code == 200


def test_answers_and_operations_are_swept_every_day_unasked(app, client, run, monkeypatch):
    client.post("/v1/sources", json={"name": "x", "url": "posts.db"}, headers={"Idempotency-Key": "k"})
    monkeypatch.setattr(sweeps, "EVERY_S", 0.3)
    monkeypatch.setattr(idempotency, "KEPT", dt.timedelta())
    worker = app.operations.worker()
    worker.start()
    try:
        done = ("sweep", "done")
        wait_until(lambda: app.operations.counts().get(done, 0) >= 2, "two sweeps")
    finally:
        worker.stop()
    first = next(item for item in reversed(app.operations.page(kinds=["sweep"])) if item["state"] == "done")
    assert app.operations.get(first["id"])["result"]["answers"] == 1
    assert app.store.jobs.counts().get(("sweep", "delayed"), 0) <= 1


# sources that never answer


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    yield f"mysql://ann@127.0.0.1:{listener.getsockname()[1]}/posts"
    listener.close()


def children() -> list[int]:
    """Processes that this one has started for single jobs."""
    command = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "worker job" in line]


def test_the_test_of_a_server_that_never_answers_is_cancelled_within_seconds(app, client, silent):
    spec = {"url": silent, "table": "posts", "roles": {}}
    app.store.sources.add("silent", spec, LOCAL)
    worker = app.operations.worker()
    worker.start()
    try:
        href = begun(client.post("/v1/sources/silent/test", headers={"Prefer": "respond-async"}))
        [child] = wait_until(children, "it is tested in a process of its own")
        assert client.get(href).json()["state"] in ("planned", "running")
        time.sleep(1)
        began = time.monotonic()
        assert client.post(f"{href}/cancel").json()["state"] == "aborted"
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the process is gone")
        assert time.monotonic() - began < 10
        assert children() == []
        assert client.get(href).json()["state"] == "aborted"
    finally:
        worker.stop()


def test_a_worker_that_stops_leaves_no_process_behind(app, client, silent):
    app.store.sources.add("silent", {"url": silent, "table": "posts", "roles": {}}, LOCAL)
    worker = app.operations.worker()
    worker.start()
    href = begun(client.post("/v1/sources/silent/test", headers={"Prefer": "respond-async"}))
    wait_until(children, "it is tested in a process of its own")
    worker.stop()
    assert children() == []
    assert client.get(href).json()["state"] in ("planned", "running")
    assert {job["state"] for job in app.store.operations.jobs(href.rpartition("/")[2])} == {"waiting"}


def test_a_test_of_a_source_that_answers_at_once_is_answered_at_once(client, run):
    found = wait_until(lambda: (r := client.post("/v1/sources/posts/test")).status_code == 200 and r.json(), "a reply")
    assert (found["n_rows"], found["roles"]["author"]) == (30, "author")
