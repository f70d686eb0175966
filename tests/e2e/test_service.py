"""Audience as a service: `audience up` with its API and workers, asked over HTTP, killed and started again."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from audience.store.engines import open_engine
from audience.store.migrate import LATEST, revision_of

CSV = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
WAIT_S = 60


class Service:
    """`audience up` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def start(self, *arguments: str) -> None:
        """Until it answers and its workers are there."""
        settings = {
            "AUDIENCE_HOME": self.folder / "home",
            "AUDIENCE_FILES_ROOTS": self.files,
            "AUDIENCE_PARTITION_ROWS": 1000,
            "AUDIENCE_LEASE_S": 2,
            "AUDIENCE_STOP_S": 1,
        }
        environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
        command = [sys.executable, "-m", "audience", "up", "--port", str(self.port), "--threads", "1", *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.wait_until(lambda: len(self.workers()) == 2)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def workers(self) -> list[int]:
        """Their pids, as the API tells them."""
        try:
            return [int(w["name"].rpartition(":")[2]) for w in self.http.get("/v1/workers").json()["items"]]
        except httpx2.TransportError:
            return []

    def children(self) -> dict[str, int]:
        """What `up` started, by what each is."""
        assert self.process is not None
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        named = {}
        for n, pid in enumerate(pids):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            named["api" if b"api" in words else f"worker {n}"] = int(pid)
        return named

    def wait_until(self, condition: Any, poll_s: float = 0.1) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(poll_s)
        return found

    def posted(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.http.post(path, json=body)
        assert reply.is_success, reply.text
        return reply.json()

    def label(self, target: str = "labels.db", **more: Any) -> str:
        """Asks for a run; where it is."""
        body = {"sources": [{"source": {"url": "posts.db"}}], "models": ["gender"], "target": target, **more}
        return str(self.posted("/v1/runs", body)["href"])

    def run(self, href: str) -> dict[str, Any] | None:
        try:
            return self.http.get(href).json()
        except httpx2.TransportError:
            return None

    def done(self, href: str) -> dict[str, Any]:
        return self.wait_until(lambda: (run := self.run(href)) and run["state"] == "done" and run)

    def fingerprint(self, href: str) -> str:
        digest = hashlib.sha256()
        for of in ("results", "production"):
            digest.update(self.http.get(f"{href}/export", params={"of": of, "comparable": True}).content)
        return digest.hexdigest()


@pytest.fixture
def service(tmp_path: Path, table: Any) -> Iterator[Service]:
    service = Service(tmp_path)
    rows = [(f"p{i}", "c1", f"{'媽爸x'[i % 3]}{i % 911}", "buy", "2024-01-01") for i in range(40_000)]
    table(rows, "files/posts.db")
    service.start()
    service.posted("/v1/models", {"name": "gender", "csv": CSV, "fields": ["author"]})
    yield service
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        service.stop(signal.SIGKILL)
    service.http.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_survives_its_workers_the_api_and_everything(service: Service) -> None:
    undisturbed = service.fingerprint(service.done(service.label("a.db"))["href"])
    href = service.label("b.db")
    service.wait_until(lambda: service.run(href)["tasks"][0]["progress"]["partitions_done"] > 2)
    for name, pid in service.children().items():
        if name != "api":
            os.kill(pid, signal.SIGKILL)
    os.kill(service.children()["api"], signal.SIGKILL)
    service.wait_until(lambda: len(service.workers()) == 2 and service.children().get("api"))
    everything = service.children().values()
    service.stop(signal.SIGKILL)
    service.wait_until(lambda: not any(map(alive, everything)))
    service.start()
    assert service.fingerprint(service.done(href)["href"]) == undisturbed


def test_who_watches_a_run_misses_nothing_when_the_api_dies(service: Service) -> None:
    href = service.label(production_delay_s=2)
    last, moves = None, []
    for killed in (False, True, True):
        headers = {"Last-Event-ID": last} if last else {}
        with (
            contextlib.suppress(httpx2.TransportError),
            service.http.stream("GET", f"{href}/events", headers=headers) as reply,
        ):
            for line in reply.iter_lines():
                if line.startswith("data: ") and '"subject"' in line:
                    moves.append(json.loads(line[6:]))
                elif line.startswith("id: "):
                    last = line[4:]
                if not killed and len(moves) >= 2 and last:
                    os.kill(service.children()["api"], signal.SIGKILL)
                    killed = True
        service.wait_until(lambda: service.run(href))
    told = [(move["kind"], move["state"]) for move in moves]
    expected = ["add", "running", "producing", "done"]
    assert [state for kind, state in told if kind == "run"] == expected
    assert [state for kind, state in told if kind == "task"] == expected[1:]


def test_up_ends_in_good_order_and_leaves_its_work_to_the_next(service: Service) -> None:
    href = service.label()
    service.wait_until(lambda: service.run(href)["tasks"][0]["progress"]["partitions_done"] > 0)
    children = service.children().values()
    assert service.stop(signal.SIGINT) == 0
    assert not any(map(alive, children))
    service.start()
    assert service.done(href)["tasks"][0]["statistics"]["read"] == 40_000


def test_up_migrates_the_records_and_the_others_do_not(service: Service, tmp_path: Path) -> None:
    service.stop()
    home = tmp_path / "home"
    with contextlib.closing(sqlite3.connect(home / "audience.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '0001'")
    environment = {**os.environ, "AUDIENCE_HOME": str(home)}
    for command in ("worker", "api"):
        arguments = [sys.executable, "-m", "audience", command]
        refused = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert (refused.returncode, "audience migrate" in refused.stderr) == (1, True)
    assert revision_of(open_engine(f"sqlite:///{home / 'audience.db'}")) == "0001" != LATEST


def test_a_taken_port_is_told(service: Service, tmp_path: Path) -> None:
    environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home")}
    for command in ("api", "up"):
        arguments = [sys.executable, "-m", "audience", command, "--port", str(service.port)]
        second = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert "in use" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_hundred_runs_at_once_all_finish(service: Service, table: Any) -> None:
    table([(f"p{i}", "c1", f"媽{i}", "buy", "2024-01-01") for i in range(2000)], "files/small.db")
    sources = [{"source": {"url": "small.db"}}]
    hrefs = [service.label(f"labels{n % 4}", sources=sources) for n in range(100)]
    for href in hrefs:
        service.done(href)
    finished = [service.run(href)["finished_at"] for href in hrefs]
    first_half = sum(place < 50 for place, _ in sorted(enumerate(finished), key=lambda pair: pair[1])[:50])
    assert first_half >= 40  # they share the workers in turn: who came first is done first, about


def test_gunicorn_serves_the_api_in_several_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "-k", "asgi", "-w", "2", "-b", address, "--no-control-socket"]
    server = subprocess.Popen(
        [*command, "audience.api.server:application()"], env={**os.environ, "AUDIENCE_HOME": str(tmp_path)}
    )
    try:
        with httpx2.Client(base_url=f"http://{address}", trust_env=False) as http:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    assert http.get("/ready").json()["store"] == "ok"
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert http.get("/v1/runs").json()["items"] == []
    finally:
        server.terminate()
        assert server.wait(20) == 0
