"""What workers judge by, and how jobs are shared: without processes."""

import contextlib
import sqlite3
import time
from dataclasses import replace

import pytest

from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import Conflict, Elsewhere, Transient
from audience.jobs.backoff import OperationBackoff
from audience.jobs.control import JobCancelled, JobControl
from audience.jobs.kinds import Outcome
from audience.jobs.leases import LeaseMonitor, RetryPolicy
from audience.jobs.local_worker import LocalWorker
from audience.jobs.memory import EXACT, SAMPLED, MemoryWatch
from audience.jobs.worker import BEATS_A_LEASE
from audience.labeling.statistics import TaskStatistics

CSV = "label,content,match_type\n女性,媽,partially\n"


@pytest.fixture
def ask(app, table, rules, tmp_path):
    """Asks for a run of two posts; its id."""
    gender = app.models.add("gender", rules(CSV), LOCAL, fields=("author",))[0]
    source = SourceRequest(location=str(table([(f"p{i}", "c", "媽", "", "2024-01-01") for i in range(2)])))

    def make(**details: object) -> str:
        target = str(tmp_path / "labels.db")
        tasks = (TaskRequest(source=source, name="posts"),)
        return str(app.runs.create(RunRequest(tasks=tasks, models=(gender,), target=target, **details), LOCAL)["id"])

    return make


# judging others


def test_a_worker_whose_beat_does_not_change_for_a_lease_is_lost():
    monitor = LeaseMonitor(lease_s=3, interval_s=1)
    assert [monitor.lost({"a": 1, "b": beat}, now) for now, beat in enumerate((1, 2, 3))] == [[], [], []]
    assert monitor.lost({"a": 1, "b": 4}, 3) == ["a"]


def test_a_beat_that_changes_begins_a_new_lease():
    monitor = LeaseMonitor(lease_s=2, interval_s=1)
    assert [monitor.lost({"a": beat}, now) for now, beat in enumerate((1, 1, 2, 2))] == [[], [], [], []]
    assert monitor.lost({"a": 2}, 4) == ["a"]


def test_who_slept_itself_does_not_take_the_others_for_lost():
    monitor = LeaseMonitor(lease_s=10, interval_s=1)
    monitor.lost({"a": 1}, 0)
    assert monitor.lost({"a": 1}, 3600) == []
    assert monitor.lost({"a": 2}, 3601) == []


def test_pauses_between_attempts_double_up_to_half_a_minute():
    assert [RetryPolicy(retry_s=1).delay_s(n) for n in (0, 1, 2, 4, 5, 1000)] == [1, 2, 4, 16, 30, 30]


# sharing jobs


def taken(app: App, worker: str) -> str:
    job = app.store.jobs.take(worker)
    assert job is not None
    return str(job["operation_id"])


def test_runs_are_served_in_turn(app, ask):
    first, second = ask(partition_rows=1), ask(partition_rows=1)
    worker, steps = app.store.workers.add("w", 1), app.operations.worker()
    for _ in range(2):
        steps.handle(app.store.jobs.take(worker))
    assert [taken(app, worker) for _ in range(4)] == [first, second, first, second]


def test_a_run_of_a_higher_priority_goes_first_and_what_ends_runs_before_all(app, ask):
    low, normal, high = ask(priority="low"), ask(priority="normal"), ask(priority="high")
    app.runs.abort(low, LOCAL)
    worker = app.store.workers.add("w", 1)
    assert [taken(app, worker) for _ in range(3)] == [low, high, normal]


def test_a_job_is_taken_once_and_by_the_living_only(app, ask):
    ask()
    job = app.store.jobs.take(app.store.workers.add("a", 1))
    other = app.store.workers.add("b", 1)
    assert app.store.jobs.take(other) is None
    assert app.store.jobs.claim(job["id"], other) is None
    ask()
    app.store.workers.remove(other, lost=True)
    assert app.store.jobs.take(other) is None


def test_the_jobs_of_a_lost_worker_go_to_others_and_it_cannot_finish_them(app, ask):
    run = ask()
    lost, other = (app.store.workers.add(name, 1) for name in "ab")
    job = app.store.jobs.take(lost)
    assert app.store.workers.remove(lost, lost=True) == 1
    assert app.store.workers.beat(lost, {}) is None
    again = app.store.jobs.take(other)
    assert (again["id"], again["losses"], again["attempts"]) == (job["id"], 1, 2)
    with pytest.raises(Conflict, match="taken away"), app.store.jobs.finishing(job):
        pass
    app.operations.worker().handle(again)
    assert app.runs.get(run)["tasks"][0]["n_planned"] == 2


def test_who_takes_the_same_job_again_does_not_finish_the_first_attempt(app, ask):
    ask()
    worker = app.store.workers.add("a", 1)
    first = app.store.jobs.take(worker)
    app.store.jobs.give_back(worker, [first["id"]])
    assert app.store.jobs.take(worker)["id"] == first["id"]
    with pytest.raises(Conflict), app.store.jobs.finishing(first):
        pass


def test_a_delayed_job_waits_until_it_is_due_by_the_clock_of_the_records(app, ask):
    ask()
    worker = app.store.workers.add("a", 1)
    job = app.store.jobs.take(worker)
    app.store.jobs.put_back(job, 1.5, "away")
    put_back = time.monotonic()
    assert app.store.jobs.take(worker) is None
    assert app.store.jobs.counts()["plan", "delayed"] == 1
    while (again := app.store.jobs.take(worker)) is None:
        time.sleep(0.05)
    assert 1.3 < time.monotonic() - put_back < 5
    assert (again["id"], again["failures"], again["delay_s"]) == (job["id"], 1, 1.5)
    taken_again = app.store.jobs.get(job["id"])
    assert (taken_again["state"], taken_again["due_at"], taken_again["delay_s"]) == ("taken", 0, 0)


def test_beats_tell_how_far_jobs_are_and_hear_what_was_taken_away(app, ask):
    run = ask(partition_rows=1)
    worker, hands = app.store.workers.add("a", 1), app.operations.worker()
    hands.handle(app.store.jobs.take(worker))
    job = app.store.jobs.take(worker)
    assert job["kind"] == "partition"
    assert app.store.workers.beat(worker, {job["id"]: (7, 9)}) == {job["id"]}
    assert app.runs.get(run)["tasks"][0]["progress"]["read"] == 7
    assert app.operations.get(run)["progress"] == {"done": 7, "total": 9, "working": 1, "waiting_for": None}
    app.runs.abort(run, LOCAL)
    assert app.store.workers.beat(worker, {job["id"]: (8, None)}) == set()
    assert app.store.workers.beats() == {worker: 2}


# ending jobs


def failing(app: App, error: BaseException, **policy: float) -> LocalWorker:
    """A worker all of whose jobs raise this."""

    def run(job: dict, control: JobControl) -> Outcome:
        raise error

    kinds = {name: replace(kind, run=run) for name, kind in app.job_kinds.items()}
    return LocalWorker(app.store, kinds, threads=1, policy=RetryPolicy(**policy))


def handled(app: App, worker: LocalWorker, run: str) -> dict:
    """The run's first job after this worker had it."""
    job_id = app.store.operations.jobs(run)[0]["id"]
    worker.handle(app.store.jobs.claim(job_id, app.store.workers.add("w", 1)))
    return app.store.operations.jobs(run)[0]


def test_what_may_pass_is_tried_again_and_given_up_at_last(app, ask):
    run = ask()
    worker = failing(app, Transient("disk full"), retries=1, retry_s=0.5)
    job = handled(app, worker, run)
    assert (job["state"], job["delay_s"], job["error"]) == ("waiting", 0.5, "disk full")
    assert app.runs.get(run)["tasks"][0]["progress"]["waiting_for"] == "disk full"
    assert handled(app, worker, run)["state"] == "failed"
    found = app.runs.get(run)
    assert (found["state"], found["error"]) == ("failed", "posts: given up after 2 attempts: disk full")


def test_a_job_that_workers_vanish_with_fails_its_task(app, ask):
    run = ask()
    for _ in range(3):
        lost = app.store.workers.add("w", 1)
        app.store.jobs.take(lost)
        app.store.workers.remove(lost, lost=True)
    worker = failing(app, AssertionError("not reached"), losses=3)
    assert handled(app, worker, run)["state"] == "failed"
    assert "3 workers vanished" in app.runs.get(run)["error"]


def test_a_stopped_job_is_given_back_without_being_counted(app, ask):
    run = ask()
    job = handled(app, failing(app, JobCancelled()), run)
    assert (job["state"], job["failures"], job["losses"]) == ("waiting", 0, 0)


def test_a_report_that_cannot_be_made_fails_the_task_once(app, ask):
    run = ask()
    worker, worker_id = app.operations.worker(), app.store.workers.add("w", 1)
    while (job := app.store.jobs.take(worker_id))["kind"] != "report":
        worker.handle(job)
    app.store.jobs.give_back(worker_id, [job["id"]])
    broken = failing(app, Conflict("marks are damaged"))
    handled_jobs = 0
    while (job := app.store.jobs.take(worker_id)) is not None:
        broken.handle(job)
        handled_jobs += 1
    assert (handled_jobs, app.runs.get(run)["state"]) == (1, "failed")


def test_an_abort_is_tried_for_ever(app, ask):
    run = ask()
    app.runs.abort(run, LOCAL)
    for error in (Transient("away"), Conflict("odd")):
        worker = failing(app, error, retries=0)
        job_id = app.store.operations.jobs(run)[-1]["id"]
        worker.handle(app.store.jobs.claim(job_id, app.store.workers.add("w", 1)))
        assert app.store.operations.jobs(run)[-1]["state"] == "waiting"
    assert app.runs.get(run)["waiting_for"] == "odd"


def test_a_job_is_not_given_back_while_the_thread_that_claims_it_is_slow(app, ask, monkeypatch):
    run = ask()
    worker = LocalWorker(app.store, app.job_kinds, threads=1, policy=RetryPolicy(lease_s=3), operation_id=run)
    take = worker.store.jobs.take

    def slowly(*given: object) -> object:
        job = take(*given)
        time.sleep(0.7 if job else 0)  # three beats
        return job

    monkeypatch.setattr(worker.store.jobs, "take", slowly)
    worker.start()
    try:
        deadline = time.monotonic() + 60
        while app.store.operations.get(run)["state"] != "done":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        worker.stop()
    assert {job["attempts"] for job in app.store.operations.jobs(run)} == {1}


def test_a_job_that_no_thread_works_on_is_given_back_after_a_lease(app, ask, caplog):
    ask()
    worker = app.operations.worker()
    worker._id = app.store.workers.add("w", 1)
    job = app.store.jobs.take(worker._id)
    for _ in range(BEATS_A_LEASE):
        worker._beat()
    assert app.store.jobs.take(app.store.workers.add("x", 1)) is None
    worker._beat()
    assert app.store.jobs.take(app.store.workers.add("y", 1))["id"] == job["id"]
    assert "jobs_given_back" in caplog.text
    caplog.clear()


def test_a_worker_that_was_given_up_goes_on_under_a_new_name(app, ask):
    worker = app.operations.worker()
    worker._id = first = app.store.workers.add("w", 1)
    app.store.workers.remove(first, lost=True)
    worker._beat()
    assert worker._id != first
    assert app.store.workers.beats() == {worker._id: 0}


# what this process lacks


def test_a_job_that_lacks_something_here_goes_to_others_and_is_told_of_once(app, ask, caplog):
    run = ask()
    worker = failing(app, Elsewhere("the blob is not in /here"))
    for _ in range(2):
        job = handled(app, worker, run)
        assert (job["state"], job["failures"], job["delay_s"]) == ("waiting", 0, 0)
    assert app.runs.get(run)["tasks"][0]["progress"]["waiting_for"] == "the blob is not in /here"
    assert caplog.text.count("operation_left_to_others") == 1
    assert worker._take() is None
    assert taken(app, app.store.workers.add("other", 1)) == run


def test_an_operation_is_left_to_others_for_half_a_minute_each_time():
    backoff = OperationBackoff()
    assert [backoff.leave("a", 0), backoff.leave("b", 20), backoff.leave("a", 31)] == [True, True, False]
    assert [backoff.operations(now) for now in (40, 55, 70)] == [["a", "b"], ["a"], []]


# peak memory


def test_peak_memory_is_counted_by_the_kernel_when_the_process_works_on_one_task():
    watch = MemoryWatch()
    with watch.watching("a") as first, watch.watching("a") as second:
        block = bytearray(64 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
        del block
    assert (first.how, second.how) == (EXACT, EXACT)
    with watch.watching("a") as later:
        pass
    assert first.mb - later.mb > 40


def test_peak_memory_is_sampled_when_tasks_share_the_process():
    watch = MemoryWatch()
    with watch.watching("a") as first, watch.watching("b") as second:
        block = bytearray(64 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(0.2)
        del block
    assert (first.how, second.how) == (SAMPLED, SAMPLED)
    with watch.watching("a") as later:
        pass
    assert first.mb - later.mb > 40


def test_a_partition_that_the_target_lost_is_labelled_again(app, ask, tmp_path, caplog):
    run = ask(partition_rows=1)
    worker, steps = app.store.workers.add("w", 1), app.operations.worker()
    for _ in range(3):  # the plan and both partitions
        steps.handle(app.store.jobs.take(worker))
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.db")) as db, db:
        db.execute("DELETE FROM audience_partition WHERE partition = 1")
        db.execute("DELETE FROM results_all WHERE partition = 1")
    app.operations.work_on(run)
    found = app.runs.get(run)
    assert found["state"] == "done"
    assert (found["tasks"][0]["report"]["read"], found["tasks"][0]["progress"]["read"]) == (2, 2)
    assert "action=partitions_lost" in caplog.text
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.db")) as db, db:
        assert db.execute("SELECT id FROM results_all ORDER BY 1").fetchall() == [("p0",), ("p1",)]


def test_a_target_that_loses_everything_again_and_again_fails_the_run(app, ask, monkeypatch):
    run = ask()
    real = TaskStatistics.of
    monkeypatch.setattr(TaskStatistics, "of", lambda *given: replace(real(*given), partitions=frozenset()))
    app.operations.work_on(run)
    assert "loses what is written" in app.runs.get(run)["error"]
