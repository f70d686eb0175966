"""Which worker takes the jobs of which run."""

from dataclasses import replace

import pytest

from audience.app import LOCAL
from audience.errors import BadInput
from audience.jobs.dispatcher import Dispatcher
from audience.jobs.leases import RetryPolicy
from audience.labeling.plan import RunSpec, TaskSpec
from audience.store.jobs import LEFT_S, Sent
from audience.store.queues import Lane, lane_of, parse_lanes, text_of

CSV = "label,content,match_type\n女性,媽,partially\n"


@pytest.fixture
def ask(app, table, rules, tmp_path):
    """Asks for a run in a queue; its id."""
    gender = app.models.add("gender", rules(CSV), LOCAL, fields=("author",))[0]
    source = app.sources.spec(str(table([(f"p{i}", "c", "媽", "", "2024-01-01") for i in range(2)])))
    spec = RunSpec(models=(gender,), target=str(tmp_path / "labels.db"), partition_rows=1)

    def make(queue: str = "default", priority: int = 0) -> str:
        return app.runs.create([TaskSpec(name="posts", source=source)], spec, LOCAL, priority, queue=queue)

    return make


def test_a_queue_without_more_means_both_kinds_of_its_work():
    assert parse_lanes(["a", "b.label"]) == (Lane("a", "label"), Lane("a", "manage"), Lane("b", "label"))
    assert text_of(parse_lanes(["b.label", "a.manage", "a.label"])) == "a,b.label"
    assert lane_of("a", "partition") == Lane("a", "label")
    assert lane_of("a", "delete") == Lane("a", "manage")


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


def test_a_worker_takes_jobs_of_its_queues_and_kinds_only(app, ask):
    night, day = ask("night"), ask("day")
    worker, hands = app.store.workers.add("w", 1), app.worker()

    def taken(*names: str) -> dict:
        return app.store.jobs.take(worker, lanes=parse_lanes(names))

    assert taken("other") is None
    assert taken("night.label") is None
    plan = taken("night.manage")
    assert (plan["run_id"], plan["kind"]) == (night, "plan")
    hands.handle(plan)
    assert taken("night.manage") is None
    assert taken("night.label")["kind"] == "partition"
    assert taken("night", "day")["run_id"] == day


def test_who_works_on_one_run_does_so_whatever_its_queue(app, ask):
    run = ask("night")
    app.work_on(run)
    assert app.runs.get(run)["state"] == "done"


# messages


def test_messages_are_sent_once_in_the_order_in_which_jobs_are_taken(app, ask):
    low, first, second = ask(priority=-1), ask(), ask()
    manage = lane_of("default", "plan")
    app.runs.abort(low, LOCAL)
    runs = {job["id"]: job["run_id"] for run in (low, first, second) for job in app.store.jobs.read(run)}
    sent = [app.store.jobs.send_next(manage, (), 10) for _ in range(3)]
    assert [runs[each.job] for each in sent] == [low, first, second]
    assert app.store.jobs.send_next(manage, (), 10) is None
    assert set(app.store.jobs.sent()) == set(sent)


def test_of_two_that_send_a_message_again_one_does(app, ask):
    ask()
    first = app.store.jobs.send_next(lane_of("default", "plan"), (), 10)
    again = app.store.jobs.send_again(first)
    assert again.times == 2
    assert app.store.jobs.send_again(first) is None
    app.store.jobs.not_sent(again)
    assert app.store.jobs.sent() == [first]


def test_a_job_that_comes_back_is_sent_anew(app, ask):
    ask()
    manage = lane_of("default", "plan")
    first = app.store.jobs.send_next(manage, (), 10)
    worker = app.store.workers.add("w", 1)
    job = app.store.jobs.claim(first.job, worker)
    assert app.store.jobs.claim(first.job, worker) is None
    assert app.store.jobs.sent() == []
    app.store.jobs.put_back(job, 5.0, "away")
    assert app.store.jobs.send_next(manage, (), 10) is None
    assert app.store.jobs.send_next(manage, [first.job], 10).attempts == 1
    assert app.store.jobs.send_again(first) is None


def test_a_message_of_a_run_that_is_left_to_others_is_sent_again_after_a_moment(app, ask):
    run, jobs = ask(), app.store.jobs
    worker, lane = app.store.workers.add("w", 1), Lane("default", "manage")
    sent = jobs.send_next(lane, (), 2)
    assert jobs.claim(sent.job, worker, [run]) is None
    assert jobs.delayed() == {(sent.job, 1): LEFT_S}
    assert jobs.send_next(lane, (), 2) is None
    assert jobs.send_next(lane, [sent.job], 2) == replace(sent, attempts=1)
    assert jobs.claim(sent.job, worker, ["another"])["worker"] == worker


def test_what_is_left_to_others_is_not_sent_again_and_again(app, ask):
    """A worker that leaves every job claims as fast as messages come."""
    run, jobs = ask(), app.store.jobs
    worker, told = app.store.workers.add("w", 1, pool="threads"), []

    def send(sent: Sent) -> None:
        told.append(sent.job)
        jobs.claim(sent.job, worker, [run])

    dispatcher = Dispatcher(app.store, send, RetryPolicy(lease_s=1000, retry_s=1))
    for now_s in (0, 0.2, 1, 2.1, 2.3, 2.5, 4, 4.6):
        dispatcher.look(now_s)
    assert len(told) == 3
