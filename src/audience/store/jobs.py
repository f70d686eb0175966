"""The queue of work: taking jobs in turn, and finishing each exactly once."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict
from audience.store import schema
from audience.store.database import Database, Record, rows_of, total
from audience.store.queues import Lane, lane_of, within
from audience.store.states import JOB_MOVES, OPEN_JOB, sources_of

LEFT_S = 2.0


@dataclass(frozen=True)
class Sent:
    """A job that waits, and of which `times` messages were sent since it was last taken; `attempts` as in the job."""

    job: int
    lane: Lane
    attempts: int
    times: int


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

    def take(
        self,
        worker: str,
        due: Collection[int] = (),
        run_id: str | None = None,
        lanes: Sequence[Lane] | None = None,
        without: Collection[str] = (),
    ) -> Record | None:
        """The next job, for this worker; of this run, and of these lanes only, if any are given; of no run in
        `without`. `due` have waited long enough. None when there is none."""
        query = _next(due, run_id, lanes, without)
        with self.database.reading() as connection:
            if connection.execute(query).first() is None:
                return None
        with self.database.writing() as connection:
            found = rows_of(connection, query)
            if not found or not _claim(connection, found[0]["id"], worker):
                return None
            _serve(connection, found[0]["run_id"])
            return {**found[0], "worker": worker, "state": "taken", "attempts": found[0]["attempts"] + 1}

    def claim(self, job_id: int, worker: str, without: Collection[str] = ()) -> Record | None:
        """One job, for this worker, if it is still waiting: a message may come twice. One of a run in `without` is to
        be sent again, to others, after a moment: the next message may come here as well."""
        job = schema.job
        left = sa.update(job).where(job.c.id == job_id, job.c.state == "waiting", job.c.run_id.in_(without))
        anew = {"sent": 0, "delay_s": LEFT_S, "attempts": job.c.attempts + 1}
        with self.database.writing() as connection:
            if without and connection.execute(left.values(anew)).rowcount:
                return None
            if not _claim(connection, job_id, worker):
                return None
            return rows_of(connection, sa.select(schema.job).where(schema.job.c.id == job_id))[0]

    # messages: they only say that a job waits

    def sent(self) -> list[Sent]:
        """Jobs that wait, and of which a message was sent."""
        job, run = schema.job, schema.run
        columns = (job.c.id, run.c.queue, job.c.kind, job.c.attempts, job.c.sent)
        query = sa.select(*columns).join(run, run.c.id == job.c.run_id).where(job.c.state == "waiting", job.c.sent > 0)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return [Sent(job_id, lane_of(queue, kind), attempts, n) for job_id, queue, kind, attempts, n in rows]

    def send_next(self, lane: Lane, due: Collection[int], most: int) -> Sent | None:
        """The next job of which a message is now to be sent, in the order in which jobs are taken; it counts as sent.
        None when there is none, or when messages of as many jobs as there may be are under way."""
        query = _next(due, lanes=[lane], only=schema.job.c.sent == 0)
        with self.database.reading() as connection:
            if connection.execute(query).first() is None or _n_sent(connection, lane) >= most:
                return None
        with self.database.writing() as connection:
            found = rows_of(connection, query)
            if not found or _n_sent(connection, lane) >= most:
                return None
            present = Sent(found[0]["id"], lane, found[0]["attempts"], 0)
            if not _count_sent(connection, present, 1):
                return None
            _serve(connection, found[0]["run_id"])
        return replace(present, times=1)

    def send_again(self, sent: Sent) -> Sent | None:
        """Counts one more message of a job that still waits as it did; None when another counted first."""
        with self.database.writing() as connection:
            counted = _count_sent(connection, sent, sent.times + 1)
        return replace(sent, times=sent.times + 1) if counted else None

    def not_sent(self, sent: Sent) -> None:
        """The message could not be sent."""
        with self.database.writing() as connection:
            _count_sent(connection, sent, sent.times - 1)

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

    def leave(self, job: Record, reason: str) -> None:
        """To be taken by another at once: no failure. Nothing when it is not the owner's any more."""
        with self.database.writing() as connection:
            _move(connection, job, "waiting", worker=None, error=reason, n_read=0)

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
            return int(connection.execute(sa.select(total(schema.job.c.n_read))).scalar() or 0)


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


def _next(
    due: Collection[int],
    run_id: str | None = None,
    lanes: Sequence[Lane] | None = None,
    without: Collection[str] = (),
    only: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    """Urgent jobs first, then those of the run with the highest priority that was served least recently."""
    job, run = schema.job, schema.run
    ready = (job.c.delay_s == 0) | job.c.id.in_(due)
    query = sa.select(job.c.id).join(run, run.c.id == job.c.run_id).where(job.c.state == "waiting", ready)
    if run_id is not None:
        query = query.where(job.c.run_id == run_id)
    if lanes is not None:
        query = query.where(within(lanes))
    if without:
        query = query.where(job.c.run_id.not_in(without))
    if only is not None:
        query = query.where(only)
    first = query.order_by(job.c.urgent.desc(), run.c.priority.desc(), run.c.served, job.c.id).limit(1)
    return sa.select(job).where(job.c.id == first.scalar_subquery())  # sorting whole rows is slow where there are many


def _claim(connection: sa.Connection, job_id: int, worker: str) -> bool:
    """Not for a worker that was given up meanwhile: nobody would notice that it vanished with the job."""
    job = schema.job
    alive = sa.exists().where(schema.worker.c.id == worker)
    guarded = sa.update(job).where(job.c.id == job_id, job.c.state.in_(sources_of("taken", JOB_MOVES)), alive)
    values = {"state": "taken", "worker": worker, "attempts": job.c.attempts + 1, "delay_s": 0, "error": None}
    return connection.execute(guarded.values({**values, "sent": 0})).rowcount == 1


def _n_sent(connection: sa.Connection, lane: Lane) -> int:
    """Jobs that wait, and of which a message is under way."""
    job, run = schema.job, schema.run
    query = sa.select(sa.func.count()).select_from(job).join(run, run.c.id == job.c.run_id)
    query = query.where(job.c.state == "waiting", job.c.sent > 0, within([lane]))
    return int(connection.execute(query).scalar() or 0)


def _count_sent(connection: sa.Connection, seen: Sent, times: int) -> bool:
    """Only if the job still is as it was seen: of two that want to send, one does."""
    c = schema.job.c
    as_seen = (c.id == seen.job, c.state == "waiting", c.attempts == seen.attempts, c.sent == seen.times)
    return connection.execute(sa.update(schema.job).where(*as_seen).values(sent=times)).rowcount == 1


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
