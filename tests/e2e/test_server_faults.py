"""Database servers that are killed, put to sleep, cut off and filled up in mid-partition: the same rows come out."""

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import fill_up, mounted_disk
from native import Mariadb
from server_faults import KINDS, Pair, Served, cut_off, folder_of, pair_of, served

ROWS = 20_000
DISK_MB = 300
FULL_S = 4.0


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair_of(KINDS[request.param], folder_of(request.param), ROWS) as pair:
        yield pair


@pytest.fixture
def installation(tmp_path: Path, pair: Pair) -> Iterator[Served]:
    with served(tmp_path, pair) as installation:
        yield installation


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("seed", [1])
def test_run_is_the_same_when_a_server_is_killed(installation, pair, side, seed):
    chosen, server = random.Random(seed), getattr(pair, side)
    run = installation.label()
    installation.start_workers()
    for n in (2, 12):
        installation.wait_for_partitions(run, n)
        time.sleep(chosen.uniform(0.0, 0.1))
        server.kill()
        time.sleep(chosen.uniform(0.0, 1.0))
        server.start()
    installation.check_same(run)


def test_run_is_the_same_when_servers_fall_asleep(installation, pair):
    run = installation.label()
    installation.start_workers()
    for n, server in ((2, pair.target), (10, pair.source)):
        installation.wait_for_partitions(run, n)
        server.signal(signal.SIGSTOP)
        time.sleep(2.0)
        server.signal(signal.SIGCONT)
    installation.check_same(run)


def test_run_is_the_same_when_connections_are_cut(installation, pair):
    run = installation.label()
    installation.start_workers()
    for n in (2, 8, 16, 24):
        installation.wait_for_partitions(run, n)
        for server in (pair.source, pair.target):
            cut_off(server)
    installation.check_same(run)


def test_run_is_the_same_when_worker_and_server_are_killed_together(installation, pair):
    run = installation.label()
    first, _ = installation.start_workers()
    installation.wait_for_partitions(run, 5)
    installation.kill(first)
    pair.target.kill()
    installation.start_worker()
    pair.target.start()
    installation.check_same(run)


def test_run_is_the_same_after_the_disk_of_a_server_was_full(tmp_path, small_disk):
    """MariaDB refuses rows then, or waits, or ends itself: room is made, and it is started again if need be."""
    with pair_of(Mariadb, tmp_path, ROWS) as pair, contextlib.ExitStack() as ending:
        crowded = Mariadb(small_disk)
        ending.callback(crowded.kill)
        crowded.start()
        (tmp_path / "run").mkdir()
        installation = ending.enter_context(served(tmp_path / "run", replace(pair, target=crowded)))
        run = installation.label()
        installation.start_workers()
        installation.wait_for_partitions(run, 3)
        fill_up(small_disk / "ballast")
        time.sleep(FULL_S)
        (small_disk / "ballast").unlink()
        if not crowded.is_alive:
            crowded.start()
        installation.check_same(run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", DISK_MB) as folder:
        yield folder
