"""The service of deploy/compose.yaml, natively: the same processes with the same settings, disturbed and used."""

import hashlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from faults import make_posts, wait_until
from native import Stack
from server_faults import fill, installed

from audience.tables.mysql.server import MysqlServer

ROWS = 20_000
SMALL = {"AUDIENCE_PARTITION_ROWS": "400", "AUDIENCE_LEASE_S": "2", "AUDIENCE_RETRY_S": "0.1"}
RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"


class Service:
    """The stack, and what one does with it in a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = Stack(folder / "stack")
        for process in (self.stack.api, *self.stack.workers):
            process.environment |= SMALL
        (folder / "gender.csv").write_text(RULES, "utf-8")

    def audience(self, *arguments: str) -> bytes:
        command = [sys.executable, "-m", "audience", *arguments]
        done = subprocess.run(
            command, env=self.stack.environment, cwd=self.folder, capture_output=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def label(self) -> str:
        """A run from table to table that is left to the workers; its id."""
        source = f"mysql://root@127.0.0.1:{self.stack.mariadb.port}/posts"
        rules = ("--rules", "author=gender.csv")
        return str(json.loads(self.audience("label", source, "--table", "posts", *rules, "--detach", "--json"))["id"])

    def run(self, run: str) -> dict:
        return httpx2.get(f"http://127.0.0.1:{self.stack.port}/v1/runs/{run}", trust_env=False).json()

    def wait_for_partitions(self, run: str, n: int) -> None:
        wait_until(lambda: self.run(run)["tasks"][0]["progress"]["partitions_done"] >= n, f"{n} partitions are done")

    def digest(self, run: str) -> str:
        """Of its results, once it is done."""
        wait_until(lambda: self.run(run)["state"] in ("done", "failed"), "the run ends", 120)
        assert self.run(run)["state"] == "done"
        return hashlib.sha256(self.audience("export", run, "--sort")).hexdigest()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    installed("mariadbd", "redis-server")
    service = Service(tmp_path)
    try:
        service.stack.start()
        with sqlite3.connect(make_posts(tmp_path / "posts.db", ROWS)) as db:
            fill(service.stack.mariadb, db.execute("SELECT * FROM posts"))
        db.close()
        yield service
    finally:
        service.stack.kill()


def test_a_stranger_labels_kills_things_and_gets_the_same_answer(service: Service) -> None:
    stack = service.stack
    undisturbed = service.digest(service.label())
    run = service.label()
    for n, victim in ((3, stack.workers[0]), (10, stack.redis), (20, stack.mariadb), (30, stack.api)):
        service.wait_for_partitions(run, n)
        victim.kill()
        time.sleep(0.3)
        victim.start()
        wait_until(stack.is_ready, "the API answers")
    assert service.digest(run) == undisturbed
    assert b"wrong" not in service.audience("doctor")
    homes = {process.environment["AUDIENCE_HOME"] for process in stack.workers}
    assert len(homes) == len(stack.workers) == 2
    with MysqlServer.at(stack.mariadb.url("labels")).session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) > 0 FROM production_all")
        assert cursor.fetchone() == (1,)
