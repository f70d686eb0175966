"""The HTTP API, without a network: what each route answers, and what it refuses."""

import contextlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from audience.api import events, limits
from audience.api.server import create_api
from audience.app.actors import LOCAL
from audience.app.requests import SourceRequest
from audience.app.root import App
from audience.app.sources import Sources
from audience.settings import Settings

CSV = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
POSTS = [(f"p{i}", "c1", f"{'媽爸x'[i % 3]}{i % 5}", "buy", "2024-01-01") for i in range(30)]
UNKNOWN = "0" * 32


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "files").mkdir()
    return App(Settings(home=tmp_path / "home", files_roots=(tmp_path / "files",), partition_rows=7))


@pytest.fixture
def client(app):
    with TestClient(create_api(app), base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def ready(client, table, tmp_path):
    """A saved source and a saved model."""
    table(POSTS, "files/posts.db")
    assert client.post("/v1/sources", json={"name": "posts", "url": "posts.db"}).status_code == 201
    body = {"name": "gender", "csv": CSV, "fields": ["author"]}
    assert client.post("/v1/models", json=body).json()["model"] == "gender@1"
    return {"sources": [{"source": "posts"}], "models": ["gender"], "target": "labels.db"}


def finished(client, app, body):
    run_id = client.post("/v1/runs", json=body).json()["id"]
    app.operations.work_on(run_id)
    return client.get(f"/v1/runs/{run_id}").json()


def carried_out(client, app, reply):
    """The operation that a reply tells of, after a worker has had it."""
    assert (reply.status_code, reply.headers["location"]) == (202, reply.json()["href"]), reply.text
    app.operations.work_on(reply.json()["id"])
    return client.get(reply.headers["location"]).json()


def problem(reply, status):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    found = reply.json()
    assert found["status"] == status
    return found


def test_a_run_is_there_before_the_reply_and_shows_its_numbers_when_it_is_done(client, app, ready):
    reply = client.post("/v1/runs", json=ready)
    assert (reply.status_code, reply.json()["state"]) == (202, "planned")
    assert client.get(reply.headers["location"]).json()["state"] == "planned"
    app.operations.work_on(reply.json()["id"])
    run = client.get(reply.headers["location"]).json()
    statistics = run["tasks"][0]["statistics"]
    assert (run["state"], statistics["complete"], statistics["read"]) == ("done", True, 30)
    assert statistics["groups"]["all"] == {
        "received": 30,
        "results": 20,
        "authors": 15,
        "authorless": 0,
        "production": 10,
        "labelled": 10,
        "rate_of_label": 66.67,
    }
    assert run["tasks"][0]["progress"]["partitions_done"] == 5


def test_numbers_of_finished_partitions_are_shown_while_the_run_is_at_work(client, app, ready):
    run_id = client.post("/v1/runs", json=ready).json()["id"]
    worker = app.operations.worker()
    worker_id = app.store.workers.add("test", 1)
    for _ in range(3):
        worker.handle(app.store.jobs.take(worker_id))
    task = client.get(f"/v1/runs/{run_id}").json()["tasks"][0]
    assert task["progress"]["partitions_done"] == 2
    assert (task["statistics"]["complete"], task["statistics"]["read"]) == (False, 14)
    assert client.get(f"/v1/runs/{run_id}/sample").json()["items"]


def test_a_create_with_a_key_is_done_once_and_answered_the_same(client, app, ready):
    headers = {"Idempotency-Key": "k-1"}
    first, again = (client.post("/v1/runs", json=ready, headers=headers) for _ in range(2))
    assert (first.status_code, first.json(), first.headers["location"]) == (
        again.status_code,
        again.json(),
        again.headers["location"],
    )
    assert len(app.store.runs.page()) == 1
    other = client.post("/v1/runs", json={**ready, "seed": 5}, headers=headers)
    assert "another request" in problem(other, 422)["detail"]
    for path, body in (("sources", {"name": "more", "url": "posts.db"}), ("models", {"name": "m", "csv": CSV})):
        replies = [client.post(f"/v1/{path}", json=body, headers={"Idempotency-Key": path}) for _ in range(2)]
        assert [r.status_code for r in replies] == [201, 201]
        assert replies[0].json() == replies[1].json()


def test_a_create_with_a_key_is_answered_the_same_after_a_restart_warnings_too(app, client, ready):
    body = {**ready, "conflict_groups": {"conflicts": {"gender": ["mle", "女性"]}}}
    publication = {"name": "moods", "target": "moods.db"}
    source = {"name": "more", "url": "posts.db"}

    def replies(client):
        asked = {"runs": body, "publications": publication, "sources": source}
        found = [client.post(f"/v1/{p}", json=b, headers={"Idempotency-Key": p}) for p, b in asked.items()]
        return [(reply.status_code, reply.text, reply.headers["location"]) for reply in found]

    first = replies(client)
    assert "no label of these models is written as /mle" in first[0][1]
    assert "no worker that is alive" in first[0][1]
    app.store.workers.add("late", 1)
    app.store.database.close()
    with TestClient(create_api(App(app.settings)), base_url="http://localhost:8000") as restarted:
        assert replies(restarted) == first
    assert len(app.store.runs.page()) == 1


def test_a_run_goes_on_saying_which_names_of_its_conflict_groups_no_model_knows(client, app, ready):
    panels = {"names": {"男性": "m", "南性": "m"}, "conflicts": {"gender": ["m", "女性", "f"]}}
    made = client.post("/v1/runs", json={**ready, "conflict_groups": panels}).json()
    told = [
        "no model of this run gives the label 南性, which `names` renames",
        "no label of these models is written as /f",
    ]
    assert made["warnings"][:2] == told
    app.operations.work_on(made["id"])
    assert client.get(made["href"]).json()["warnings"] == told
    assert finished(client, app, ready)["warnings"] == []


def test_a_run_says_when_the_times_of_its_rows_are_not_likely(client, app, ready, table):
    table([*POSTS[:9], ("p9", "c1", "媽", "buy", "1900-01-01")], "files/dummies.db")
    client.post("/v1/sources", json={"name": "dummies", "url": "dummies.db"})
    source = {"source": "dummies"}
    made = client.post("/v1/runs", json={**ready, "sources": [source]}).json()
    worker, worker_id = app.operations.worker(), app.store.workers.add("test", 1)
    for _ in range(3):  # the plan and both partitions; not the report
        worker.handle(app.store.jobs.take(worker_id))
    told = client.get(made["href"]).json()
    assert (told["state"], told["tasks"][0]["statistics"]["complete"]) == ("running", False)
    assert told["warnings"][0].startswith("dummies: times go from 1900-01-01 to 2024-01-01, which is not likely")
    app.operations.work_on(made["id"])
    done = client.get(made["href"]).json()
    assert done["warnings"] == told["warnings"]
    assert done["tasks"][0]["statistics"]["times"] == ["1900-01-01T00:00:00", "2024-01-01T00:00:00"]
    for bounds in ({"start": "1990-01-01"}, {"start": "1800-01-01", "end": "1990-01-01"}):
        found = finished(client, app, {**ready, "sources": [{**source, **bounds}]})
        assert len(found["warnings"]) == int("end" in bounds), bounds


def test_whatever_no_living_worker_serves_says_so_until_one_does(client, app, ready):
    told = "no worker that is alive serves the queue %s: start `audience up`, or `audience worker --queue %s`"
    run = client.post("/v1/runs", json={**ready, "queue": "night"}).json()
    test = client.post("/v1/sources/posts/test", headers={"Prefer": "respond-async"}).json()
    for made, queue in ((run, "night"), (test, "default")):
        assert made["warnings"] == client.get(made["href"]).json()["warnings"] == [told % (queue, queue)]
    app.store.workers.add("w", 1, "default,night.manage")
    assert client.get(test["href"]).json()["warnings"] == []
    assert client.get(run["href"]).json()["warnings"] != []
    app.store.workers.add("v", 1, "night.label")
    assert client.get(run["href"]).json()["warnings"] == []
    assert client.post("/v1/runs", json=ready).json()["warnings"] == []


@pytest.mark.parametrize("name", [" ", "a\u0007b", "x" * 101, "/"])
def test_names_that_could_be_no_labels_are_refused_in_conflict_groups_wherever_they_are_given(client, ready, name):
    for panels in ({"names": {"男性": name}}, {"conflicts": {"gender": ["m", name]}}):
        found = problem(client.post("/v1/runs", json={**ready, "conflict_groups": panels}), 422)
        assert found["errors"][0]["reason"].startswith("the panel "), found
        problem(client.put("/v1/conflict-groups/x", json=panels), 422)
    wrong = {"name": "moods", "target": "moods.db", "conflict_groups": {"gender": ["m", name]}}
    problem(client.post("/v1/publications", json=wrong), 422)


def test_a_create_that_failed_may_be_asked_again_with_its_key(client, ready):
    headers = {"Idempotency-Key": "k-1"}
    body = {"name": "late", "url": "late.csv"}
    problem(client.post("/v1/sources", json=body, headers=headers), 404)
    roots = client.app.state.app.settings.files_roots
    (roots[0] / "late.csv").write_text("id,content\n1,x\n")
    assert client.post("/v1/sources", json=body, headers=headers).status_code == 201


def test_unknown_ids_are_404_malformed_ones_422_and_illegal_moves_409_with_the_state(client, app, ready):
    for method, path in (("GET", ""), ("GET", "/sample"), ("POST", "/abort"), ("DELETE", ""), ("GET", "/events")):
        problem(client.request(method, f"/v1/runs/{UNKNOWN}{path}"), 404)
        assert problem(client.request(method, f"/v1/runs/nonsense{path}"), 422)["errors"][0]["where"] == "path.run_id"
    run = finished(client, app, ready)
    for action in ("resume", "abort"):
        assert problem(client.post(f"{run['href']}/{action}"), 409)["state"] == "done"
    planned = client.post("/v1/runs", json=ready).json()
    assert problem(client.post(f"{planned['href']}/production", json={}), 409)["state"] == "planned"
    assert problem(client.post(f"{planned['href']}/resume"), 409)["state"] == "planned"
    problem(client.get("/v1/nothing"), 404)
    problem(client.put("/v1/runs"), 405)


def test_a_request_says_every_field_that_is_wrong(client, ready):
    found = problem(client.post("/v1/runs", json={**ready, "sed": 1, "models": [], "priority": "urgent"}), 422)
    assert {fault["where"] for fault in found["errors"]} == {"body.sed", "body.models", "body.priority"}
    problem(client.post("/v1/runs", content=b"{", headers={"content-type": "application/json"}), 422)


def test_rules_that_need_mending_are_told_with_their_places(client):
    found = problem(client.post("/v1/models", json={"name": "m", "csv": "label,content\na,\nb,x\n,y\n"}), 422)
    assert [fault["where"] for fault in found["errors"]] == ["rules.csv:2", "rules.csv:4"]
    rules = {"rules": [{"label": "a", "any": [{"regex": "("}]}]}
    found = problem(client.post("/v1/models", json={"name": "m", "rules": rules}), 422)
    assert found["errors"][0]["where"] == "rules.0"
    problem(client.post("/v1/models", json={"name": "m"}), 422)


def test_files_outside_the_roots_are_neither_read_nor_written(client, ready, tmp_path):
    (tmp_path / "files" / "link.db").symlink_to(tmp_path / "home" / "audience.db")
    (tmp_path / "outside.csv").write_text("id,content\n1,secret\n")
    (tmp_path / "files" / "folder").symlink_to(tmp_path)
    outside = (
        f"sqlite:///file://{tmp_path}/outside.csv",
        f"file://file://{tmp_path}/outside.csv",
        f"{tmp_path}/x://../outside.csv",
        "folder/outside.csv",
        "f*r/outside.csv",
        "/etc/passwd",
        "../home/audience.db",
        "sqlite:////etc/passwd",
        "file:///etc/passwd",
        "link.db",
        "../*",
    )
    for url in outside:
        reply = client.post("/v1/sources", json={"name": "x", "url": url})
        assert reply.status_code in (404, 422), url
        assert "secret" not in reply.text
        assert any(said in reply.text for said in ("may be used", "no file", "three slashes", "cannot be read")), url
    for target in (*outside, "/tmp/labels.db", f"{tmp_path}/evil://"):
        problem(client.post("/v1/runs", json={**ready, "target": target}), 422)
    found = problem(client.post("/v1/runs", json={**ready, "sources": [{"source": {"url": "/etc/passwd"}}]}), 422)
    assert "HTTP" in found["detail"]


def test_a_link_that_is_made_later_does_not_lead_out(client, app, ready, tmp_path):
    run = client.post("/v1/runs", json={**ready, "target": "results"}).json()
    (tmp_path / "files" / "results").symlink_to(tmp_path)
    app.operations.work_on(run["id"])
    found = client.get(run["href"]).json()
    assert (found["state"], "may be used" in found["error"]) == ("failed", True)
    assert not (tmp_path / "results").exists()


def test_names_in_chinese_are_names(client, app, ready):
    for path, body in (("sources", {"name": "貼文", "url": "posts.db"}), ("models", {"name": "情緒", "csv": CSV})):
        for _ in range(2):
            reply = client.post(f"/v1/{path}", json=body, headers={"Idempotency-Key": path})
            assert reply.status_code == 201
        assert client.get(reply.headers["location"]).json()["name"] == body["name"]
    run = {**ready, "sources": [{"source": "貼文"}], "models": ["情緒"]}
    assert finished(client, app, run)["state"] == "done"


def test_names_that_no_file_system_takes_and_half_characters_are_refused(client, ready):
    long = "x" * 300
    problem(client.post("/v1/sources", json={"name": "x", "url": f"{long}.csv"}), 422)
    problem(client.post("/v1/runs", json={**ready, "target": f"{long}.db"}), 422)
    half = b'"\\ud800"'
    for path, body in (
        ("models/gender/try", b'{"fields": {%s: "x"}}' % half),
        ("runs", b'{"sources": [{"source": %s}], "models": ["gender"], "target": "a.db"}' % half),
        ("sources", b'{"name": "x", "url": "posts.db", "roles": {%s: "id"}}' % half),
    ):
        reply = client.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
        problem(reply, 422)
    assert client.post("/v1/models/gender/try", json={"text": "\\ud800 \U0001f600"}).status_code == 200


def sent(client, method, path, body):
    return client.request(method, path, content=body, headers={"content-type": "application/json"})


def test_a_key_twice_in_a_body_is_refused_with_its_place_by_every_route_that_reads_one(client):
    paths = client.get("/openapi.json").json()["paths"]
    reading = [(m, path) for path, found in paths.items() for m, one in found.items() if "requestBody" in one]
    assert len(reading) > 10
    values = {"run_id": UNKNOWN, "operation_id": UNKNOWN, "model": "m", "name": "n", "alias": "a"}
    for method, path in reading:
        reply = sent(client, method.upper(), path.format(**values), b'{"a": {"b":\n 1, "b": 2}}')
        (fault,) = problem(reply, 422)["errors"]
        assert fault["where"] == "body:2", path
        assert fault["reason"].startswith('the key "b" stands twice in its object (a)'), path


def test_half_of_a_character_in_a_body_is_refused_escaped_or_not(client):
    body = b'{"name": "m", "rules": {"x": ["%s"]}}'
    (fault,) = problem(sent(client, "POST", "/v1/models", body % b"\\ud83d"), 422)["errors"]
    assert "half of a surrogate pair" in fault["reason"]
    shouted = client.post("/v1/models", content=body % b"\\ud83d", headers={"content-type": "Application/JSON"})
    assert shouted.status_code == 422
    raw = "\ud83d".encode("utf-8", "surrogatepass")
    assert "not UTF-8 (at byte 31)" in problem(sent(client, "POST", "/v1/models", body % raw), 400)["detail"]


def test_what_json_has_not_is_refused_in_a_body(client):
    found = problem(sent(client, "PUT", "/v1/groups/x", b'{"channels": {"c": NaN}}'), 422)
    assert "NaN is no number" in found["detail"]


def test_twenty_requests_at_once_with_one_key_make_one_thing(client, ready):
    for path, body in (("runs", ready), ("sources", {"name": "more", "url": "posts.db"})):

        def post(_: int, path: str = path, body: dict = body) -> tuple[int, str]:
            reply = client.post(f"/v1/{path}", json=body, headers={"Idempotency-Key": path})
            return reply.status_code, reply.text

        with ThreadPoolExecutor(20) as pool:
            assert len(set(pool.map(post, range(20)))) == 1
    assert len(client.get("/v1/runs").json()["items"]) == 1


def test_a_model_named_twice_is_refused(client, ready):
    problem(client.post("/v1/runs", json={**ready, "models": ["gender", "gender@1"]}), 422)


def test_forgetting_a_run_removes_what_can_be_reached(client, app, ready, tmp_path):
    run = finished(client, app, ready)
    client.delete(run["href"], params={"forget": True})
    app.operations.work_on(run["id"])
    with contextlib.closing(sqlite3.connect(tmp_path / "files" / "labels.db")) as db:
        assert db.execute("SELECT count(*) FROM results_all").fetchone() == (0,)


def test_our_own_records_are_neither_source_nor_target(table, rules, tmp_path):
    app = App(Settings(home=tmp_path / "home", files_roots=(tmp_path,)))
    table(POSTS)
    with TestClient(create_api(app), base_url="http://localhost") as client:
        client.post("/v1/models", json={"name": "gender", "csv": CSV})
        body = {"sources": [{"source": {"url": "posts.db"}}], "models": ["gender"], "target": "home/audience.db"}
        for target in ("home/audience.db", f"file://{tmp_path}/home/audience.db"):
            found = problem(client.post("/v1/runs", json={**body, "target": target}), 422)
            assert "own records" in found["detail"]
        found = problem(client.post("/v1/sources", json={"name": "x", "url": "home/audience.db"}), 422)
        assert "own records" in found["detail"]


def test_no_reply_shows_a_password(client, app, tmp_path):
    spec = app.sources.spec(SourceRequest(location=str(tmp_path / "files" / "posts.csv"))).model_copy(
        update={"secret": app.locations.secrets.seal("geheim")}
    )
    app.store.sources.add("secret", spec.model_dump(mode="json"), LOCAL)
    reply = client.get("/v1/sources/secret")
    assert reply.json()["has_secret"] is True
    assert "fernet" not in reply.text
    found = problem(client.post("/v1/sources", json={"name": "x", "url": "mysql://ann:geheim@127.0.0.1:1/db"}), 503)
    assert "geheim" not in json.dumps(found)


def test_runs_are_listed_by_pages_and_filters(client, app, ready):
    ids = [client.post("/v1/runs", json=ready).json()["id"] for _ in range(5)]
    app.operations.work_on(ids[0])
    seen, cursor = [], None
    while True:
        found = client.get("/v1/runs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [run["id"] for run in found["items"]]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert [run["id"] for run in client.get("/v1/runs?state=done&state=failed").json()["items"]] == [ids[0]]
    assert client.get("/v1/runs?created_by=nobody").json()["items"] == []
    assert "cursor" in problem(client.get("/v1/runs?cursor=nonsense"), 422)["detail"]


def test_sources_and_models_are_shown_tried_and_removed(client, ready):
    assert client.get("/v1/sources").json()["items"][0]["name"] == "posts"
    assert client.post("/v1/sources/posts/test").json()["n_rows"] == 30
    assert client.get("/v1/models/gender").json()["definition"]["rules"][0]["label"] == "女性"
    assert [m["summary"]["n_rules"] for m in client.get("/v1/models").json()["items"]] == [2]
    tried = client.post("/v1/models/gender@1/try", json={"text": "我媽媽"}).json()
    assert [(h["text"], h["start"], h["end"]) for h in tried["hits"]] == [("媽", 1, 2), ("媽", 2, 3)]
    problem(client.post("/v1/models/gender/try", json={"fields": {"title": "x"}}), 422)
    problem(client.get("/v1/models/gender@9"), 404)
    assert client.delete("/v1/sources/posts").status_code == 204
    problem(client.get("/v1/sources/posts"), 404)


def test_groups_and_conflict_groups_are_saved_and_used_by_name(client, app, ready):
    assert client.put("/v1/groups/taiwan", json={"channels": {"c1": "forum"}}).status_code == 200
    panels = {"names": {"女性": "f", "男性": "m"}, "conflicts": {"gender": ["f", "m"]}}
    assert client.put("/v1/conflict-groups/gender", json=panels).json()["conflicts"] == panels["conflicts"]
    run = finished(client, app, {**ready, "groups": "taiwan", "conflict_groups": "gender"})
    assert list(run["tasks"][0]["statistics"]["groups"]) == ["forum"]
    assert {row["panel"] for row in client.get(f"{run['href']}/sample").json()["items"]} == {"/f", "/m"}
    problem(client.put("/v1/groups/bad", json={"channels": {"c1": "drop table"}}), 422)
    problem(client.put("/v1/conflict-groups/bad", json={"conflicts": {"a": ["x"], "b": ["x"]}}), 422)
    problem(client.post("/v1/runs", json={**ready, "groups": "japan"}), 404)
    for path in ("groups/taiwan", "conflict-groups/gender"):
        assert client.delete(f"/v1/{path}").status_code == 204
        problem(client.get(f"/v1/{path}"), 404)


def test_groups_of_any_name_are_saved_with_their_tables(client, app, ready):
    body = {"channels": {"c1": "汽車"}, "default": "其他", "tables": {"汽車": "cars", "其他": "others"}}
    saved = client.put("/v1/groups/boards", json=body).json()
    assert {name: saved[name] for name in body} == body
    for groups in ("boards", body):
        run = finished(client, app, {**ready, "groups": groups})
        assert run["tasks"][0]["statistics"]["groups"].keys() == {"cars"}
        assert run["groups"]["tables"] == body["tables"]
    lacking = problem(client.put("/v1/groups/boards", json={"channels": {"c1": "汽車"}}), 422)
    assert "in `tables` over HTTP" in lacking["detail"]
    strange = problem(client.put("/v1/groups/boards", json={"channels": {"c1": "a"}, "tables": {"b": "c"}}), 422)
    assert "'b', which is no group" in str(strange["errors"])
    problem(client.put("/v1/groups/boards", json={"channels": {"c1": "a"}, "defalt": "b"}), 422)


def test_a_run_that_has_not_begun_has_no_results_yet(client, ready, tmp_path):
    run = client.post("/v1/runs", json=ready).json()
    for path in ("sample", "set-aside"):
        assert client.get(f"{run['href']}/{path}").json() == {"items": []}
    assert client.get(f"{run['href']}/export").text == ""
    assert not (tmp_path / "files" / "labels.db").exists()


def test_results_come_as_a_file(client, app, ready, tmp_path):
    run = finished(client, app, ready)
    lines = client.get(f"{run['href']}/export").text.splitlines()
    assert len(lines) == 20
    assert "task_id" not in json.loads(client.get(f"{run['href']}/export?comparable=true").text.splitlines()[0])
    (tmp_path / "x.parquet").write_bytes(client.get(f"{run['href']}/export?format=parquet&of=production").content)
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 10
    reply = client.get(f"{run['href']}/export?format=csv")
    assert reply.text.startswith("\ufeffid,task_id")
    assert f"results-{run['id'][:12]}.csv" in reply.headers["content-disposition"]
    problem(client.get(f"{run['href']}/export?group=other"), 404)


def test_rows_that_were_set_aside_are_listed(client, app, ready, tmp_path):
    with sqlite3.connect(tmp_path / "files" / "posts.db") as db:
        db.execute("UPDATE posts SET post_time = 'soon' WHERE id = 'p3'")
    db.close()
    run = finished(client, app, ready)
    assert client.get(f"{run['href']}/set-aside").json()["items"] == [
        {"task": "posts", "id": "p3", "reason": "post_time is not a time: soon"}
    ]


def test_abort_resume_and_delete(client, app, ready, tmp_path):
    run = client.post("/v1/runs", json=ready).json()
    assert client.post(f"{run['href']}/abort").json()["state"] == "aborting"
    app.operations.work_on(run["id"])
    assert client.get(run["href"]).json()["state"] == "aborted"
    assert client.post(f"{run['href']}/resume").json()["state"] == "running"
    app.operations.work_on(run["id"])
    assert client.get(run["href"]).json()["state"] == "done"
    assert client.post(f"{run['href']}/production", json={}).json()["state"] == "producing"
    app.operations.work_on(run["id"])
    assert client.delete(run["href"]).json()["state"] == "deleting"
    app.operations.work_on(run["id"])
    problem(client.get(run["href"]), 404)


def test_an_aborted_run_says_what_it_kept_and_production_of_that_is_made_only_when_asked(client, app, ready):
    run = client.post("/v1/runs", json=ready).json()
    worker, worker_id = app.operations.worker(), app.store.workers.add("test", 1)
    for _ in range(3):
        worker.handle(app.store.jobs.take(worker_id))
    client.post(f"{run['href']}/abort")
    app.operations.work_on(run["id"])
    task = client.get(run["href"]).json()["tasks"][0]
    assert (task["state"], task["statistics"]["complete"], task["statistics"]["read"]) == ("aborted", False, 14)
    assert "partial" in problem(client.post(f"{run['href']}/production", json={}), 409)["detail"]
    assert client.post(f"{run['href']}/production", json={"partial": True}).status_code == 202
    app.operations.work_on(run["id"])
    found = client.get(run["href"]).json()
    assert (found["state"], found["tasks"][0]["state"]) == ("aborted", "aborted")
    assert found["tasks"][0]["statistics"]["groups"]["all"]["production"] > 0


def test_a_run_whose_target_is_gone_is_forgotten_when_asked(client, app, ready, tmp_path):
    run = finished(client, app, ready)
    (tmp_path / "files" / "labels.db").unlink()
    client.delete(run["href"])
    for _ in range(2):
        reply = client.delete(run["href"], params={"forget": True})
        assert (reply.status_code, reply.json()["state"]) == (202, "deleting")
    app.operations.work_on(run["id"])
    problem(client.get(run["href"]), 404)


def told(text: str) -> list[dict[str, str]]:
    """The events of a stream."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in block if not line.startswith(":")) for block in blocks]


def test_events_tell_every_move_and_go_on_after_the_last_one_received(client, app, ready):
    run = finished(client, app, ready)
    found = told(client.get(f"{run['href']}/events").text)
    moves = [event for event in found if event["event"] == "moved"]
    states = [(json.loads(m["data"])["kind"], json.loads(m["data"])["state"]) for m in moves]
    assert states[0] == ("run", "add")
    assert states[-1] == ("run", "done")
    assert [e["event"] for e in found].count("progress") == 1
    again = told(client.get(f"{run['href']}/events", headers={"Last-Event-ID": moves[-3]["id"]}).text)
    assert [e["id"] for e in again if "id" in e] == [m["id"] for m in moves[-2:]]
    assert client.get(f"{run['href']}/events", headers={"Last-Event-ID": moves[-1]["id"]}).status_code == 204


def test_a_quiet_stream_has_heartbeats_and_ends_when_the_run_is_deleted(client, app, ready, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.02)
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    run = client.post("/v1/runs", json=ready).json()
    text = ""
    with client.stream("GET", f"{run['href']}/events") as reply:
        for piece in reply.iter_text():
            text += piece
            if ": still here" in text and "deleting" not in text:
                client.delete(run["href"])
                app.operations.work_on(run["id"])
    assert json.loads(told(text)[-1]["data"])["state"] == "deleted"


def test_health_readiness_metrics_and_workers(client, app, ready):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json() == {"store": "ok", "workers": 0}
    worker = app.store.workers.add("here:1", 2)
    assert client.get("/v1/workers").json()["items"][0]["id"] == worker
    finished(client, app, ready)
    metrics = client.get("/metrics").text
    assert 'audience_runs{state="done"} 1.0' in metrics
    assert "audience_rows_read 30.0" in metrics
    assert 'route="/v1/runs/{run_id}"' in metrics


def test_readiness_is_refused_while_the_records_cannot_be_reached(client, app):
    Path(app.store.database.engine.url.database).unlink()
    Path(app.store.database.engine.url.database).mkdir()
    assert client.get("/health").status_code == 200
    reply = client.get("/ready")
    problem(reply, 503)
    assert reply.headers["retry-after"]


def test_the_documentation_asks_nobody_but_this_machine(client):
    page = client.get("/").text
    assert "SwaggerUIBundle" in page
    assert "http" not in page.replace("http-equiv", "").replace("httpEquiv", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert client.get(f"/docs/assets/{asset}").status_code == 200
    described = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(described)


def test_other_names_of_this_machine_are_not_answered(client, app):
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    with TestClient(create_api(app, "0.0.0.0"), base_url="http://intranet.example") as outside:
        assert outside.get("/health").status_code == 200


def test_a_form_of_a_web_page_cannot_ask_for_a_run(client, ready):
    problem(client.post("/v1/runs", content=json.dumps(ready), headers={"content-type": "text/plain"}), 415)


def test_a_body_that_is_too_large_is_refused_said_or_not(app, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 1000)
    large = json.dumps({"name": "m", "csv": "x" * 2000}).encode()
    headers = {"content-type": "application/json"}
    with TestClient(create_api(app), base_url="http://localhost") as client:
        problem(client.post("/v1/models", content=large, headers=headers), 413)
        unsaid = client.post("/v1/models", content=iter([large[:900], large[900:]]), headers=headers)
        problem(unsaid, 413)
        assert client.get("/v1/models").json()["items"] == []


def test_a_mistake_of_ours_is_told_without_its_details(app, monkeypatch, caplog):
    def crash(*_: object) -> None:
        raise RuntimeError("geheim")

    monkeypatch.setattr(Sources, "all", crash)
    with TestClient(create_api(app), base_url="http://localhost", raise_server_exceptions=False) as client:
        found = problem(client.get("/v1/sources"), 500)
    assert "geheim" not in json.dumps(found)
    assert "RuntimeError" in caplog.text
    caplog.clear()


# publications


def test_production_is_previewed_published_rolled_back_and_exported(client, app, ready):
    made = {"name": "moods", "target": "published.db", "indexes": {"board": ["all"]}}
    replies = [client.post("/v1/publications", json=made, headers={"Idempotency-Key": "p"}) for _ in range(2)]
    assert [(r.status_code, r.headers["location"]) for r in replies] == [(201, "/v1/publications/moods")] * 2
    problem(client.post("/v1/publications", json=made), 409)
    run = finished(client, app, ready)
    runs = {"runs": [run["id"]]}
    previewed = carried_out(client, app, client.post("/v1/publications/moods/preview", json=runs))
    found = client.get("/v1/publications/moods").json()
    assert [(c["index"], c["added"]) for c in found["preview"]["changes"]] == [("board", 5), ("board", 5)]
    assert (previewed["state"], previewed["result"]) == ("done", found["preview"]["changes"])
    assert (found["version"], found["versions"]) == (None, [])
    reply = client.post("/v1/publications/moods/publish", json={**runs, "base": 0})
    found = client.get("/v1/publications/moods").json()
    assert (reply.status_code, found["state"], found["under_way"]) == (202, "busy", "publish")
    assert found["operation"] == reply.json()["id"]
    assert "being published" in problem(client.post("/v1/publications/moods/publish", json=runs), 409)["detail"]
    assert carried_out(client, app, reply)["state"] == "done"
    assert (
        "is published now, not 0"
        in problem(client.post("/v1/publications/moods/publish", json={**runs, "base": 0}), 409)["detail"]
    )
    carried_out(client, app, client.post("/v1/publications/moods/publish", json={**runs, "replace": True}))
    found = client.get("/v1/publications/moods").json()
    assert (found["state"], found["version"], found["previous"], list(found["where"])) == ("idle", 2, 1, ["board"])
    assert carried_out(client, app, client.post("/v1/publications/moods/rollback"))["state"] == "done"
    assert client.get("/v1/publications/moods").json()["version"] == 1
    lines = client.get("/v1/publications/moods/export", params={"index": "board"}).text.splitlines()
    assert {json.loads(line)["version"] for line in lines} == {1}
    assert len(lines) == 10
    problem(client.get("/v1/publications/moods/export", params={"index": "nothing"}), 404)
    assert [item["name"] for item in client.get("/v1/publications").json()["items"]] == ["moods"]
    assert carried_out(client, app, client.delete("/v1/publications/moods"))["state"] == "done"
    problem(client.get("/v1/publications/moods"), 404)


def test_what_publishing_stumbles_over_is_in_the_publication(client, app, ready, tmp_path):
    client.post("/v1/publications", json={"name": "moods", "target": "published"})
    run = finished(client, app, ready)
    waiting = client.post("/v1/runs", json=ready).json()
    problem(client.post("/v1/publications/moods/publish", json={"runs": [waiting["id"]]}), 409)
    problem(client.post("/v1/publications/moods/publish", json={"runs": [UNKNOWN]}), 404)
    problem(client.post("/v1/publications/moods/publish", json={"runs": []}), 422)
    problem(client.post("/v1/publications", json={"name": "x", "target": "../outside.db"}), 422)
    with contextlib.closing(sqlite3.connect(tmp_path / "files" / "labels.db")) as db, db:
        db.execute("DELETE FROM production_all")
    failed = carried_out(client, app, client.post("/v1/publications/moods/publish", json={"runs": [run["id"]]}))
    found = client.get("/v1/publications/moods").json()
    assert (found["state"], "it is changing" in found["error"]) == ("idle", True)
    assert (failed["state"], failed["error"], failed["result"]) == ("failed", found["error"], None)
