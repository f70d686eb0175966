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
from audience.app import LOCAL, App
from audience.labeling.plan import RunSpec, TaskSpec
from audience.labeling.publish import PublicationSpec
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
    spec = app.sources.new(str(files / "posts.csv"))
    app.sources.add("posts", spec, LOCAL)
    rules = folder / "rules.csv"
    rules.write_text("label,content\na,x\n")
    model, _ = app.models.add("rules", Path(rules), LOCAL)
    for target in ("labels.db", "labels"):
        run = app.runs.create(
            [TaskSpec(name="posts", source=spec)], RunSpec(models=(model,), target=str(files / target)), LOCAL
        )
        app.work_on(run)
    app.publications.add("posts", PublicationSpec(target=str(files / "published.db")), LOCAL)
    app.publications.carry_out(app.publications.begin("posts", [run], LOCAL))
    known = {"run_id": run, "name": "posts", "model": "rules"}
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
    for label in ("GET /v1/runs", "GET /v1/runs/{run_id}", "GET /v1/runs/{run_id}/sample", "GET /v1/models/{model}"):
        assert 200 in seen[label], label
