"""Our own records on a server, shared by processes that share no folder."""

import hashlib
import os
import signal
import socket

import pytest
from faults import RULES, Installation, Posts, started, undisturbed, wait_until

from audience.errors import BadInput

MANY_RULES = RULES + "".join(f"女性,無此字{n},partially\n" for n in range(5000))
"""More than fit a row, of which the same hit."""


@pytest.fixture(scope="session")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Posts:
    return undisturbed(tmp_path_factory.mktemp("posts"), 10_000)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def exported(installation: Installation, run: str) -> str:
    return hashlib.sha256(installation.program("export", run, "--sort")).hexdigest()


def killed_while_working(installation: Installation, run: str) -> bool:
    """Kills a worker that has a job and cannot finish it any more: it is asked while the worker stands still."""
    for worker in installation.app.store.workers.all():
        pid = int(worker["name"].rpartition(":")[2])
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
        jobs = installation.app.store.operations.jobs(run)
        owns_one = any(job["worker"] == worker["id"] and job["state"] == "taken" for job in jobs)
        os.kill(pid, signal.SIGKILL if owns_one else signal.SIGCONT)
        if owns_one:
            return True
    return False


@pytest.mark.parametrize("server", ["mysql_url", "postgres_url"])
def test_a_run_whose_records_are_on_a_server_survives_its_workers(request, tmp_path, posts, server):
    with started(tmp_path, posts, "labels", store_url=request.getfixturevalue(server)) as installation:
        run = installation.label()
        installation.start_worker("up", "--workers", "2", "--port", free_port())
        for n in (2, 8):
            installation.wait_for_partitions(run, n)
            wait_until(lambda: killed_while_working(installation, run), "a worker with a job is killed")
        installation.check_same(run)
        assert exported(installation, run) == posts.undisturbed.results
        assert any(job["losses"] for job in installation.app.store.operations.jobs(run))
        assert not (tmp_path / "home" / "audience.db").exists()
        installation.end(*installation.alive())


@pytest.mark.parametrize("server", ["mysql_url", "postgres_url"])
def test_results_do_not_go_where_the_records_are(request, tmp_path, posts, server):
    url = request.getfixturevalue(server)
    with started(tmp_path, posts, "labels", store_url=url) as installation:
        installation.target = url
        with pytest.raises(BadInput, match="our own records"):
            installation.label()


@pytest.mark.parametrize("server", ["mysql_url", "postgres_url"])
def test_workers_with_homes_of_their_own_share_records_and_blobs(request, tmp_path, posts, server):
    shared = {"store_url": request.getfixturevalue(server), "blobs_url": (tmp_path / "shared").as_uri()}
    with started(tmp_path, posts, "labels", rules=MANY_RULES, **shared) as installation:
        assert installation.app.models.all()[0]["definition"] is None
        run = installation.label()
        workers = [installation.start_worker(AUDIENCE_HOME=str(tmp_path / name)) for name in ("one", "other")]
        installation.check_same(run)
        for worker in workers:
            assert "action=partition_done" in installation.told_by(worker)
        installation.end(*workers)


def test_a_worker_without_the_blobs_leaves_the_run_to_others_and_says_why(mysql_url, tmp_path, posts):
    shared = {"store_url": mysql_url, "blobs_url": str(tmp_path / "shared")}
    with started(tmp_path, posts, "labels", rules=MANY_RULES, **shared) as installation:
        run = installation.label()
        empty = tmp_path / "empty"
        lacking = installation.start_worker(AUDIENCE_HOME=str(tmp_path / "one"), AUDIENCE_BLOBS_URL=str(empty))
        wait_until(lambda: "action=operation_left_to_others" in installation.told_by(lacking), "it says so")
        assert str(empty) in installation.task(run)["progress"]["waiting_for"]
        other = installation.start_worker(AUDIENCE_HOME=str(tmp_path / "other"))
        installation.check_same(run)
        assert {job["failures"] for job in installation.app.store.operations.jobs(run)} == {0}
        assert installation.told_by(lacking).count("AUDIENCE_BLOBS_URL") == 1
        assert "action=partition_done" not in installation.told_by(lacking)
        installation.end(lacking, other)
