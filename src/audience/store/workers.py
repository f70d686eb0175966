"""Worker processes, as long as they are thought alive."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from audience.store import schema
from audience.store.database import Database, Record, new_id, now
from audience.store.queues import DEFAULT, parse_lanes
from audience.store.states import FINAL

LOCAL = "local"
"""The pool of a worker that looks for its jobs itself."""


class Workers:
    """Registers workers and counts their heartbeats. Others judge whether a worker is lost, from a heartbeat that does
    not change."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str, threads: int, queues: str = DEFAULT, pool: str = LOCAL) -> str:
        row = {"id": new_id(), "name": name[:100], "threads": threads, "beat": 0, "started_at": now()}
        row |= {"queues": queues, "pool": pool}
        with self.database.writing() as connection:
            connection.execute(sa.insert(schema.worker).values(row))
        return str(row["id"])

    def beat(self, worker: str, progress: Mapping[int, tuple[int, int | None]]) -> set[int] | None:
        """Counts one heartbeat, writes down the progress (done, total) of each job, and returns the jobs that are still
        this worker's. Returns None when others gave the worker up meanwhile."""
        job = schema.job
        mine = (job.c.worker == worker, job.c.state == "taken")
        counted = sa.update(schema.worker).where(schema.worker.c.id == worker).values(beat=schema.worker.c.beat + 1)
        with self.database.writing() as connection:
            if connection.execute(counted).rowcount == 0:
                return None
            for job_id, (done, whole) in progress.items():
                values = {"progress": done, "total": sa.func.coalesce(sa.literal(whole, sa.BigInteger), job.c.total)}
                connection.execute(sa.update(job).where(job.c.id == job_id, *mine).values(values))
            return set(connection.execute(sa.select(job.c.id).where(*mine)).scalars())

    def beats(self) -> dict[str, int]:
        """Returns worker -> its heartbeat, of those that are thought alive."""
        with self.database.reading() as connection:
            found = connection.execute(sa.select(schema.worker.c.id, schema.worker.c.beat))
            return dict(found.all())

    def remove(self, worker: str, *, lost: bool) -> int:
        """Removes a worker, which stops or is `lost`, and gives its jobs to others; returns how many. Twice: the
        same."""
        job = schema.job
        again = {"state": "waiting", "worker": None, "progress": 0}
        mine = sa.update(job).where(job.c.worker == worker, job.c.state == "taken")
        with self.database.writing() as connection:
            connection.execute(sa.delete(schema.worker).where(schema.worker.c.id == worker))
            return connection.execute(mine.values(**again, losses=job.c.losses + int(lost))).rowcount

    def named(self, name: str) -> list[str]:
        """Returns the ids of the workers of this name, and of its pool children."""
        with self.database.reading() as connection:
            return [worker for (worker,) in connection.execute(_named(name))]

    def relieve(self, name: str) -> None:
        """Gives the jobs of the workers of this name to others."""
        job = schema.job
        theirs = sa.update(job).where(job.c.worker.in_(_named(name)), job.c.state == "taken")
        with self.database.writing() as connection:
            connection.execute(theirs.values(state="waiting", worker=None, progress=0))

    def work(self) -> dict[str, list[Record]]:
        """Returns worker -> the jobs that it has claimed: kind, operation, subject, number and progress."""
        job = schema.job
        columns = (job.c.worker, job.c.kind, job.c.operation_id, job.c.subject, job.c.number, job.c.progress)
        found: dict[str, list[Record]] = {}
        for row in self.database.rows(sa.select(*columns).where(job.c.state == "taken").order_by(job.c.id)):
            found.setdefault(row.pop("worker"), []).append(row)
        return found

    def all(self) -> list[Record]:
        """Returns all workers, each with the number of jobs that it works on."""
        job, worker = schema.job, schema.worker
        taken = sa.select(sa.func.count()).where(job.c.worker == worker.c.id, job.c.state == "taken").scalar_subquery()
        return self.database.rows(sa.select(worker, taken.label("jobs")).order_by(worker.c.started_at))

    def lacking(self, queue: str, state: str = "planned") -> list[str]:
        """Returns a warning where an operation of this queue has not ended and no living worker serves the queue."""
        if state in FINAL:
            return []
        served = [row["queues"] for row in self.database.rows(sa.select(schema.worker.c.queues))]
        if set(parse_lanes([queue])) <= {lane for queues in served for lane in parse_lanes(queues.split(","))}:
            return []
        how = f"start `audience up`, or `audience worker --queue {queue}`"
        return [f"no worker that is alive serves the queue {queue}: {how}"]


def _named(name: str) -> sa.Select[Any]:
    c = schema.worker.c
    return sa.select(c.id).where((c.name == name) | c.name.startswith(f"{name}:", autoescape=True))
