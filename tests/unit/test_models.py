"""Models from the outside: kinds that packages bring, numbers as answers, references, aliases, what may be deleted."""

import datetime as dt
import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from audience.api.server import create_api
from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import AudienceError, BadInput, Conflict, Elsewhere, NotFound
from audience.models import registry
from audience.models.registry import KINDS, known_kinds
from audience.settings import Settings
from audience.store.references import ModelReference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"


def plug_in() -> str:
    """The module that docs/models.md shows."""
    [code] = re.findall(r"^```python\n(.*?)^```$", (DOCS / "models.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package with model kinds: its code, and what its entry points say."""
    names = iter(f"plugin_{n}_{tmp_path.name}" for n in range(9))

    def install(code: str, *kinds: str) -> str:
        name = re.sub(r"\W", "_", next(names))
        folder = tmp_path / f"site-{name}"
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        entries = "\n".join(kind.replace("MODULE", name) for kind in kinds)
        (folder / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(f"[audience.models]\n{entries}\n")
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        registry._places.cache_clear()
        return name

    yield install
    registry._places.cache_clear()


@pytest.fixture
def length(installed):
    return installed(plug_in(), "length = MODULE:Length")


@pytest.fixture
def gender(app, rules):
    return app.models.add("gender", rules(RULES), LOCAL)[0]


def labelled(app: App, posts: Path, target: Path, *models: str, **spec: object) -> dict:
    task = TaskRequest(name="posts", source=SourceRequest(location=str(posts)))
    run_id = app.runs.create(RunRequest(tasks=(task,), models=models, target=str(target), **spec), LOCAL)["id"]
    app.operations.work_on(run_id)
    return app.runs.get(run_id)


def rows(target: Path, sql: str) -> list[tuple]:
    db = sqlite3.connect(target)
    found = db.execute(sql).fetchall()
    db.close()
    return found


# kinds


def test_built_in_kinds_are_entry_points_like_those_of_others():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"][registry.GROUP] == KINDS


def test_a_kind_of_an_installed_package_is_imported_only_when_a_model_of_it_is_used(app, length):
    assert known_kinds()["length"] == f"{length}:Length"
    app.models.page()
    with pytest.raises(NotFound, match="known: length, rules"):
        app.models.draft("lenght", {})
    assert length not in sys.modules
    app.models.draft("length", {})
    assert length in sys.modules


def test_parameters_of_a_kind_are_checked_and_its_models_saved_explained_and_shown(app, length, tmp_path):
    with pytest.raises(BadInput) as error:
        app.models.draft("length", {"fields": 3, "unit": "words"})
    assert {problem.where for problem in error.value.problems} == {"fields", "unit"}
    parameters = tmp_path / "length.json"
    parameters.write_text('{"field": "title"}')
    assert app.models.add("size", parameters, LOCAL, "length", notes="try it") == ("size@1", ())
    record = app.models.get("size")
    assert (record["inputs"], record["labels"], record["kind"], record["notes"]) == (
        ["title"],
        ["length"],
        "length",
        "try it",
    )
    tried = app.models.try_out("size", {"": "four"})
    assert (tried.value, tried.labels, tried.hits) == (4.0, (), ())
    with pytest.raises(BadInput, match="case: of rule sets only"):
        app.models.add("size", parameters, LOCAL, "length", case="lower")


def test_numbers_of_a_model_are_scores_of_its_own_panel(app, installed, table, tmp_path, gender):
    measured = "pc.utf8_length(texts).cast(pa.float64())"
    with_nan = f'pc.if_else(pc.equal(texts, "nan"), float("nan"), {measured})'
    installed(plug_in().replace(measured, with_nan), "length = MODULE:Length")
    posts = table(
        [
            ("1", "c", "a", "媽xx", "2024-01-01"),
            ("2", "c", "a", None, "2024-01-02"),
            ("3", "c", "b", "", "2024-01-03"),
            ("4", "c", "b", "nan", "2024-01-04"),
            ("5", "c", "a", "媽xxxx", "2024-01-05"),
        ]
    )
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    run = labelled(app, posts, tmp_path / "labels.db", gender, "size")
    assert run["state"] == "done", run["error"]
    found = rows(
        tmp_path / "labels.db", "SELECT id, panel, score, model, evidence, match_meta, match_content FROM results_all"
    )
    assert [row for row in found if row[3] == "size@1"] == [
        ("1", "/length", 3.0, "size@1", "[]", "[]", "媽xx"),
        ("3", "/length", 0.0, "size@1", "[]", "[]", ""),
        ("5", "/length", 5.0, "size@1", "[]", "[]", "媽xxxx"),
    ]
    assert [row[:2] for row in found if row[3] == "gender@1"] == [("1", "/female"), ("5", "/female")]
    report = run["tasks"][0]["report"]
    assert report["set_aside"] == {"size@1": 1}
    assert report["bad_rows"] == [["4", "size@1: its value is not a finite number"]]
    produced = rows(
        tmp_path / "labels.db",
        "SELECT source_author, panel, score, posts FROM production_all WHERE panel = '/length' ORDER BY 1",
    )
    assert produced == [("c_a", "/length", 5.0, 2), ("c_b", "/length", 0.0, 1)]
    assert {row["panel"] for row in app.results.sample(run["id"], 2)} == {"/length", "/female"}


def test_with_first_wins_a_row_without_a_number_goes_to_the_next_model(app, length, table, tmp_path, rules):
    posts = table([("1", "c", "a", None, "2024-01-01"), ("2", "c", "a", "x", "2024-01-02")])
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    everyone = app.models.add("everyone", rules("label,content\nany,a\n"), LOCAL, fields=("author",))[0]
    run = labelled(app, posts, tmp_path / "labels.db", "size", everyone, first_wins=True)
    assert run["state"] == "done", run["error"]
    assert rows(tmp_path / "labels.db", "SELECT id, panel FROM results_all") == [("1", "/any"), ("2", "/length")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_this_name", "cannot be imported .* ModuleNotFoundError: No module named 'nothing"),
        ("1 / 0", "cannot be imported .* ZeroDivisionError"),
        ("Kind = None", "cannot be imported .* TypeError"),
        ("class Kind: name = 'other'", "lacks describe; load; .*parameters, a pydantic model; .*the name 'broken'"),
    ],
)
def test_a_kind_that_cannot_be_used_says_why(app, installed, code, message):
    installed(code, "broken = MODULE:Kind")
    with pytest.raises(AudienceError, match=message):
        app.models.draft("broken", {})


def test_what_a_plug_in_raises_is_told_as_its_fault(app, installed):
    installed(
        plug_in().replace("        return ModelDescription", "        1 / 0\n        return ModelDescription"),
        "length = MODULE:Length",
    )
    with pytest.raises(BadInput, match="model kind 'length' failed: ZeroDivisionError: division by zero"):
        app.models.draft("length", {})


def test_an_answer_that_is_not_what_models_promise_fails_the_run_with_a_reason(app, installed, table, tmp_path):
    installed(
        plug_in()
        .replace("pa.RecordBatch.from_arrays([lengths", "pa.RecordBatch.from_arrays([lengths[1:]")
        .replace("pa.nulls(len(texts)", "pa.nulls(len(texts) - 1"),
        "length = MODULE:Length",
    )
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    run = labelled(app, table([("1", "c", "a", "x", "2024-01-01")]), tmp_path / "labels.db", "size")
    assert run["state"] == "failed"
    assert "the model size@1 answered 1 rows with 0 rows of value: double" in run["error"]


def test_a_model_that_crashes_is_named_in_the_failure_of_the_run(app, installed, table, tmp_path):
    code = plug_in().replace("lengths = ", "raise KeyError('weights')\n        lengths = ")
    installed(code, "length = MODULE:Length")
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    run = labelled(app, table([("1", "c", "a", "x", "2024-01-01")]), tmp_path / "labels.db", "size")
    assert (run["state"], run["error"].partition(": ")[2]) == (
        "failed",
        "the model size@1 failed: KeyError: 'weights'",
    )


def test_a_model_whose_kind_is_not_installed_here_is_listed_and_left_to_others(app, length, monkeypatch):
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-" not in path])
    registry._places.cache_clear()
    assert [record["kind"] for record in app.models.page()] == ["length"]
    assert app.models.fields("size") == ("content",)
    with pytest.raises(Elsewhere, match="'length' is not installed here; installed: rules"):
        app.models.load("size")


def test_a_model_of_a_newer_protocol_is_left_to_others(app, installed, length, monkeypatch):
    app.models.save_draft("size", app.models.draft("length", {}), LOCAL)
    monkeypatch.setattr(registry.kind_of("length"), "protocol", 0, raising=False)
    with pytest.raises(Elsewhere, match=r"size@1 was saved by a newer version .* \(protocol 1; here 0\)"):
        app.models.load("size")


def test_two_packages_with_a_kind_of_one_name_are_refused(app, installed, length):
    installed(plug_in(), "length = MODULE:Length")
    with pytest.raises(Conflict, match="several packages have a model kind 'length'"):
        app.models.draft("length", {})


# references and aliases


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("gender", ModelReference("gender")),
        ("gender@newest", ModelReference("gender")),
        ("gender@12", ModelReference("gender", version=12)),
        ("gender@champion", ModelReference("gender", alias="champion")),
        ("情緒@正式", ModelReference("情緒", alias="正式")),
    ],
)
def test_a_reference_is_read_in_one_way(text, reference):
    assert ModelReference.parse(text) == reference
    assert ModelReference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text", ["", "@", "gender@", "gender@0", "gender@-1", "gender@3a", "gender@a@b", "a b", "gender@３"]
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(BadInput, match=r"refers? to"):
        ModelReference.parse(text)


def test_an_alias_leads_to_a_version_and_its_past_is_known(app, gender, rules):
    app.models.add("gender", rules(RULES + "男性,哥,partially\n"), LOCAL)
    app.models.set_alias("gender", "champion", 1, "ann")
    between = dt.datetime.now(dt.UTC)
    app.models.set_alias("gender", "champion", 1, "bob")  # changes nothing
    app.models.set_alias("gender", "champion", 2, "bob")
    assert app.models.get("gender@champion")["version"] == 2
    assert app.models.get("gender@2")["aliases"] == ["champion"]
    assert [a["version"] for a in app.models.aliases("gender", between)] == [1]
    assert app.models.aliases("gender", between - dt.timedelta(days=1)) == []
    app.models.remove_alias("gender", "champion", "ann")
    history = app.models.alias_history("gender", "champion")
    assert [(row["version"], row["set_by"]) for row in history] == [(1, "ann"), (2, "bob"), (None, "ann")]
    for what in (
        lambda: app.models.get("gender@champion"),
        lambda: app.models.remove_alias("gender", "champion", "ann"),
    ):
        with pytest.raises(NotFound, match="no alias 'champion'"):
            what()
    with pytest.raises(NotFound, match="no gender@7"):
        app.models.set_alias("gender", "champion", 7, "ann")
    for wrong in ("3", "newest", "a b", "3rd"):
        with pytest.raises(BadInput, match="cannot be an alias"):
            app.models.set_alias("gender", wrong, 1, "ann")


def test_a_run_keeps_the_version_that_its_alias_led_to(app, gender, rules, table, tmp_path):
    app.models.add("gender", rules(RULES + "男性,哥,partially\n"), LOCAL)
    app.models.set_alias("gender", "champion", 1, LOCAL)
    run = labelled(app, table([("1", "c", "a", "媽", "2024-01-01")]), tmp_path / "labels.db", "gender@champion")
    app.models.set_alias("gender", "champion", 2, LOCAL)
    assert run["spec"]["models"] == ["gender@1"]
    assert rows(tmp_path / "labels.db", "SELECT model FROM results_all") == [("gender@1",)]
    with pytest.raises(BadInput, match="named twice"):
        labelled(app, tmp_path / "posts.db", tmp_path / "labels.db", "gender@champion", "gender@2")


# deleting and renaming


def test_a_model_is_deleted_unless_runs_used_it_or_an_alias_leads_to_it(app, gender, rules, table, tmp_path):
    app.models.add("gender", rules(RULES + "男性,哥,partially\n"), LOCAL)
    run = labelled(app, table([("1", "c", "a", "媽", "2024-01-01")]), tmp_path / "labels.db", "gender@1")
    for reference in ("gender@1", "gender"):
        with pytest.raises(Conflict, match=f"{reference} cannot be deleted: runs used it .{run['id'][:12]}"):
            app.models.delete(reference, LOCAL)
    with pytest.raises(Conflict, match=f"cannot be renamed: runs used it .{run['id'][:12]}"):
        app.models.rename("gender", "sex", LOCAL)
    app.models.set_alias("gender", "champion", 2, LOCAL)
    with pytest.raises(Conflict, match="gender@2 is champion"):
        app.models.delete("gender@2", LOCAL)
    with pytest.raises(BadInput, match="is an alias"):
        app.models.delete("gender@champion", LOCAL)
    app.models.remove_alias("gender", "champion", LOCAL)
    app.models.delete("gender@2", LOCAL)
    app.runs.delete(run["id"], LOCAL)
    app.operations.work_on(run["id"])
    app.models.delete("gender", LOCAL)
    with pytest.raises(NotFound, match="none yet"):
        app.models.get("gender")


def test_the_number_of_a_deleted_version_is_not_given_again(app, gender, rules):
    app.models.delete("gender", LOCAL)
    assert app.models.add("gender", rules(RULES), LOCAL)[0] == "gender@2"
    app.models.rename("gender", "sex", LOCAL)
    assert app.models.add("gender", rules(RULES), LOCAL)[0] == "gender@3"
    assert app.models.add("sex", rules(RULES + "男性,哥,partially\n"), LOCAL)[0] == "sex@3"
    with pytest.raises(NotFound, match="no version 1; it has 2 to 3"):
        app.models.get("sex@1")


def test_a_model_is_renamed_with_its_versions_and_aliases(app, gender):
    app.models.set_alias("gender", "champion", 1, LOCAL)
    app.models.rename("gender", "sex", LOCAL)
    assert app.models.named("sex@champion") == "sex@1"
    with pytest.raises(NotFound, match="models: sex"):
        app.models.get("gender")
    with pytest.raises(BadInput, match="cannot name a model"):
        app.models.rename("sex", "a/b", LOCAL)


def test_a_blob_goes_with_the_last_version_that_has_it(app, rules):
    large = "label,content\n" + "".join(f"a,keyword{n}\n" for n in range(10_000))
    for name in ("one", "two"):
        app.models.add(name, rules(large), LOCAL)
    digest = app.models.page()[0]["artifacts"]["definition"]
    app.models.delete("one", LOCAL)
    assert app.store.blobs.exists(digest)
    assert len(app.models.get("two")["definition"]["rules"]) == 10_000
    app.models.delete("two", LOCAL)
    assert not app.store.blobs.exists(digest)


# over HTTP


@pytest.fixture
def client(tmp_path):
    app = App(Settings(home=tmp_path / "home"))
    with TestClient(create_api(app), base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


def documented_rules() -> list[object]:
    """Every JSON document of docs/rules.md that is a rules file."""
    blocks = re.findall(r"^```json\n(.*?)^```$", (DOCS / "rules.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [document for document in map(json.loads, blocks) if isinstance(document, dict)]


@pytest.mark.parametrize("document", documented_rules(), ids=lambda document: next(iter(document)))
def test_rules_are_taken_over_http_as_the_docs_show_them(client, document):
    reply = client.post("/v1/models", json={"name": "m", "rules": document})
    assert (reply.status_code, reply.json()["model"]) == (201, "m@1"), reply.text


def test_a_list_of_rules_with_its_settings_beside_is_the_same_model(client):
    document = next(document for document in documented_rules() if "rules" in document)
    settings = {key: value for key, value in document.items() if key != "rules"}
    bodies = [{"rules": document}, {"rules": document["rules"], **settings}]
    replies = [client.post("/v1/models", json={"name": "m", **body}).json() for body in bodies]
    assert [reply["model"] for reply in replies] == ["m@1", "m@1"]


def test_the_documented_csv_is_taken_over_http(client):
    text = (DOCS / "rules.md").read_text("utf-8")
    csv = next(
        block for block in re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "標籤" in block
    )
    assert client.post("/v1/models", json={"name": "m", "csv": csv}).status_code == 201


def test_every_fault_of_rules_is_told_over_http_in_our_words(client):
    rules = [
        {"label": "a"},
        {"label": 3, "any": [{"keyword": "k", "match": "some"}]},
        {"labl": "x"},
        {"label": "a", "any": [{"regex": "("}]},
    ]
    reply = client.post("/v1/models", json={"name": "m", "rules": {"rules": rules, "case": "title"}})
    assert reply.status_code == 422
    faults = {fault["where"]: fault["reason"] for fault in reply.json()["errors"]}
    assert list(faults) == [
        "rules.0",
        "rules.1.label",
        "rules.1.any.0.match",
        "rules.2.label",
        "rules.2.labl",
        "rules.3",
        "rules.case",
    ]
    assert faults["rules.1.label"] == "should be a text"
    assert "unterminated" in faults["rules.3"]
    for wrong in ({}, {"rules": [], "csv": ""}, {"rules": [], "kind": "length"}, {"parameters": {}, "case": "lower"}):
        assert client.post("/v1/models", json={"name": "m", **wrong}).status_code == 422, wrong


def test_models_are_listed_by_pages_and_by_the_beginning_of_their_names(client):
    for name in ("情緒", "mood", "moody", "other"):
        for word in "ab":
            client.post("/v1/models", json={"name": name, "rules": [{"label": "a", "any": [word]}]})
    found, cursor = [], None
    while True:
        page = client.get("/v1/models", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        found += [f"{item['name']}@{item['version']}" for item in page["items"]]
        if not (cursor := page["next_cursor"]):
            break
    assert found == [f"{name}@{n}" for name in ("mood", "moody", "other", "情緒") for n in (1, 2)]
    assert {item["name"] for item in client.get("/v1/models?name=moo").json()["items"]} == {"mood", "moody"}
    assert client.get("/v1/models?name=%25").json()["items"] == []
    for wrong in ("nonsense", "WyJhIl0=", "WyJhIiwgImIiXQ=="):
        assert client.get(f"/v1/models?cursor={wrong}").status_code == 422


def test_aliases_are_set_shown_and_removed_over_http(client):
    client.post("/v1/models", json={"name": "m", "rules": [{"label": "a", "any": ["x"]}]})
    assert client.put("/v1/models/m/aliases/champion", json={"version": 1}).json()["model"] == "m@1"
    assert client.get("/v1/models/m@champion").json()["aliases"] == ["champion"]
    assert client.post("/v1/models/m@champion/try", json={"text": "x"}).json()["labels"] == [
        {"label": "a", "score": 1.0}
    ]
    assert [a["alias"] for a in client.get("/v1/models/m/aliases").json()["items"]] == ["champion"]
    assert client.get("/v1/models/m/aliases?at=2020-01-01T00:00:00Z").json()["items"] == []
    assert client.get("/v1/models/m/aliases?at=2020-01-01T00:00:00").status_code == 422
    assert client.delete("/v1/models/m@1").status_code == 409
    assert client.delete("/v1/models/m/aliases/champion").status_code == 204
    assert [c["version"] for c in client.get("/v1/models/m/aliases/champion").json()["items"]] == [1, None]
    for method, path in (
        ("PUT", "m/aliases/x"),
        ("DELETE", "m/aliases/x"),
        ("GET", "m/aliases/x"),
        ("GET", "n/aliases"),
    ):
        assert client.request(method, f"/v1/models/{path}", json={"version": 5}).status_code == 404
    assert client.put("/v1/models/m/aliases/7", json={"version": 1}).status_code == 422
    assert client.post("/v1/models/m/rename", json={"name": "n"}).json()["name"] == "n"
    assert client.delete("/v1/models/n").status_code == 204
    assert client.get("/v1/models/n").status_code == 404
