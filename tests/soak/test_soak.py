"""Workers are killed, put to sleep and woken at random, round after round: every run comes to the same."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import KINDS, LEASE_S, Installation, Posts, started, undisturbed

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
