"""Celery as dispatcher: every pool on every broker comes to the same as local workers do, whoever dies meanwhile."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import native
import pytest
from faults import LEASE_S, Installation, Posts, missing, started, undisturbed, wait_until
from kombu import Connection
from redis import Redis

from audience.app.actors import LOCAL
from audience.jobs.celery_app import lengths, make_celery, queues_of, sender
from audience.store.jobs import Sent
from audience.store.queues import Lane, parse_lanes
from audience.store.states import FINAL

POOLS = ("prefork", "threads", "solo", "gevent")
BROKERS = ("redis_url", "rabbitmq_url")
BOTH = ("--concurrency", "2")
LABEL, MANAGE = parse_lanes(["default"])


def celery(installation: Installation):
    url, prefix = installation.set["broker_url"], installation.set["queue_prefix"]
    return make_celery(url, prefix=prefix, lanes=parse_lanes(["default"]), visibility_timeout_s=1, stop_s=1)


def remove_queues(installation: Installation) -> None:
    url, prefix = installation.set["broker_url"], installation.set["queue_prefix"]
    if url.startswith("redis"):
        with Redis.from_url(url) as redis:
            for key in redis.keys(f"*{prefix}.*"):
                redis.delete(key)
        return
    with Connection(url) as connection:
        for lane in (LABEL, MANAGE):
            with contextlib.suppress(*connection.channel_errors), connection.channel() as channel:
                channel.queue_delete(f"{prefix}.{lane}")
        with contextlib.suppress(*connection.channel_errors), connection.channel() as channel:
            channel.exchange_delete(f"{prefix}.{LABEL}")


@pytest.fixture(scope="session")
def some(tmp_path_factory: pytest.TempPathFactory) -> Posts:
    return undisturbed(tmp_path_factory.mktemp("some"), 10_000)


@pytest.fixture(params=["redis_url"])
def installation(request: pytest.FixtureRequest, tmp_path: Path, some: Posts) -> Iterator[Installation]:
    """Twenty-five partitions, and workers that a broker brings their jobs."""
    url = request.getfixturevalue(request.param)
    with started(tmp_path, some, "labels.db") as found:
        found.use_broker(url)
        yield found
        found.kill(*found.alive())
        remove_queues(found)


every_broker = pytest.mark.parametrize("installation", BROKERS, indirect=True)


def busy(installation: Installation, run: str) -> None:
    wait_until(lambda: installation.n_done(run) >= 3, "some partitions are done")


# the same everywhere


@every_broker
@pytest.mark.parametrize("pool", POOLS)
def test_run_is_the_same_in_every_pool_on_every_broker(installation, pool):
    run = installation.label()
    worker = installation.start_worker("--pool", pool, *BOTH)
    installation.check_same(run)
    assert installation.task(run)["report"]["peak_memory_mb"] > 1
    assert {w["pool"] for w in installation.app.store.workers.all()} == {pool}
    installation.end(worker)
    assert installation.app.store.workers.all() == []


@pytest.mark.parametrize("pool", POOLS)
def test_aborted_run_stops_in_every_pool_and_is_resumed(installation, pool):
    run = installation.label()
    installation.start_worker("--pool", pool, *BOTH)
    busy(installation, run)
    installation.app.runs.abort(run, LOCAL)
    installation.wait_for(run, "aborted")
    assert installation.n_done(run) < 25
    installation.app.runs.resume(run, LOCAL)
    installation.check_same(run)


def test_worker_takes_jobs_of_its_queues_only(installation):
    run = installation.label()
    installation.start_worker("--pool", "solo", "--queue", "default.manage")
    wait_until(lambda: installation.jobs(run, "plan", "done"), "it is planned")
    time.sleep(1)
    assert len(installation.jobs(run, "partition", "waiting")) == 25
    installation.start_worker("--pool", "threads", "--queue", "default.label,other")
    installation.check_same(run)


# who vanishes


@every_broker
def test_run_is_the_same_when_workers_with_their_children_are_killed(installation):
    run = installation.label()
    workers = [installation.start_worker("--pool", "prefork", *BOTH) for _ in range(2)]
    busy(installation, run)
    installation.kill(workers[0])
    installation.check_same(run)


def test_run_is_the_same_when_a_child_is_killed(installation):
    run = installation.label()
    worker = installation.start_worker("--pool", "prefork", *BOTH)
    busy(installation, run)
    [child, _] = [int(w["name"].rpartition(":")[2]) for w in installation.app.store.workers.all()]
    assert child != worker.pid
    os.kill(child, signal.SIGKILL)
    installation.check_same(run)
    wait_until(lambda: "WorkerLostError" in installation.told_by(worker), "Celery tells that a child is lost")
    installation.forgive_celery()


def test_run_is_the_same_when_a_worker_sleeps_beyond_its_lease(installation):
    sleeper, other = [installation.start_worker("--pool", "threads", *BOTH) for _ in range(2)]
    wait_until(lambda: installation.id_of(sleeper) and installation.id_of(other), "both are there")
    run = installation.label()
    known_as = installation.put_to_sleep(sleeper, run, random.Random(1))
    sleeper.send_signal(signal.SIGCONT)
    installation.check_same(run)
    wait_until(lambda: installation.id_of(sleeper) not in (None, known_as), "it goes on under a new id")


def test_workers_join_and_leave_and_what_they_leave_is_done_by_others(installation):
    run = installation.label()
    first = installation.start_worker("--pool", "prefork", *BOTH)
    busy(installation, run)
    second = installation.start_worker("--pool", "threads")
    wait_until(lambda: installation.id_of(second), "it is there")
    installation.end(first)
    installation.check_same(run)
    assert {job["losses"] for job in installation.app.store.operations.jobs(run)} == {0}


def test_worker_that_is_told_to_stop_gives_back_what_it_cannot_finish(installation):
    installation.set["stop_s"] = 1.0
    run = installation.label()
    worker = installation.start_worker("--pool", "threads")
    busy(installation, run)
    with locked(installation):
        wait_until(lambda: installation.jobs(run, "partition", "taken"), "a partition waits for the target")
        worker.terminate()
        assert worker.wait(10) == 0
    assert "action=worker_left_work_behind" in installation.told_by(worker)
    assert installation.app.store.workers.all() == []
    installation.start_worker("--pool", "threads")
    installation.check_same(run)


@contextlib.contextmanager
def locked(installation: Installation) -> Iterator[None]:
    """Nobody can write to the target."""
    db = sqlite3.connect(installation.target, timeout=30, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.rollback()
        db.close()


# messages


def test_message_that_comes_twice_is_refused_once(installation):
    run = installation.label()
    [plan] = installation.jobs(run, "plan", "waiting")
    send = sender(celery(installation))
    for _ in range(2):
        send(Sent(plan["id"], Lane("default", "manage"), 0, 1))
    worker = installation.start_worker("--pool", "threads", *BOTH)
    installation.check_same(run)
    assert installation.jobs(run, "plan", "done")[0]["attempts"] == 1
    assert f"action=message_in_vain job={plan['id']}" in installation.told_by(worker)


def test_message_that_redis_brings_again_while_its_job_is_under_way_is_refused(installation):
    run = installation.label()
    workers = [installation.start_worker("--pool", "threads") for _ in range(2)]
    busy(installation, run)
    with locked(installation):  # for longer than the visibility timeout of one second
        wait_until(lambda: len(installation.jobs(run, "partition", "taken")) == 2, "both wait for the target")
        taken = {job["id"]: job["attempts"] for job in installation.jobs(run, "partition", "taken")}
        time.sleep(12)  # Celery looks for such messages every ten
    installation.check_same(run)
    assert {
        job["id"]: job["attempts"] for job in installation.app.store.operations.jobs(run) if job["id"] in taken
    } == taken
    assert "action=message_in_vain" in "".join(map(installation.told_by, workers))


def n_sent(installation: Installation) -> int:
    """After a moment."""
    time.sleep(0.02)
    return len(installation.app.store.jobs.sent())


def test_few_messages_are_under_way_whatever_there_is_to_do(installation):
    [run, _] = [installation.label() for _ in range(2)]
    installation.start_worker("--pool", "threads", "--concurrency", "1")
    busy(installation, run)
    assert 0 < max(n_sent(installation) for _ in range(50)) <= 4
    assert lengths(celery(installation), [LABEL])[queues_of(celery(installation)).name(LABEL)] <= 2


# the broker


@pytest.fixture(params=["redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, some: Posts) -> Iterator[native.Redis | native.Rabbitmq]:
    """Of this test alone."""
    if shutil.which(f"{request.param}-server") is None:
        missing(f"{request.param}-server is missing: apt install {request.param}-server")
    server = {"redis": native.Redis, "rabbitmq": native.Rabbitmq}[request.param](tmp_path / "broker")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own(tmp_path: Path, some: Posts, broker: native.Redis | native.Rabbitmq) -> Iterator[Installation]:
    with started(tmp_path, some, "labels.db") as found:
        found.use_broker(broker.url)
        yield found


def serve_until_done(own: Installation, run: str, *worker: str) -> None:
    """Starts a worker that has ended anew, as a service manager does: where the broker dies while Celery confirms a
    message, kombu may raise an AttributeError, and Celery's main process ends."""

    def is_done() -> bool:
        if not own.alive():
            own.start_worker(*worker)
        return own.state(run) in FINAL

    wait_until(is_done, "the run ends")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_run_is_the_same_when_the_broker_is_killed_and_comes_back_empty(own, broker):
    run = own.label()
    own.start_worker("--pool", "prefork", *BOTH)
    busy(own, run)
    broker.kill()
    if isinstance(broker, native.Rabbitmq):
        shutil.rmtree(broker.data)
    done = own.n_done(run)
    broker.start()
    serve_until_done(own, run, "--pool", "prefork", *BOTH)
    own.check_same(run)
    assert done < 25
    own.forgive_celery()


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_run_is_the_same_when_the_broker_is_killed_and_keeps_its_messages(own, broker):
    run = own.label()
    own.start_worker("--pool", "threads", *BOTH)
    busy(own, run)
    broker.kill()
    broker.start()
    serve_until_done(own, run, "--pool", "threads", *BOTH)
    own.check_same(run)
    own.forgive_celery()


def test_run_is_the_same_when_the_broker_sleeps(own, broker):
    run = own.label()
    own.start_worker("--pool", "prefork", *BOTH)
    busy(own, run)
    broker.signal(signal.SIGSTOP)
    time.sleep(2 * LEASE_S)
    assert own.app.store.workers.all()
    broker.signal(signal.SIGCONT)
    own.check_same(run)


def test_a_worker_says_that_the_broker_refuses_it(tmp_path, some, rabbitmq_url):
    with started(tmp_path, some, "labels.db") as installation:
        installation.use_broker(rabbitmq_url.replace("guest:guest@", "guest:wrong@"))
        worker = installation.start_worker()
        assert worker.wait(60) == 1
        told = installation.told_by(worker)
    assert "the broker refuses us" in told
    assert "Traceback" not in told
    assert "wrong" not in told


# for those who run it


def test_status_tells_who_is_there_and_how_much_waits(installation):
    url = installation.set["broker_url"]
    worker = installation.start_worker("--pool", "prefork", *BOTH)
    wait_until(lambda: len(installation.app.store.workers.all()) == 2, "both children are there")
    found = json.loads(installation.program("worker", "status", "--json"))
    assert {(w["pool"], w["parent"], w["beating"], w["queues"]) for w in found["workers"]} == {
        ("prefork", worker.pid, True, "default")
    }
    assert list(found["messages"].values()) == [0, 0]
    assert b"prefork" in installation.program("worker", "status")
    assert "polars" not in Path(f"/proc/{worker.pid}/maps").read_text()
    installation.set["broker_url"] = "redis://127.0.0.1:1/0"
    away = json.loads(installation.program("worker", "status", "--json"))
    assert len(away["workers"]) == 2
    assert "broker cannot be reached" in away["trouble"]
    installation.set["broker_url"] = url


def test_up_keeps_workers_of_the_broker_running_and_they_end_with_it(installation):
    run = installation.label()
    port = native.free_port()
    command = [sys.executable, "-m", "audience", "up", "--port", str(port), "--workers", "1", "--threads", "1"]
    with installation.log(0).open("wb") as log:
        up = subprocess.Popen(command, env=installation.environment(), cwd=installation.folder, stderr=log)
    installation.workers.append(up)
    found = installation.app.store.workers
    [first] = wait_until(found.all, "a worker is there")
    os.kill(int(first["name"].split(":")[1]), signal.SIGKILL)
    wait_until(lambda: {w["id"] for w in found.all()} - {first["id"]}, "another is started")
    installation.check_same(run)
    installation.kill(up)
    wait_until(lambda: not found.all(), "the workers end too")


def test_flower_lists_our_worker(installation):
    worker = installation.start_worker("--pool", "solo")
    wait_until(lambda: "ready." in installation.told_by(worker), "it is ready")
    port = native.free_port()
    command = [sys.executable, "-m", "celery", "-A", "audience", "flower", f"--port={port}", "--address=127.0.0.1"]
    environment = installation.environment(FLOWER_UNAUTHENTICATED_API="true")
    flower = subprocess.Popen(command, env=environment, cwd=installation.folder, stderr=subprocess.DEVNULL)
    name = f"{installation.set['queue_prefix']}-{worker.pid}@"

    def listed() -> bool:
        url = f"http://127.0.0.1:{port}/api/workers?refresh=1"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return name in answer.read().decode()
        return False

    try:
        wait_until(listed, "Flower lists it", timeout_s=30, poll_s=0.5)
    finally:
        flower.kill()
        flower.wait()
