"""Who is alive, and works on what, from two looks at the heartbeats."""

import time

from audience.jobs.worker import BEATS_A_LEASE
from audience.store.database import Record
from audience.store.records import Store

LOOK_S = 0.1
BEATS = 3


def worker_status(store: Store, lease_s: float) -> list[Record]:
    """Returns the workers that are thought alive, each with its host, process, queues, pool and jobs. `beating`:
    whether its heartbeat was seen to change, which takes the time of a few heartbeats at most."""
    before = store.workers.beats()
    deadline = time.monotonic() + BEATS * lease_s / BEATS_A_LEASE
    seen: set[str] = set()
    while seen < before.keys() and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        beats = store.workers.beats()
        seen |= {worker for worker, beat in before.items() if beats.get(worker) != beat}
    work = store.workers.work()
    return [
        {**_told(worker), "beating": worker["id"] in seen, "works_on": work.get(worker["id"], [])}
        for worker in store.workers.all()
    ]


def _told(worker: Record) -> Record:
    """Returns a worker as it is shown. Its name holds the host, the process, and for a pool child the child's
    process."""
    host, _, pid = worker["name"].partition(":")
    parent, _, child = pid.partition(":")
    own = {name: worker[name] for name in ("id", "pool", "queues", "threads", "started_at")}
    return {**own, "host": host, "pid": int(child or parent), "parent": int(parent) if child else None}
