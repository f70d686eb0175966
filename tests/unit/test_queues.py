"""Which worker takes the jobs of which run."""

import time
from dataclasses import replace

import pytest

from audience.app.actors import LOCAL
from audience.app.requests import RunRequest, SourceRequest, TaskRequest
from audience.errors import BadInput
from audience.jobs.dispatcher import Dispatcher
from audience.jobs.leases import RetryPolicy
from audience.store.jobs import LEFT_S, Sent
from audience.store.queues import Lane, parse_lanes, text_of

CSV = "label,content,match_type\n女性,媽,partially\n"
MANAGE = Lane("default", "manage")


@pytest.fixture
def ask(app, table, rules, tmp_path):
    """Asks for a run in a queue; its id."""
    gender = app.models.add("gender", rules(CSV), LOCAL, fields=("author",))[0]
    source = SourceRequest(location=str(table([(f"p{i}", "c", "媽", "", "2024-01-01") for i in range(2)])))
    tasks, target = (TaskRequest(source=source, name="posts"),), str(tmp_path / "labels.db")
    asked = RunRequest(tasks=tasks, models=(gender,), target=target, partition_rows=1)

    def make(queue: str = "default", priority: str = "normal") -> str:
        update = {"queue": queue, "priority": priority}
        return str(app.runs.create(asked.model_copy(update=update), LOCAL)["id"])

    return make


def test_a_queue_without_more_means_both_kinds_of_its_work():
    assert parse_lanes(["a", "b.label"]) == (Lane("a", "label"), Lane("a", "manage"), Lane("b", "label"))
    assert text_of(parse_lanes(["b.label", "a.manage", "a.label"])) == "a,b.label"


@pytest.mark.parametrize("name", ["", "a b", "a.labels", "ä", "x" * 41, ".label"])
def test_a_name_that_is_no_queue_is_refused(name):
    with pytest.raises(BadInput, match="queue"):
        parse_lanes([name])


def test_too_many_queues_for_one_worker_are_refused():
    with pytest.raises(BadInput, match="too many"):
        parse_lanes([f"queue-{n:032}" for n in range(11)])


def test_a_run_in_a_queue_that_cannot_be_is_refused(ask):
    with pytest.raises(BadInput, match="queue"):
        ask("a.label")


def test_partitions_are_in_the_lane_for_labelling_and_everything_else_in_the_other(app, ask):
    run = ask()
    worker, hands, lanes = app.store.workers.add("w", 1), app.operations.worker(), {}
    while (job := app.store.jobs.take(worker, run)) is not None:
        hands.handle(job)
        lanes.setdefault(job["lane"], set()).add(job["kind"])
    app.runs.delete(run, LOCAL)
    lanes["manage"].add(app.store.jobs.take(worker, run, [MANAGE])["kind"])
    assert lanes == {"label": {"partition"}, "manage": {"plan", "report", "produce", "delete"}}


def test_a_worker_takes_jobs_of_its_queues_and_kinds_only(app, ask):
    night, day = ask("night"), ask("day")
    worker, hands = app.store.workers.add("w", 1), app.operations.worker()

    def taken(*names: str) -> dict:
        return app.store.jobs.take(worker, lanes=parse_lanes(names))

    assert taken("other") is None
    assert taken("night.label") is None
    plan = taken("night.manage")
    assert (plan["operation_id"], plan["kind"]) == (night, "plan")
    hands.handle(plan)
    assert taken("night.manage") is None
    assert taken("night.label")["kind"] == "partition"
    assert taken("night", "day")["operation_id"] == day


def test_who_works_on_one_run_does_so_whatever_its_queue(app, ask):
    run = ask("night")
    app.operations.work_on(run)
    assert app.runs.get(run)["state"] == "done"


# messages


def test_messages_are_sent_once_in_the_order_in_which_jobs_are_taken(app, ask):
    low, first, second = ask(priority="low"), ask(), ask()
    app.runs.abort(low, LOCAL)
    runs = {job["id"]: job["operation_id"] for run in (low, first, second) for job in app.store.operations.jobs(run)}
    sent = [app.store.jobs.send_next(MANAGE, 10) for _ in range(3)]
    assert [runs[each.job] for each in sent] == [low, first, second]
    assert app.store.jobs.send_next(MANAGE, 10) is None
    assert set(app.store.jobs.sent()) == set(sent)


def test_of_two_that_send_a_message_again_one_does(app, ask):
    ask()
    first = app.store.jobs.send_next(MANAGE, 10)
    again = app.store.jobs.send_again(first)
    assert again.times == 2
    assert app.store.jobs.send_again(first) is None
    app.store.jobs.not_sent(again)
    assert app.store.jobs.sent() == [first]


def test_a_job_that_comes_back_is_sent_anew(app, ask):
    ask()
    first = app.store.jobs.send_next(MANAGE, 10)
    worker = app.store.workers.add("w", 1)
    job = app.store.jobs.claim(first.job, worker)
    assert app.store.jobs.claim(first.job, worker) is None
    assert app.store.jobs.sent() == []
    app.store.jobs.put_back(job, 1.0, "away")
    assert app.store.jobs.send_next(MANAGE, 10) is None
    time.sleep(1.1)
    assert app.store.jobs.send_next(MANAGE, 10).attempts == 1
    assert app.store.jobs.send_again(first) is None


def test_a_message_of_a_run_that_is_left_to_others_is_sent_again_after_a_moment(app, ask):
    run, jobs = ask(), app.store.jobs
    worker = app.store.workers.add("w", 1)
    sent = jobs.send_next(MANAGE, 2)
    assert jobs.claim(sent.job, worker, [run]) is None
    left = jobs.get(sent.job)
    assert (left["delay_s"], left["attempts"], left["sent"]) == (LEFT_S, 1, 0)
    assert jobs.send_next(MANAGE, 2) is None
    time.sleep(LEFT_S + 0.1)
    assert jobs.send_next(MANAGE, 2) == replace(sent, attempts=1)
    assert jobs.claim(sent.job, worker, ["another"])["worker"] == worker


def test_what_is_left_to_others_is_not_sent_again_and_again(app, ask):
    """A worker that leaves every job claims as fast as messages come."""
    run, jobs = ask(), app.store.jobs
    worker, told = app.store.workers.add("w", 1, pool="threads"), []

    def send(sent: Sent) -> None:
        told.append(sent.job)
        jobs.claim(sent.job, worker, [run])

    dispatcher = Dispatcher(app.store, send, RetryPolicy(lease_s=1000, retry_s=1))
    began = time.monotonic()
    while (now_s := time.monotonic() - began) < 2 * LEFT_S + 0.6:
        dispatcher.look(now_s)
        time.sleep(0.1)
    assert len(told) == 3
