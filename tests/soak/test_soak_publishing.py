"""Workers are killed at random while they publish, bring back, preview, delete and are cancelled, round after round:
what is published is, byte for byte, what a twin has that nobody disturbed."""

import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from faults import LEASE_S, Installation, Posts, make_posts, started, wait_until

from audience.app.actors import LOCAL
from audience.app.requests import PublicationRequest, PublishRequest
from audience.app.root import App
from audience.errors import Conflict, NotFound
from audience.labeling.export import Rows, encoded

ROUNDS = int(os.environ["AUDIENCE_SOAK"])
TARGETS = ("published.db", "published", "mysql_url", "postgres_url")
STEPS = ("first", "second", "roll back", "roll back", "cancel", "replace", "preview", "cancel", "roll back", "delete")
KILLS = 3
N_ROWS = 8_000


@pytest.fixture(scope="session")
def posts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("posts")
    return [make_posts(folder / f"posts{seed}.db", N_ROWS, seed) for seed in range(2)]


def begin(app: App, name: str, step: str, runs: list[str]) -> str:
    """Asks for a step; the id of the operation."""
    if step == "roll back":
        return app.publications.roll_back(name, LOCAL)
    if step == "delete":
        return app.publications.delete(name, LOCAL)
    chosen = {"first": runs[:1], "second": runs[1:]}.get(step, runs)
    request = PublishRequest(runs=tuple(chosen), replace=step == "replace", preview=step == "preview")
    return app.publications.publish(name, request, LOCAL)


def published(app: App, name: str) -> bytes | None:
    """All rows as JSON lines in an order of their own, but for the moment at which they were published; None when there
    is no such publication."""
    try:
        rows = app.publications.exported(name)
    except NotFound:
        return None
    columns = [column for column in rows.schema.names if column != "published_at"]
    kept = (batch.select(columns) for batch in rows.batches)
    schema = rows.schema.remove(rows.schema.get_field_index("published_at"))
    lines = b"".join(encoded(Rows(kept, schema), "jsonl")).splitlines(keepends=True)
    return b"".join(sorted(lines))


def changed(publication: dict[str, Any]) -> list[tuple[int, list[str]]]:
    """What each version changed, in whatever order the target has its indexes."""
    return [(each["version"], sorted(map(str, each["changes"]))) for each in publication["versions"]]


def disturbed(installation: Installation, operation_id: str, chosen: random.Random, longest_s: float, step: str) -> str:
    """Workers have the operation, one after the other, and each but the last is killed; how it ended."""
    operations = installation.app.operations
    cancelled_at = chosen.randrange(KILLS) if step == "cancel" else None
    for n in range(KILLS):
        n_taken = sum(job["attempts"] for job in installation.app.store.operations.jobs(operation_id))
        worker = installation.start_worker()

        def is_taken(before: int = n_taken) -> bool:
            jobs = installation.app.store.operations.jobs(operation_id)
            return sum(job["attempts"] for job in jobs) > before or operations.has_ended(operation_id)

        wait_until(is_taken, f"{step} is begun with", poll_s=0.002)
        time.sleep(chosen.uniform(0.0, longest_s))
        installation.kill(worker)
        if n == cancelled_at:
            with contextlib.suppress(Conflict):  # it has ended
                operations.cancel(operation_id, LOCAL)
        if operations.has_ended(operation_id):
            break
    last = installation.start_worker()
    wait_until(lambda: operations.has_ended(operation_id), f"{step} has ended")
    installation.kill(last)
    return str(operations.get(operation_id)["state"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4000, 4000 + max(ROUNDS // 4, 1)))
def test_what_is_published_is_the_same_whatever_happens_to_its_workers(request, tmp_path, posts, target, seed):
    chosen = random.Random(seed)
    url = request.getfixturevalue(target) if target.endswith("_url") else str(tmp_path / target)
    with started(tmp_path, Posts(posts[0]), "labels.db") as installation:
        app = installation.app
        runs = [installation.label(path) for path in posts]
        for run in runs:
            app.operations.work_on(run)
        app.publications.add(PublicationRequest(name="loud", target=url), LOCAL)
        app.publications.add(PublicationRequest(name="quiet", target=str(tmp_path / "quiet")), LOCAL)
        longest_s = 2 * LEASE_S
        for n, step in enumerate(STEPS):
            state = disturbed(installation, begin(app, "loud", step, runs), chosen, longest_s, step)
            assert state in (("done", "aborted") if step == "cancel" else ("done",)), (n, step)
            began, twin = time.monotonic(), begin(app, "quiet", step, runs)
            if state == "aborted":
                app.operations.cancel(twin, LOCAL)
            app.operations.work_on(twin)
            assert app.operations.get(twin)["state"] == state
            longest_s = max(time.monotonic() - began, 0.2)
            assert published(app, "loud") == published(app, "quiet"), (n, step)
            if step != "delete":
                both = [app.publications.get(name) for name in ("loud", "quiet")]
                assert changed(both[0]) == changed(both[1]), (n, step)
                assert [one["doing"] for one in both] == [None, None]
                assert len({(one["version"], one["previous"]) for one in both}) == 1
