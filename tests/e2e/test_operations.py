"""Operations as a user of the shell meets them: real programs, stopped by Ctrl-C, cancelled from beside, killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faults import wait_until

RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
LABEL = ("label", "posts.db", "--rules", "author=gender.csv", "--target", "labels.db")
Program = Callable[..., str]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    ours = {"AUDIENCE_HOME": str(tmp_path / "home"), "AUDIENCE_LEASE_S": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    return {**os.environ, **ours}


@pytest.fixture
def audience(tmp_path: Path, environment: dict[str, str]) -> Program:
    """Runs the program in a folder of its own; what it prints."""

    def run(*arguments: object, status: int = 0) -> str:
        command = [sys.executable, "-m", "audience", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    return run


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program and does not wait for it."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "audience", *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def posts(table, rules):
    rules(RULES)
    return table([(f"p{i}", "c1", f"{'媽爸x'[i % 3]}{i}", "buy", "2024-01-01") for i in range(3_000)])


def newest(audience: Program, *options: str) -> dict:
    return json.loads(audience("operation", "list", "--json", "--limit", "1", *options))[0]


def test_operations_are_listed_shown_waited_for_and_cancelled(audience, posts):
    audience(*LABEL)
    waiting = json.loads(audience(*LABEL, "--detach", "--json"))["id"]
    told = audience("operation", "list")
    assert [word for word in ("run", "done", "planned") if word not in told] == []
    assert json.loads(audience("operation", "list", "--kind", "export", "--json")) == []
    [planned] = json.loads(audience("operation", "list", "--state", "planned", "--json"))
    assert planned["id"] == waiting
    assert "planned" in audience("operation", "show", waiting[:12])
    assert json.loads(audience("operation", "show", "last", "--json"))["id"] == waiting
    found = json.loads(audience("operation", "wait", waiting, "--json"))
    assert (found["state"], found["progress"]["done"]) == ("done", 3_000)
    assert "is done" in audience("operation", "cancel", waiting, status=1)
    again = json.loads(audience(*LABEL, "--detach", "--json"))["id"]
    assert "aborted" in audience("operation", "cancel", again)
    assert "aborted" in audience("operation", "wait", again, status=1)
    assert "no operation 'zzz'" in audience("operation", "show", "zzz", status=1)


def test_an_export_to_a_file_is_an_operation(audience, posts, tmp_path):
    audience(*LABEL)
    assert "2,000 rows in out.parquet" in audience("export", "--to", "out.parquet")
    found = newest(audience, "--kind", "export")
    assert (found["state"], found["queue"].startswith("local-")) == ("done", True)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2_000


def test_of_two_exports_to_one_file_at_once_it_is_one_of_both_and_whole(audience, start, posts, tmp_path):
    audience(*LABEL)
    runs = [json.loads(audience("run", "show", "last", "--json"))["id"]]
    (tmp_path / "gender.csv").write_text("label,content,match_type\n女性,媽,partially\n", encoding="utf-8")
    audience(*LABEL)
    runs.append(json.loads(audience("run", "show", "last", "--json"))["id"])
    assert runs[0] != runs[1]
    wholes = set()
    for run in runs:
        audience("export", run, "--to", "one.jsonl")
        wholes.add((tmp_path / "one.jsonl").read_bytes())
    assert [len(whole.splitlines()) for whole in sorted(wholes, key=len)] == [1_000, 2_000]
    both = [start("export", run, "--to", "both.jsonl") for run in runs for _ in range(2)]
    for process in both:
        told = process.communicate(timeout=120)[0]
        assert process.returncode == 0, told
        assert (tmp_path / "both.jsonl").read_bytes() in wholes
    assert sorted(path.name for path in tmp_path.glob("*both*")) == ["both.jsonl"]


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"mysql://ann:geheim@127.0.0.1:{listener.getsockname()[1]}/posts"


def children(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    others = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return sorted({int(pid) for text in (found.read_text(), *others) for pid in text.split()})


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_the_test_of_a_server_that_never_answers_within_seconds(audience, start, silent):
    process = start("source", "test", silent, "--table", "posts")
    tested = wait_until(lambda: children(process), "it is tested in a process of its own")
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert time.monotonic() - began < 15
    assert process.returncode != 0
    assert "geheim" not in told
    assert "Traceback" not in told
    assert not [pid for pid in tested if is_alive(pid)]
    assert newest(audience)["state"] == "aborted"


def test_a_test_that_is_cancelled_from_beside_ends_where_it_is_carried_out(audience, start, silent):
    process = start("source", "test", silent, "--table", "posts")
    tested = wait_until(lambda: children(process), "it is tested in a process of its own")
    assert "aborted" in audience("operation", "cancel", "last")
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not [pid for pid in tested if is_alive(pid)]


def test_the_process_of_a_test_does_not_outlive_the_program_that_is_killed(start, silent):
    process = start("source", "test", silent, "--table", "posts")
    tested = wait_until(lambda: children(process), "it is tested in a process of its own")
    time.sleep(1)
    process.kill()
    process.communicate()
    wait_until(lambda: not [pid for pid in tested if is_alive(pid)], "it has ended too")


def test_whoever_waits_goes_on_with_what_a_killed_program_had_begun(audience, start, posts, tmp_path):
    audience(*LABEL)
    process = start("publish", "moods", "--run", "last", "--target", "moods.db", "--yes")
    wait_until(lambda: (tmp_path / "moods.db").exists() or process.poll() is not None, "it has begun")
    process.kill()
    process.communicate()
    found = json.loads(audience("operation", "list", "--kind", "publication", "--json"))[0]
    if found["state"] != "done":
        assert json.loads(audience("operation", "wait", found["id"], "--json"))["state"] == "done"
    shown = json.loads(audience("publication", "show", "moods", "--json"))
    assert (shown["version"], shown["doing"]) == (1, None)


def test_ctrl_c_cancels_what_is_published_and_frees_the_publication(audience, start, posts, tmp_path):
    audience(*LABEL)
    process = start("publish", "moods", "--run", "last", "--target", "moods", "--yes")
    wait_until(lambda: (tmp_path / "moods").exists() or process.poll() is not None, "it has begun")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert "Traceback" not in told
    state = newest(audience, "--kind", "publication")["state"]
    assert (state, process.returncode == 0) in (("aborted", False), ("done", True))
    audience("publish", "moods", "--run", "last", "--target", "moods", "--yes")
    assert json.loads(audience("publication", "show", "moods", "--json"))["version"] >= 1
