"""Which requests may change something, by where a browser says they come from; HEAD, and what a path answers to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from audience.api.server import create_api
from audience.app.root import App
from audience.settings import Settings

HERE = "http://127.0.0.1:8000"
UNKNOWN = f"/v1/runs/{'0' * 32}/abort"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_api(App(Settings(home=tmp_path))), base_url=HERE) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[x"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://127.0.0.1:8000.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", UNKNOWN), ("DELETE", "/v1/sources/x"), ("PUT", "/v1/groups/x")])
def test_a_page_of_another_origin_changes_nothing(client, headers, method, path):
    answer = client.request(method, path, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert "another origin" in answer.json()["detail"]


OURS = [{}, {"Origin": HERE}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]


@pytest.mark.parametrize("headers", OURS)
def test_programs_and_our_own_pages_are_let_through(client, headers):
    assert client.post(UNKNOWN, headers=headers).status_code == 404


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_only_a_form_sends_is_not_read(client, kind):
    answer = client.post("/v1/models", content=b'{"name": "m"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


def test_reading_is_free_for_all_origins(client):
    assert client.get("/v1/runs", headers={"Origin": "http://evil.example"}).status_code == 200


def test_head_is_answered_as_get_without_its_body(client):
    got, head = client.get("/v1/runs"), client.head("/v1/runs")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert client.head("/v1/sources/nope").status_code == 404


def test_a_path_says_everything_that_it_answers_to(client):
    answer = client.patch("/v1/runs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert client.get(UNKNOWN).headers["allow"] == "POST"
