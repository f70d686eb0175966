"""The API is what its description says: no answer outside it, no 5xx, whatever is asked."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from audience.api import origins
from audience.api.server import create_api
from audience.app.actors import LOCAL
from audience.app.requests import (
    ExportRequest,
    PublicationRequest,
    PublishRequest,
    RunRequest,
    SourceRequest,
    TaskRequest,
)
from audience.app.root import App
from audience.settings import Settings
from audience.store import schema

EXAMPLES = 40
OF_REFUSED = 10
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


CHANGING = ("POST", "PUT", "PATCH", "DELETE")
ASCII = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
ORIGINS = st.one_of(
    st.sampled_from(["null", "http://evil.example", "http://[x", "http://testserver.evil.example"]), ASCII
)
SITES = st.one_of(st.sampled_from(["cross-site", "same-site"]), ASCII.filter(lambda said: said not in origins.OURS))
REFUSED = {
    403: st.one_of(st.builds(dict, Origin=ORIGINS), st.builds(lambda said: {"Sec-Fetch-Site": said}, SITES)),
    415: st.sampled_from([{"Content-Type": kind} for kind in (*origins.SIMPLE_TYPES, "Text/Plain; charset=utf-8")]),
}
"""Status -> headers of requests that a page of another origin could make a browser send."""
TYPES = ("application/xml", "application/octet-stream", "application/jsonx", "image/png", "json", "/", ";")
"""Of bodies that no route reads, and that no page can send without asking first."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory):
    """An app with something in it, and what that is called."""
    return filled(tmp_path_factory.mktemp("api"))


def filled(folder: Path) -> tuple[App, dict[str, str]]:
    """An app with a source, a model, a run that is done, a publication and an export, and the names of these."""
    files = folder / "files"
    files.mkdir()
    (files / "posts.csv").write_text("id,author,content\n1,a,x\n2,b,y\n")
    app = App(Settings(home=folder / "home", files_roots=(files,), allowed_hosts=("*",)))
    app.sources.add("posts", SourceRequest(location=str(files / "posts.csv")), LOCAL)
    tasks = (TaskRequest(source=SourceRequest(saved="posts")),)
    rules = folder / "rules.csv"
    rules.write_text("label,content\na,x\n")
    model, _ = app.models.add("rules", Path(rules), LOCAL)
    for target in ("labels.db", "labels"):
        run = app.runs.create(RunRequest(tasks=tasks, models=(model,), target=str(files / target)), LOCAL)["id"]
        app.operations.work_on(run)
    app.publications.add(PublicationRequest(name="posts", target=str(files / "published.db")), LOCAL)
    app.operations.work_on(app.publications.publish("posts", PublishRequest(runs=(run,)), LOCAL))
    export = app.exports.begin(ExportRequest(run=run), LOCAL)
    app.operations.work_on(export)
    return app, {"run_id": run, "operation_id": export, "name": "posts", "model": "rules"}


@pytest.fixture(scope="module")
def api_schema(api):
    """What the API says of itself."""
    app, known = api
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_api(app))

    @schema.hook
    def map_path_parameters(context, path_parameters):  # half of the requests meet something that is there
        if path_parameters and zlib.crc32(str(path_parameters).encode()) % 2:
            return {name: known.get(name, value) for name, value in path_parameters.items()}
        return path_parameters

    return schema


def asked(check: Callable[..., None], *strategies: st.SearchStrategy, n: int = EXAMPLES) -> None:
    """Calls a check with what strategies give, the same each time."""
    these = settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    these(given(*strategies)(check))()


def statuses(operation: schemathesis.APIOperation) -> set[int]:
    """What an operation answered to requests of every kind, right and wrong; each answer is checked."""
    seen = set()
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    def check(case: schemathesis.Case) -> None:
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    asked(check, st.one_of(operation.as_strategy(), wrong))
    return seen


def test_no_answer_is_outside_the_description(api_schema):
    found = [item.ok() for item in api_schema.exclude(path_regex="/events$").get_all_operations()]
    seen = {operation.label: statuses(operation) for operation in found}
    assert len(seen) > 20
    answered = ("/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/sample", "/v1/models/{model}", "/v1/operations")
    for path in (*answered, "/v1/operations/{operation_id}", "/v1/operations/{operation_id}/file"):
        assert 200 in seen[f"GET {path}"], path


@pytest.mark.parametrize("status", REFUSED)
def test_no_page_of_another_origin_changes_anything_by_any_route(api, api_schema, status):
    app, _ = api
    before = everything(app)
    operations = [found for item in api_schema.get_all_operations() if (found := item.ok()).method.upper() in CHANGING]
    for operation in operations:

        def check(case: schemathesis.Case, headers: dict[str, str]) -> None:
            assert case.call(headers=headers).status_code == status, headers

        asked(check, operation.as_strategy(), REFUSED[status], n=OF_REFUSED)
    assert len(operations) > 20
    assert everything(app) == before


def test_a_body_that_is_not_said_to_be_json_changes_nothing(api, api_schema):
    app, _ = api
    before = everything(app)
    reading = [found for item in api_schema.get_all_operations() if len((found := item.ok()).body)]
    for operation in reading:

        def check(case: schemathesis.Case, kind: str) -> None:
            assert 400 <= case.call(headers={"Content-Type": kind}).status_code < 500, kind

        asked(check, operation.as_strategy(), st.sampled_from(TYPES), n=OF_REFUSED)
    assert len(reading) > 10
    assert everything(app) == before


def everything(app: App) -> tuple[int, int]:
    """Grows with whatever is done: the audit, and jobs."""
    return len(app.store.database.rows(sa.select(schema.audit.c.id))), sum(app.store.jobs.counts().values())
