"""The queue of work: taking jobs in turn, and finishing each exactly once."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict
from audience.store import schema
from audience.store.database import Database, Record, rows_of
from audience.store.states import JOB_MOVES, OPEN_JOB, sources_of


class Jobs:
    """Jobs are taken by priority, then run by run in turn. Who has taken one owns it until it is finished, put back,
    or taken away because its owner is lost or the run was stopped; only the owner can finish it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def delayed(self) -> dict[tuple[int, int], float]:
        """(job, attempts) -> how long it is to wait before it is taken, of those that are to wait."""
        job = schema.job
        query = sa.select(job.c.id, job.c.attempts, job.c.delay_s).where(job.c.state == "waiting", job.c.delay_s > 0)
        with self.database.reading() as connection:
            return {(job_id, attempts): delay_s for job_id, attempts, delay_s in connection.execute(query)}

    def take(self, worker: str, ripe: Collection[int] = (), run_id: str | None = None) -> Record | None:
        """The next job, for this worker; of this run only if one is given. `ripe` have waited long enough. None when
        there is none."""
        query = _next(ripe, run_id)
        with self.database.reading() as connection:
            if connection.execute(query).first() is None:
                return None
        with self.database.writing() as connection:
            found = rows_of(connection, query)
            if not found or not _claim(connection, found[0]["id"], worker):
                return None
            _serve(connection, found[0]["run_id"])
            return {**found[0], "worker": worker, "state": "taken", "attempts": found[0]["attempts"] + 1}

    def claim(self, job_id: int, worker: str) -> Record | None:
        """One job, for this worker, if it is still waiting: a message may come twice."""
        with self.database.writing() as connection:
            if not _claim(connection, job_id, worker):
                return None
            return rows_of(connection, sa.select(schema.job).where(schema.job.c.id == job_id))[0]

    @contextmanager
    def finishing(self, job: Record, state: str = "done", **values: Any) -> Iterator[sa.Connection]:
        """A transaction that ends the job and whatever follows from that, if it is still its owner's. Raises Conflict
        when it is not."""
        with self.database.writing() as connection:
            if not _move(connection, job, state, worker=None, **values):
                raise Conflict(f"the {job['kind']} job {job['id']} was taken away meanwhile")
            yield connection

    def put_back(self, job: Record, delay_s: float, reason: str) -> None:
        """To be tried again after a while; nothing when it is not the owner's any more."""
        values = {"delay_s": delay_s, "error": reason, "n_read": 0, "failures": job["failures"] + 1}
        with self.database.writing() as connection:
            _move(connection, job, "waiting", worker=None, **values)

    def give_back(self, worker: str, job_ids: Collection[int]) -> None:
        """Jobs that this worker has taken and does not work on, for others."""
        job = schema.job
        owned = (job.c.id.in_(job_ids), job.c.worker == worker, job.c.state == "taken")
        with self.database.writing() as connection:
            connection.execute(sa.update(job).where(*owned).values(state="waiting", worker=None, n_read=0))

    def read(self, run_id: str) -> list[Record]:
        return self.database.rows(sa.select(schema.job).where(schema.job.c.run_id == run_id).order_by(schema.job.c.id))

    def is_open(self, run_id: str) -> bool:
        """Whether a job of the run waits or is worked on."""
        job = schema.job
        query = sa.select(job.c.id).where(job.c.run_id == run_id, job.c.state.in_(OPEN_JOB)).limit(1)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, state) -> number of jobs."""
        job = schema.job
        query = sa.select(job.c.kind, job.c.state, sa.func.count()).group_by(job.c.kind, job.c.state)
        with self.database.reading() as connection:
            return {(kind, state): n for kind, state, n in connection.execute(query)}

    def rows_read(self) -> int:
        with self.database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.sum(schema.job.c.n_read))).scalar() or 0)


def add_jobs(
    connection: sa.Connection,
    run_id: str,
    kind: str,
    *,
    task_id: str | None = None,
    fence: int = 0,
    urgent: bool = False,
    delay_s: float = 0.0,
    after: str | None = None,
    jobs: Iterable[Record] = ({},),
) -> None:
    """Jobs that wait to be taken; `jobs` says what differs between them."""
    row: Record = {"run_id": run_id, "task_id": task_id, "kind": kind, "number": 0, "fence": fence, "state": "waiting"}
    row |= {"urgent": urgent, "delay_s": delay_s, "after": after, "counts": None}
    row |= {"attempts": 0, "failures": 0, "losses": 0, "n_read": 0}
    if rows := [{**row, **job} for job in jobs]:
        connection.execute(sa.insert(schema.job), rows)


def _next(ripe: Collection[int], run_id: str | None) -> sa.Select[Any]:
    """Urgent jobs first, then those of the run with the highest priority that was served least recently."""
    job, run = schema.job, schema.run
    ready = (job.c.delay_s == 0) | job.c.id.in_(ripe)
    query = sa.select(job).join(run, run.c.id == job.c.run_id).where(job.c.state == "waiting", ready)
    if run_id is not None:
        query = query.where(job.c.run_id == run_id)
    return query.order_by(job.c.urgent.desc(), run.c.priority.desc(), run.c.served, job.c.id).limit(1)


def _claim(connection: sa.Connection, job_id: int, worker: str) -> bool:
    """Not for a worker that was given up meanwhile: nobody would notice that it vanished with the job."""
    job = schema.job
    alive = sa.exists().where(schema.worker.c.id == worker)
    guarded = sa.update(job).where(job.c.id == job_id, job.c.state.in_(sources_of("taken", JOB_MOVES)), alive)
    values = {"state": "taken", "worker": worker, "attempts": job.c.attempts + 1, "delay_s": 0, "error": None}
    return connection.execute(guarded.values(values)).rowcount == 1


def _serve(connection: sa.Connection, run_id: str) -> None:
    """Puts a run at the end of the line."""
    served = last_served(connection) + 1
    connection.execute(sa.update(schema.run).where(schema.run.c.id == run_id).values(served=served))


def last_served(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.max(schema.run.c.served))).scalar() or 0


def _move(connection: sa.Connection, job: Record, state: str, **values: Any) -> bool:
    """Moves a taken job, if its owner is still the one that took it this time."""
    c = schema.job.c
    owned = (c.id == job["id"], c.worker == job["worker"], c.attempts == job["attempts"])
    guarded = sa.update(schema.job).where(*owned, c.state.in_(sources_of(state, JOB_MOVES)))
    return connection.execute(guarded.values(state=state, **values)).rowcount == 1
