"""Workers are killed, put to sleep and woken at random, round after round: every run comes to the same."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import native
import pytest
from faults import KINDS, LEASE_S, Installation, Posts, started, undisturbed
from server_faults import KINDS as SERVERS
from server_faults import Pair, cut_off, folder_of, pair_of, served

from audience.store.states import FINAL

ROUNDS = int(os.environ["AUDIENCE_SOAK"])


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Posts:
    return undisturbed(tmp_path_factory.mktemp("many"), 20_000)


@pytest.fixture
def large(request: pytest.FixtureRequest, tmp_path: Path, many: Posts) -> Iterator[Installation]:
    with started(tmp_path, many, request.param) as installation:
        yield installation


@pytest.mark.parametrize(
    ("large", "seed"), [(KINDS[n % 2], 1000 + n) for n in range(ROUNDS)], indirect=["large"], ids=str
)
def test_run_is_the_same_whatever_happens_to_its_workers(large, seed):
    chosen = random.Random(seed)
    run = large.label()
    for kind in chosen.choice(((), ("plan",), ("partition",), ("plan", "partition"))):
        large.start_worker()
        large.kill_whoever(run, kind)
        large.kill(*large.alive())
    large.start_workers()
    large.wait_for_partitions(run, 1)
    while large.state(run) not in FINAL:
        time.sleep(chosen.uniform(0.0, 0.7))
        disturb(large, chosen)
    large.check_same(run)


@pytest.fixture(scope="module", params=SERVERS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair_of(SERVERS[request.param], folder_of(request.param), 20_000) as pair:
        yield pair


@pytest.mark.parametrize("seed", range(2000, 2000 + ROUNDS // 2))
def test_run_is_the_same_whatever_happens_to_servers_and_workers(tmp_path, pair, seed):
    chosen = random.Random(seed)
    with served(tmp_path, pair) as installation:
        run = installation.label()
        installation.start_workers()
        installation.wait_for_partitions(run, 1)
        for _ in range(4):
            time.sleep(chosen.uniform(0.0, 0.7))
            disturb_server(chosen.choice((pair.source, pair.target)), chosen)
            if installation.state(run) not in FINAL and chosen.random() < 0.5:
                installation.kill(chosen.choice(installation.alive()))
                installation.start_worker()
        installation.check_same(run)


@pytest.mark.parametrize("seed", range(3000, 3000 + ROUNDS))
def test_run_is_the_same_whatever_happens_to_broker_and_workers(tmp_path, many, seed):
    chosen = random.Random(seed)
    broker = native.Redis(tmp_path / "broker")
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(broker.kill)
        broker.start()
        installation = afterwards.enter_context(started(tmp_path, many, "labels.db"))
        installation.use_broker(broker.url)
        run = installation.label()
        pools = [chosen.choice(("prefork", "threads", "gevent")) for _ in range(2)]
        for pool in pools:
            installation.start_worker("--pool", pool, "--concurrency", "2")
        installation.wait_for_partitions(run, 1)
        for _ in range(3):
            time.sleep(chosen.uniform(0.0, 0.7))
            disturb_server(broker, chosen, ("kill", "sleep"))
            if chosen.random() < 0.5:
                installation.kill(chosen.choice(installation.alive()))
                installation.start_worker("--pool", chosen.choice(pools), "--concurrency", "2")
        installation.check_same(run)
        installation.kill(*installation.alive())
        installation.forgive_celery()


def disturb_server(
    server: native.Process, chosen: random.Random, ways: Sequence[str] = ("kill", "cut", "sleep")
) -> None:
    """Kills it and starts it again, cuts its connections, or lets it sleep."""
    what = chosen.choice(ways)
    if what == "kill":
        server.kill()
        time.sleep(chosen.uniform(0.0, 1.0))
        server.start()
    elif what == "cut":
        cut_off(server)
    else:
        server.signal(signal.SIGSTOP)
        time.sleep(chosen.uniform(0.0, 3 * LEASE_S))
        server.signal(signal.SIGCONT)


def disturb(large: Installation, chosen: random.Random) -> None:
    """Kills a worker, all of them, or lets one sleep."""
    what = chosen.choice(("kill", "kill", "kill all", "sleep"))
    worker = chosen.choice(large.alive())
    if what == "sleep":
        worker.send_signal(signal.SIGSTOP)
        time.sleep(chosen.uniform(0.0, 3 * LEASE_S))
        worker.send_signal(signal.SIGCONT)
        return
    gone = large.alive() if what == "kill all" else [worker]
    large.kill(*gone)
    large.start_workers(len(gone))
