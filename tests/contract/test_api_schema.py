"""The API is what its description says: no answer outside it, no 5xx, whatever is asked."""

import zlib
from pathlib import Path

import pytest
import schemathesis
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

EXAMPLES = 40
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory):
    """An API with something in it: a source, a model, a run that is done, its id in the examples."""
    folder = tmp_path_factory.mktemp("api")
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
    known = {"run_id": run, "operation_id": export, "name": "posts", "model": "rules"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_api(app))

    @schema.hook
    def map_path_parameters(context, path_parameters):  # half of the requests meet something that is there
        if path_parameters and zlib.crc32(str(path_parameters).encode()) % 2:
            return {name: known.get(name, value) for name, value in path_parameters.items()}
        return path_parameters

    return schema


def statuses(operation: schemathesis.APIOperation) -> set[int]:
    """What an operation answered to requests of every kind, right and wrong; each answer is checked."""
    seen = set()
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(operation.as_strategy(), wrong))
    def check(case: schemathesis.Case) -> None:
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    check()
    return seen


def test_no_answer_is_outside_the_description(api_schema):
    found = [item.ok() for item in api_schema.exclude(path_regex="/events$").get_all_operations()]
    seen = {operation.label: statuses(operation) for operation in found}
    assert len(seen) > 20
    answered = ("/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/sample", "/v1/models/{model}", "/v1/operations")
    for path in (*answered, "/v1/operations/{operation_id}", "/v1/operations/{operation_id}/file"):
        assert 200 in seen[f"GET {path}"], path
