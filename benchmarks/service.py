"""How quickly the API answers while workers are busy: `GET /v1/runs/{id}` idle, and with 100 runs queued at once.

python benchmarks/service.py [--runs N] [--no-write]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import DATA, write

ROWS = 20_000
IDLE_REQUESTS = 1000
RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"


def make_posts(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE posts (id, s_id, author, content, post_time)")
        rows = ((f"p{i}", "c1", f"{'媽爸x'[i % 3]}{i % 911}", "buy " * 20, "2024-01-01") for i in range(ROWS))
        db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?)", rows)


@contextlib.contextmanager
def service(folder: Path) -> Iterator[str]:
    """`audience up` with two workers; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "AUDIENCE_HOME": str(folder / "home"), "AUDIENCE_FILES_ROOTS": str(folder)}
    command = [sys.executable, "-m", "audience", "up", "--port", str(port), "--workers", "2"]
    with (folder / "up.log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            while True:
                with contextlib.suppress(OSError):
                    if asked(f"{address}/ready")["workers"] == 2:
                        break
                time.sleep(0.2)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)


def asked(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


def timed(url: str) -> tuple[float, dict[str, Any]]:
    """Milliseconds of one request, and what it was answered."""
    began = time.perf_counter()
    found = asked(url)
    return 1000 * (time.perf_counter() - began), found


def row(what: str, taken: list[float]) -> str:
    centiles = statistics.quantiles(taken, n=100)
    numbers = (statistics.median(taken), centiles[94], centiles[98], max(taken))
    return f"| {what} | {len(taken):,} | " + " | ".join(f"{n:,.1f}" for n in numbers) + " |"


def measure(n_runs: int) -> list[str]:
    folder = DATA / "service"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_posts(folder / "posts.db")
    with service(folder) as address:
        asked(f"{address}/v1/models", {"name": "gender", "csv": RULES, "fields": ["author"]})
        body = {"sources": [{"source": {"url": "posts.db"}}], "models": ["gender"], "target": "labels"}
        first = asked(f"{address}/v1/runs", body)["href"]
        while timed(address + first)[1]["state"] != "done":
            time.sleep(0.2)
        idle = [timed(address + first)[0] for _ in range(IDLE_REQUESTS)]
        began = time.perf_counter()
        hrefs = [asked(f"{address}/v1/runs", {**body, "target": f"labels{n % 4}"})["href"] for n in range(n_runs)]
        busy, waiting = [], list(hrefs)
        while waiting:
            for href in list(waiting):
                taken, run = timed(address + href)
                busy.append(taken)
                if run["state"] == "done":
                    waiting.remove(href)
                elif run["state"] == "failed":
                    sys.exit(run["error"])
        seconds = time.perf_counter() - began
    return [
        "| `GET /v1/runs/{id}`, ms | requests | median | p95 | p99 | max |",
        "|---|--:|--:|--:|--:|--:|",
        row("idle", idle),
        row(f"{n_runs} runs of {ROWS:,} rows on two workers, all done in {seconds:,.0f} s", busy),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    given = parser.parse_args()
    lines = measure(given.runs)
    print("\n".join(lines))
    if not given.no_write:
        write(lines, "service")


if __name__ == "__main__":
    main()
