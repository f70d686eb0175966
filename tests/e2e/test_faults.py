"""Runs that are disturbed come to the same as those that are not: the same rows, the same production, the same
numbers. Real processes are killed, put to sleep and misled; disks are full, sources vanish, users change their mind."""

import contextlib
import hashlib
import json
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import (
    KINDS,
    LOCKED_S,
    Installation,
    Posts,
    fill_up,
    make_posts,
    missing,
    mounted_disk,
    started,
    undisturbed,
    wait_until,
)

from audience.app.actors import LOCAL
from audience.app.root import App
from audience.errors import Conflict
from audience.jobs.control import JobControl
from audience.store.states import FINAL

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SLEEP = "import threading, time\ntime.sleep = threading.Event().wait\n"
"""libfaketime lets every `time.sleep` of Python 3.11 and newer fail; a wait is left alone."""
DISK_MB = 64
DELAY_S = 1.0
SMALL_RUNS = 100
sqlite_only = pytest.mark.parametrize("installation", ["labels.db"], indirect=True)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Posts:
    return undisturbed(tmp_path_factory.mktemp("many"), 20_000)


@pytest.fixture(scope="session")
def some(tmp_path_factory: pytest.TempPathFactory) -> Posts:
    return undisturbed(tmp_path_factory.mktemp("some"), 10_000)


@pytest.fixture(params=KINDS)
def large(request: pytest.FixtureRequest, tmp_path: Path, many: Posts) -> Iterator[Installation]:
    """Fifty partitions: seconds of work for two workers."""
    with started(tmp_path, many, request.param) as installation:
        yield installation


@pytest.fixture(params=KINDS)
def installation(request: pytest.FixtureRequest, tmp_path: Path, some: Posts) -> Iterator[Installation]:
    """Twenty-five partitions, and a source of its own that may be changed."""
    with started(tmp_path, some, request.param) as installation:
        installation.source = Path(shutil.copy(some.path, tmp_path / "posts.db"))
        yield installation


# workers that vanish


@pytest.mark.parametrize("seed", [1, 2])
def test_run_is_the_same_when_workers_are_killed_at_random_moments(large, seed):
    run = large.label()
    assert large.kill_now_and_then(run, random.Random(seed), times=3) >= 2
    large.check_same(run)


def test_run_is_the_same_when_a_worker_is_killed_in_every_step(installation):
    run = installation.label()
    installation.start_worker()
    for kind in ("plan", "partition", "report", "produce"):
        installation.kill_whoever(run, kind)
    installation.check_same(run)
    lost = {job["kind"] for job in installation.app.store.operations.jobs(run) if job["losses"]}
    assert lost == {"plan", "partition", "report", "produce"}


@pytest.mark.parametrize("seed", [3])
def test_run_goes_on_unasked_after_every_worker_was_killed(installation, seed):
    chosen = random.Random(seed)
    run = installation.label()
    for n in (0, 8):
        installation.start_workers()
        installation.wait_for_partitions(run, n + chosen.randrange(1, 7))
        installation.kill(*installation.alive())
        assert installation.state(run) == "running"
    installation.start_workers()
    installation.check_same(run)


@pytest.mark.parametrize("seed", [4])
def test_worker_that_slept_beyond_its_lease_changes_nothing_and_lives_on(large, seed):
    chosen = random.Random(seed)
    run = large.label()
    sleeper, other = large.start_workers()
    large.wait_for_partitions(run, chosen.randrange(1, 20))
    known_as = large.put_to_sleep(sleeper, run, chosen)
    with contextlib.suppress(AssertionError):  # it sleeps while it writes to the target
        large.wait_for(run, *FINAL, timeout_s=LOCKED_S - 3)
    sleeper.send_signal(signal.SIGCONT)
    large.check_same(run)
    wait_until(lambda: large.id_of(sleeper) not in (None, known_as), "it is known under a new id")
    large.end(other)
    large.check_same(large.label())
    assert "action=worker_was_given_up" in large.told_by(sleeper)


# the same work twice


def test_every_message_may_come_twice(installation):
    run = installation.label()
    workers = [App(installation.app.settings).operations.worker() for _ in range(2)]
    names = [worker.store.workers.add(worker.name, 1) for worker in workers]
    with ThreadPoolExecutor(2) as both:
        while waiting := [job for job in installation.app.store.operations.jobs(run) if job["state"] == "waiting"]:
            claims = both.map(lambda w, name, job=waiting[0]: w.store.jobs.claim(job["id"], name), workers, names)
            [claimed] = [claim for claim in claims if claim]
            list(both.map(lambda w, job=claimed: w.handle(job), workers))
    installation.check_same(run)
    jobs = installation.app.store.operations.jobs(run)
    assert {job["attempts"] for job in jobs} == {1}
    kinds = Counter(job["kind"] for job in jobs)
    assert kinds == {"plan": 1, "partition": len(installation.kept(run)), "report": 1, "produce": 1}


def carry_out(app: App, job: dict) -> None:
    """Does what a worker does that is not disturbed; raises what goes wrong."""
    kind = app.job_kinds[job["kind"]]
    outcome = kind.run(job, JobControl())
    with app.store.jobs.finishing(job, result=outcome.result, progress=outcome.progress or 0) as connection:
        kind.done(connection, job, outcome)


@pytest.mark.parametrize("last", ["former", "present"])
def test_partition_is_written_once_when_two_workers_believe_to_own_it(installation, last):
    run = installation.label()
    store = installation.app.store
    former, present = (store.workers.add(name, 1) for name in ("former", "present"))
    hands = {name: App(installation.app.settings) for name in (former, present)}
    carry_out(hands[former], store.jobs.take(former))
    stale = store.jobs.take(former)
    store.workers.remove(former, lost=True)
    fresh = store.jobs.take(present)
    assert stale["id"] == fresh["id"]
    for job in (fresh, stale) if last == "former" else (stale, fresh):
        with contextlib.nullcontext() if job is fresh else pytest.raises(Conflict, match="taken away"):
            carry_out(hands[job["worker"]], job)
        assert list(installation.kept(run)) == [stale["number"]]
    assert installation.n_done(run) == 1
    installation.app.operations.work_on(run)
    installation.check_same(run)


# a clock that lies


@pytest.mark.parametrize("seed", [5])
def test_run_is_the_same_when_a_clock_jumps_by_hours(large, tmp_path, seed):
    if not FAKETIME.exists():
        missing("libfaketime is missing: apt install faketime")
    chosen = random.Random(seed)
    offset = tmp_path / "offset"
    offset.write_text("+0h\n")
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    faked = {"FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    large.set["lease_s"] = 5.0  # a busy machine alone is no reason to give it up
    run = large.label()
    worker = large.start_worker(**faked, LD_PRELOAD=str(FAKETIME), PYTHONPATH=str(tmp_path))
    large.start_worker()
    while large.state(run) not in FINAL:
        offset.with_suffix(".new").write_text(f"{chosen.randrange(-48, 49):+d}h\n")
        offset.with_suffix(".new").replace(offset)
        time.sleep(0.1)
    large.check_same(run)
    told = [line for line in large.told_by(worker).splitlines() if "partition_done" in line]
    assert len({line[:13] for line in told}) > 3  # hours that it took it to be
    assert "worker_was_given_up" not in large.told_by(worker)


# disks and files


@pytest.fixture
def disk(tmp_path):
    with mounted_disk(tmp_path / "disk", DISK_MB) as folder:
        yield folder


def test_run_waits_while_the_disk_is_full_and_says_so(disk, installation):
    installation.target = disk / installation.target.name
    run = installation.label()
    installation.start_worker()
    installation.wait_for_partitions(run, 3)

    def waits():
        fill_up(disk / "ballast")
        return installation.task(run)["progress"]["waiting_for"]

    assert "free some space" in wait_until(waits, "the run waits")
    shown = json.loads(installation.program("run", "show", run, "--json"))
    assert "free some space" in shown["tasks"][0]["progress"]["waiting_for"]
    assert shown["state"] == "running"
    (disk / "ballast").unlink()
    installation.check_same(run)
    assert installation.task(run)["progress"]["waiting_for"] is None
    installation.end(*installation.alive())


def test_run_fails_with_a_reason_when_its_source_vanishes_and_is_resumed(installation):
    run = installation.label()
    installation.start_workers()
    installation.wait_for_partitions(run, 3)
    away = installation.source.rename(installation.folder / "away.db")
    installation.wait_for(run, *FINAL)
    check_failed(installation, run, "posts.db")
    away.rename(installation.source)
    resume_and_check(installation, run)


def test_run_fails_with_a_reason_when_a_column_vanishes_and_is_resumed(installation):
    run = installation.label()
    installation.start_worker()
    installation.wait_for_partitions(run, 3)
    rename_column(installation.source, "author", "writer")
    installation.wait_for(run, *FINAL)
    check_failed(installation, run, "author")
    rename_column(installation.source, "writer", "author")
    resume_and_check(installation, run)


def test_run_fails_with_a_reason_when_a_column_vanished_before_it_begins(installation):
    run = installation.label()
    rename_column(installation.source, "author", "writer")
    installation.start_worker()
    installation.wait_for(run, *FINAL)
    assert installation.state(run) == "failed"
    assert "author" in installation.app.runs.get(run)["error"]
    rename_column(installation.source, "writer", "author")
    resume_and_check(installation, run)


def rename_column(source: Path, name: str, to: str) -> None:
    with contextlib.closing(sqlite3.connect(source, timeout=30)) as db, db:
        db.execute(f"ALTER TABLE posts RENAME COLUMN {name} TO {to}")


def check_failed(installation: Installation, run: str, reason: str) -> None:
    found = installation.app.runs.get(run)
    assert found["state"] == "failed"
    assert reason in found["error"]
    assert len(installation.kept(run)) >= 3
    assert installation.task(run)["report"]["read"] == installation.n_read(run)


def resume_and_check(installation: Installation, run: str) -> None:
    """What was finished is not done again."""
    kept = installation.kept(run)
    installation.app.runs.resume(run, LOCAL)
    installation.check_same(run)
    now = installation.kept(run)
    assert {partition: now[partition] for partition in kept} == kept


# users who change their mind


def reach(installation: Installation, run: str, phase: str, chosen: random.Random) -> None:
    installation.start_workers(2 if phase == "labeling" else 1)
    if phase == "planning":
        wait_until(lambda: installation.state(run) != "planned", "planning begins")
        time.sleep(chosen.uniform(0.0, 0.05))
    elif phase == "labeling":
        installation.wait_for_partitions(run, chosen.randrange(1, 15))
    else:
        installation.wait_for(run, phase)


@pytest.mark.parametrize("phase", ["planning", "labeling", "producing"])
def test_aborted_run_keeps_what_is_finished_and_is_resumed(installation, phase):
    run = installation.label(delay_s=DELAY_S)
    reach(installation, run, phase, random.Random(phase))
    installation.app.runs.abort(run, LOCAL)
    installation.wait_for(run, "aborted")
    check_aborted(installation, run)
    resume_and_check(installation, run)


@pytest.mark.parametrize("phase", ["planned", "labeling"])
def test_run_that_was_aborted_while_no_worker_lived_is_aborted_by_the_next_one(installation, phase):
    run = installation.label(delay_s=DELAY_S)
    if phase != "planned":
        reach(installation, run, phase, random.Random(phase))
        installation.kill(*installation.alive())
    finished = installation.kept(run)
    installation.app.runs.abort(run, LOCAL)
    assert installation.state(run) == "aborting"
    installation.start_worker()
    installation.wait_for(run, "aborted")
    assert installation.kept(run) == finished
    check_aborted(installation, run)
    resume_and_check(installation, run)


def check_aborted(installation: Installation, run: str) -> None:
    """The report says what is there."""
    report = installation.task(run)["report"]
    assert (report["read"] if report else 0) == installation.n_read(run)
    assert installation.n_done(run) <= len(installation.kept(run))


@pytest.mark.parametrize("phase", ["planning", "labeling", "producing"])
def test_deleted_run_leaves_nothing_behind(installation, phase):
    run = installation.label(delay_s=DELAY_S)
    reach(installation, run, phase, random.Random(phase))
    installation.app.runs.delete(run, LOCAL)
    installation.wait_for(run, "gone")
    installation.end(*installation.alive())
    assert installation.nothing_is_left()
    assert installation.app.store.operations.jobs(run) == []


def test_run_is_deleted_as_soon_as_its_target_is_back(installation):
    run = installation.label()
    installation.app.operations.work_on(run)
    away = installation.target.rename(installation.folder / "away")
    installation.start_worker()
    installation.app.runs.delete(run, LOCAL)
    wait_until(
        lambda: "bring it back" in (installation.app.runs.get(run)["waiting_for"] or ""), "it waits, and says so"
    )
    assert installation.state(run) == "deleting"
    away.rename(installation.target)
    installation.wait_for(run, "gone")
    assert installation.nothing_is_left()


# many runs


@sqlite_only
def test_no_run_starves_behind_others(installation, tmp_path):
    big = installation.label()
    few = make_posts(tmp_path / "few.db", 500)
    small = [installation.label(few) for _ in range(SMALL_RUNS)]
    installation.start_workers()
    counts = installation.app.operations.counts
    wait_until(lambda: counts().get(("run", "done"), 0) >= SMALL_RUNS, "the small runs are done")
    assert installation.state(big) == "running"
    installation.check_same(big)
    assert [installation.state(run) for run in small] == ["done"] * SMALL_RUNS
    assert last_start(installation, [big, *small]) < first_end(installation)


def moments(installation: Installation, action: str) -> list[int]:
    """Where in the order of all that happened a run came to this."""
    with contextlib.closing(sqlite3.connect(installation.folder / "home" / "audience.db")) as db:
        rows = db.execute("SELECT id FROM audit WHERE action = ? ORDER BY id", (action,)).fetchall()
    return [row[0] for row in rows]


def last_start(installation: Installation, runs: list[str]) -> int:
    starts = moments(installation, "run.running")
    assert len(starts) == len(runs)
    return starts[-1]


def first_end(installation: Installation) -> int:
    return moments(installation, "run.done")[0]


# the program itself


@sqlite_only
def test_run_of_the_program_is_exported_as_one_of_the_app(installation):
    installation.program("model", "add", "gender", "gender.csv", "--field", "author,content")
    (installation.folder / "groups.csv").write_text("s_id,group\nc1,forum\nc2,fans\n")
    asked = ("--model", "gender", "--target", "labels.db", "--groups", "groups.csv", "--detach", "--json")
    run = json.loads(installation.program("label", "posts.db", *asked))["id"]
    installation.start_workers()
    installation.check_same(run)
    undisturbed = installation.posts.undisturbed
    assert hashlib.sha256(installation.program("export", run, "--sort")).hexdigest() == undisturbed.results
    made = installation.program("export", run, "--sort", "--production")
    assert hashlib.sha256(made).hexdigest() == undisturbed.production
