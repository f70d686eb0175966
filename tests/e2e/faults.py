"""An installation to be disturbed: a source, a target, records of its own, and worker processes that can be killed, put
to sleep and woken. What a run leaves behind is compared with what an undisturbed one does."""

import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import NotFound
from audience.labeling.export import encoded
from audience.labeling.groups import GroupMap
from audience.labeling.plan import RunSpec
from audience.labeling.statistics import PartitionStatistics
from audience.settings import Settings
from audience.store.states import FINAL

KINDS = ("labels.db", "labels")
PARTITION_ROWS = 400
LEASE_S = 1.0
WAIT_S = 60.0
POLL_S = 0.02
LOCKED_S = 7.0
"""How long a worker may sleep: it may hold the write lock of a SQLite target, and the others wait for that."""
NAMES = ("媽", "爸", "貓", "媽爸", "路人", "")
RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
NUMBERS = ("planned", "read", "missing", "outside", "received", "set_aside", "bad_rows", "unmapped", "groups")
CHANNELS = GroupMap.checked({"c1": "forum", "c2": "fans"}, None)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S, poll_s: float = POLL_S) -> Any:
    """What the condition finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain: {what}"
        time.sleep(poll_s)
    return found


def missing(reason: str) -> None:
    """Skips a test that this machine cannot do; CI can do all."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextlib.contextmanager
def mounted_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", folder], check=False)
    if mounted.returncode:
        missing("a small disk cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill_up(ballast: Path) -> None:
    """Takes what is left of the disk."""
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def make_posts(path: Path, n_rows: int, seed: int = 0) -> Path:
    """Posts of two channels; authors contradict themselves, some rows have no id, no author, or no time."""
    chosen = random.Random(seed)

    def post(i: int) -> tuple[str | None, ...]:
        author = f"{chosen.choice(NAMES)}{chosen.randrange(n_rows // 8)}" if i % 97 else None
        at = f"2024-01-{1 + i % 28:02d} {i % 24:02d}:00:00" if i % 1999 else "soon"
        content = chosen.choice(NAMES) * chosen.randrange(3)
        return (f"p{i}" if i % 4999 else None, chosen.choice(("c1", "c2")), author, content, at)

    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE posts (id, s_id, author, content, post_time)")
        db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?)", map(post, range(n_rows)))
    return path


@dataclass(frozen=True)
class Fingerprint:
    """What must be the same however a run was disturbed."""

    state: str
    results: str
    production: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Posts:
    """A source, and what comes of it when nothing goes wrong."""

    path: Path
    undisturbed: Fingerprint | None = None


class Installation:
    """One home, one source, one target, and the workers that were started."""

    def __init__(self, folder: Path, posts: Posts, kind: str, rules: str = RULES, **more: Any) -> None:
        """`more`: settings."""
        self.folder = folder
        self.posts = posts
        self.source = posts.path
        self.target = folder / kind
        self.set = {"home": folder / "home", "partition_rows": PARTITION_ROWS, "lease_s": LEASE_S, "retry_s": 0.1}
        self.set |= more
        self.app = App(Settings(**self.set, threads=1))
        self.workers: list[subprocess.Popen[bytes]] = []
        path = folder / "gender.csv"
        path.write_text(rules, "utf-8")
        self.model = self.app.models.add("gender", path, LOCAL, fields=("author", "content"))[0]

    # runs

    def label(self, source: Path | None = None, delay_s: float = 0.0) -> str:
        """A run that is left to the workers, as `audience label --detach` makes one; its id."""
        task = TaskRequest(name="posts", source=SourceRequest(reference=str(source or self.source)))
        request = RunRequest(
            tasks=(task,),
            models=(self.model,),
            target=str(self.target),
            groups=CHANNELS,
            partition_rows=PARTITION_ROWS,
            production_delay_s=delay_s,
        )
        return str(self.app.runs.create(request, LOCAL)["id"])

    def state(self, run: str) -> str:
        try:
            return str(self.app.store.runs.show(run)["state"])
        except NotFound:
            return "gone"

    def task(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.app.runs.get(run)["tasks"][0]
        return found

    def n_done(self, run: str) -> int:
        return int(self.task(run)["progress"]["partitions_done"])

    def jobs(self, run: str, kind: str, state: str) -> list[dict[str, Any]]:
        return [j for j in self.app.store.operations.jobs(run) if (j["kind"], j["state"]) == (kind, state)]

    def wait_for(self, run: str, *states: str, timeout_s: float = WAIT_S) -> None:
        """Until the run is in one of these states, and nobody works on it if such a state is an end."""

        def reached() -> bool:
            state = self.state(run)
            return state in states and not (state in FINAL and self.app.store.jobs.is_open(run))

        wait_until(reached, f"run becomes {states}", timeout_s)

    def wait_for_partitions(self, run: str, n: int) -> None:
        wait_until(lambda: self.n_done(run) >= n, f"{n} partitions are done")

    def kept(self, run: str) -> dict[int, str]:
        """partition -> its mark in the target, which tells how long it took: written again, it differs."""
        task = self.task(run)
        target = self.app.locations.target(RunSpec.model_validate(self.app.runs.get(run)["spec"]))
        marks = target.marks(task["id"], authors=False) if task["may_have_rows"] else ()
        return {mark.partition: mark.statistics for mark in marks}

    def n_read(self, run: str) -> int:
        """Rows of the partitions that are in the target."""
        return sum(PartitionStatistics.from_json(text).read for text in self.kept(run).values())

    def fingerprint(self, run: str) -> Fingerprint:
        report = self.task(run)["report"]
        numbers = {name: report[name] for name in NUMBERS}
        return Fingerprint(self.state(run), self.digest(run), self.digest(run, production=True), numbers)

    def digest(self, run: str, *, production: bool = False) -> str:
        """SHA-256 of what `audience export --sort` prints."""
        rows = self.app.results.exported(run, production=production, comparable=True)
        digest = hashlib.sha256()
        for piece in encoded(rows, "jsonl"):
            digest.update(piece)
        return digest.hexdigest()

    def check_same(self, run: str) -> None:
        """The run comes to its end, and to the same as an undisturbed one."""
        self.wait_for(run, *FINAL)
        assert self.app.runs.get(run)["error"] is None
        assert self.fingerprint(run) == self.posts.undisturbed

    def nothing_is_left(self) -> bool:
        """Of any run in the target."""
        if not self.target.exists():
            return True
        if self.target.is_dir():
            return not [path for kind in ("results", "production") for path in (self.target / kind).glob("*")]
        with contextlib.closing(sqlite3.connect(self.target)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            ours = [name for name in names if name != "audience_task"]
            return not any(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ours)

    def program(self, *arguments: str) -> bytes:
        """What `audience ...` prints."""
        command = [sys.executable, "-m", "audience", *arguments]
        return subprocess.run(command, env=self.environment(), cwd=self.folder, capture_output=True, check=True).stdout

    # workers

    def environment(self, **more: str) -> dict[str, str]:
        ours = {f"AUDIENCE_{name.upper()}": str(value) for name, value in self.set.items()}
        return {**os.environ, "AUDIENCE_THREADS": "1", **ours, **more}

    def use_broker(self, url: str) -> None:
        """From now on, with queues of its own."""
        prefix = f"audience_test_{uuid.uuid4().hex[:12]}"
        self.set |= {"broker_url": url, "queue_prefix": prefix, "visibility_timeout_s": 1.0}

    def start_worker(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """`audience worker` with these arguments, or another program."""
        program = () if arguments and not arguments[0].startswith("-") else ("worker",)
        command = [sys.executable, "-m", "audience", *program, *arguments]
        with self.log(len(self.workers)).open("wb") as log:
            worker = subprocess.Popen(
                command, env=self.environment(**more), cwd=self.folder, stdin=subprocess.DEVNULL, stderr=log
            )
        self.workers.append(worker)
        return worker

    def start_workers(self, n: int = 2) -> list[subprocess.Popen[bytes]]:
        return [self.start_worker() for _ in range(n)]

    def log(self, number: int) -> Path:
        return self.folder / f"worker-{number}.log"

    def told_by(self, worker: subprocess.Popen[bytes]) -> str:
        return self.log(self.workers.index(worker)).read_text("utf-8", "replace")

    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [worker for worker in self.workers if worker.poll() is None]

    def id_of(self, worker: subprocess.Popen[bytes]) -> str | None:
        """Under which the other workers know it."""
        names = {w["name"].rpartition(":")[2]: w["id"] for w in self.app.store.workers.all()}
        return names.get(str(worker.pid))

    def kill(self, *workers: subprocess.Popen[bytes]) -> None:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()

    def end(self, *workers: subprocess.Popen[bytes]) -> None:
        """In good order, with whatever they still had in hand."""
        for worker in workers:
            worker.terminate()
        for worker in workers:
            assert worker.wait(WAIT_S) == 0

    def kill_now_and_then(self, run: str, chosen: random.Random, times: int) -> int:
        """Kills one of two workers at random moments and starts another each time, until the run has ended; how
        often."""
        self.start_workers()
        self.wait_for_partitions(run, 1)
        for n in range(times):
            time.sleep(chosen.uniform(0.0, 0.7))
            if self.state(run) in FINAL:
                return n
            self.kill(chosen.choice(self.alive()))
            self.start_worker()
        return times

    def kill_whoever(self, run: str, kind: str) -> None:
        """Kills the only worker as soon as it has taken such a job, and starts another."""
        wait_until(lambda: self.jobs(run, kind, "taken"), f"the step {kind} is taken", poll_s=0.002)
        self.kill(*self.alive())
        self.start_worker()

    def put_to_sleep(self, worker: subprocess.Popen[bytes], run: str, chosen: random.Random) -> str:
        """Stops a worker in mid-partition, beyond its lease: the others have given it up. The id that it had."""
        for _ in range(20):
            time.sleep(chosen.uniform(0.0, 0.3))
            known_as = wait_until(lambda: self.id_of(worker), "the worker is known")
            worker.send_signal(signal.SIGSTOP)
            busy = [job for job in self.jobs(run, "partition", "taken") if job["worker"] == known_as]
            if busy and self._can_write() and self._is_given_up(known_as):
                return str(known_as)
            worker.send_signal(signal.SIGCONT)
        raise AssertionError("it could not be caught in mid-partition")

    def _can_write(self) -> bool:
        """Whether nobody sleeps inside a transaction of our records."""
        if self.app.store.database.file is None:
            return True
        file = sqlite3.connect(self.app.store.database.file, timeout=2)
        with contextlib.closing(file), contextlib.suppress(sqlite3.OperationalError):
            file.execute("BEGIN IMMEDIATE")
            return True
        return False

    def _is_given_up(self, known_as: str) -> bool:
        with contextlib.suppress(AssertionError):
            return bool(wait_until(lambda: known_as not in self.app.store.workers.beats(), "lost", 3 * LEASE_S))
        return False

    def close(self) -> None:
        """Ends whatever is still there, and tells what the workers told: pytest shows it of tests that failed."""
        self.kill(*self.alive())
        self.app.store.database.close()
        for number, worker in enumerate(self.workers):
            lines = self.log(number).read_text("utf-8", "replace").splitlines()
            head = f"--- worker {number}, pid {worker.pid}, status {worker.returncode}"
            sys.stdout.write("\n".join([head, *lines[-30:], ""]))

    def forgive_celery(self) -> None:
        """It tells with a traceback of a child or a connection that is lost."""
        for number in range(len(self.workers)):
            lines = self.log(number).read_text("utf-8", "replace").splitlines()
            self.log(number).write_text("\n".join(line for line in lines if "audience." in line))

    def crashes(self) -> list[str]:
        """What the workers did not expect."""
        logs = [self.log(number).read_text("utf-8", "replace") for number in range(len(self.workers))]
        lines = [line for text in logs for line in text.splitlines() if " ERROR r2d2]" not in line]  # a lost connection
        return [line for line in lines if " ERROR " in line or "Traceback" in line]


def undisturbed(folder: Path, n_rows: int) -> Posts:
    """A source, and what one worker in this process makes of it."""
    posts = Posts(make_posts(folder / "posts.db", n_rows))
    installation = Installation(folder, posts, "labels.db")
    run = installation.label()
    installation.app.operations.work_on(run)
    found = installation.fingerprint(run)
    assert found.state == "done"
    assert found.numbers["set_aside"].keys() == {"id is null", "post_time is not a time"}
    return Posts(posts.path, found)


@contextlib.contextmanager
def started(folder: Path, posts: Posts, kind: str, **more: Any) -> Iterator[Installation]:
    installation = Installation(folder, posts, kind, **more)
    try:
        yield installation
    finally:
        installation.close()
    assert not installation.crashes()
