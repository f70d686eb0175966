"""The queue: claims jobs in turn, and finishes each exactly once. It knows no kinds of jobs."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict
from audience.store import schema
from audience.store.clock import clock_s
from audience.store.database import Database, Record, rows_of
from audience.store.queue_rows import due_in, last_turn
from audience.store.queues import Lane, within
from audience.store.states import JOB_MOVES, OPEN_JOB, sources_of

LEFT_S = 2.0


@dataclass(frozen=True)
class Sent:
    """A job that waits, and of which `times` messages were sent since it was last claimed; `attempts` as in the job."""

    job: int
    lane: Lane
    attempts: int
    times: int


class TakenAway(Conflict):
    """Raised when a job is no more its worker's: it was given to another, or its operation was cancelled."""


class Jobs:
    """Claims jobs by priority, then operation by operation in turn. The worker that claimed one owns it until it is
    finished, put back, or taken away because the worker is lost or the operation was cancelled; only the owner can
    finish it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def take(
        self,
        worker: str,
        operation_id: str | None = None,
        lanes: Sequence[Lane] | None = None,
        without: Collection[str] = (),
    ) -> Record | None:
        """Claims the next job that is due for this worker: of this operation, and of these lanes only, if they are
        given; of no operation in `without`. Returns None when there is none."""
        query = _next(operation_id, lanes, without)
        # Idle workers ask all the time: they look without the write lock, which would hold up everybody who writes.
        with self.database.reading() as connection:
            if connection.execute(query).first() is None:
                return None
        with self.database.writing() as connection:
            found = rows_of(connection, query)
            if not found or not _claim(connection, found[0]["id"], worker):
                return None
            _take_turn(connection, found[0]["operation_id"])
            return {**found[0], "worker": worker, "state": "taken", "attempts": found[0]["attempts"] + 1}

    def claim(self, job_id: int, worker: str, without: Collection[str] = ()) -> Record | None:
        """Claims one job for this worker, if it still waits: a message may come twice. A job of an operation in
        `without` gets another message, for other workers, after a moment: sent at once it would come back to this
        one."""
        job = schema.job
        left = sa.update(job).where(job.c.id == job_id, job.c.state == "waiting", job.c.operation_id.in_(without))
        anew = {"sent": 0, **due_in(LEFT_S), "attempts": job.c.attempts + 1}
        with self.database.writing() as connection:
            if without and connection.execute(left.values(anew)).rowcount:
                return None
            if not _claim(connection, job_id, worker):
                return None
            return rows_of(connection, sa.select(schema.job).where(schema.job.c.id == job_id))[0]

    def get(self, job_id: int) -> Record | None:
        found = self.database.rows(sa.select(schema.job).where(schema.job.c.id == job_id))
        return found[0] if found else None

    # messages: they only say that a job waits

    def sent(self) -> list[Sent]:
        """Returns the jobs that wait, and of which a message was sent."""
        job, operation = schema.job, schema.operation
        columns = (job.c.id, operation.c.queue, job.c.lane, job.c.attempts, job.c.sent)
        query = sa.select(*columns).join(operation, operation.c.id == job.c.operation_id)
        with self.database.reading() as connection:
            rows = connection.execute(query.where(job.c.state == "waiting", job.c.sent > 0)).all()
        return [Sent(job_id, Lane(queue, work), attempts, n) for job_id, queue, work, attempts, n in rows]

    def send_next(self, lane: Lane, most: int) -> Sent | None:
        """Counts a message of the next job that has none, in the order in which jobs are claimed, and returns it.
        Returns None when there is no such job, or when `most` jobs have a message under way."""
        query = _next(lanes=[lane], only=schema.job.c.sent == 0)
        # Dispatchers ask all the time: see `take`.
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
            _take_turn(connection, found[0]["operation_id"])
        return replace(present, times=1)

    def send_again(self, sent: Sent) -> Sent | None:
        """Counts one more message of a job that still waits as it did; returns None when another dispatcher counted
        first."""
        with self.database.writing() as connection:
            counted = _count_sent(connection, sent, sent.times + 1)
        return replace(sent, times=sent.times + 1) if counted else None

    def not_sent(self, sent: Sent) -> None:
        """Takes back the count of a message that could not be sent."""
        with self.database.writing() as connection:
            _count_sent(connection, sent, sent.times - 1)

    # the ends of a job

    @contextmanager
    def finishing(self, job: Record, state: str = "done", **values: Any) -> Iterator[sa.Connection]:
        """Opens a transaction that ends the job, and whatever follows from that, if its owner still has it. Raises
        TakenAway when it has not."""
        with self.database.writing() as connection:
            if not _move(connection, job, state, worker=None, **values):
                raise TakenAway(f"the {job['kind']} job {job['id']} was taken away meanwhile")
            yield connection

    def put_back(self, job: Record, delay_s: float, reason: str) -> None:
        """Puts a job back for another attempt after `delay_s`; nothing when its owner has lost it."""
        values = {**due_in(delay_s), "error": reason, "progress": 0, "failures": job["failures"] + 1}
        with self.database.writing() as connection:
            _move(connection, job, "waiting", worker=None, **values)

    def leave(self, job: Record, reason: str) -> None:
        """Leaves a job to others at once, without counting a failure; nothing when its owner has lost it."""
        with self.database.writing() as connection:
            _move(connection, job, "waiting", worker=None, error=reason, progress=0)

    def give_back(self, worker: str, job_ids: Collection[int]) -> None:
        """Gives jobs that this worker has claimed and does not work on to others."""
        job = schema.job
        owned = (job.c.id.in_(job_ids), job.c.worker == worker, job.c.state == "taken")
        with self.database.writing() as connection:
            connection.execute(sa.update(job).where(*owned).values(state="waiting", worker=None, progress=0))

    # how it stands

    def is_open(self, operation_id: str) -> bool:
        """Returns whether a job of the operation waits or is worked on."""
        job = schema.job
        query = sa.select(job.c.id).where(job.c.operation_id == operation_id, job.c.state.in_(OPEN_JOB)).limit(1)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def counts(self) -> dict[tuple[str, str], int]:
        """Returns (kind, state) -> number of jobs; those that wait for their time are `delayed`."""
        job = schema.job
        state = sa.case(((job.c.state == "waiting") & ~_is_due(), "delayed"), else_=job.c.state)
        query = sa.select(job.c.kind, state, sa.func.count()).group_by(job.c.kind, state)
        with self.database.reading() as connection:
            return {(kind, state): n for kind, state, n in connection.execute(query)}


def _is_due() -> sa.ColumnElement[bool]:
    """Selects jobs whose time has come, and those whose time lies further ahead than `delay_s` can explain: somebody
    has turned the clock back."""
    job = schema.job.c
    return (job.due_at <= clock_s()) | (job.due_at > clock_s() + job.delay_s + 1.0)


def _next(
    operation_id: str | None = None,
    lanes: Sequence[Lane] | None = None,
    without: Collection[str] = (),
    only: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    """Selects urgent jobs first, then those of the operation with the highest priority whose last turn was longest
    ago."""
    job, operation = schema.job, schema.operation
    query = sa.select(job.c.id).join(operation, operation.c.id == job.c.operation_id)
    query = query.where(job.c.state == "waiting", _is_due())
    if operation_id is not None:
        query = query.where(job.c.operation_id == operation_id)
    if lanes is not None:
        query = query.where(within(lanes))
    if without:
        query = query.where(job.c.operation_id.not_in(without))
    if only is not None:
        query = query.where(only)
    order = (job.c.urgent.desc(), operation.c.priority.desc(), operation.c.last_turn, job.c.id)
    first = query.order_by(*order).limit(1)
    return sa.select(job).where(job.c.id == first.scalar_subquery())  # sorting whole rows is slow where there are many


def _claim(connection: sa.Connection, job_id: int, worker: str) -> bool:
    """Claims a job unless this worker was given up meanwhile: nobody would notice when it vanished with the job."""
    job = schema.job
    alive = sa.exists().where(schema.worker.c.id == worker)
    guarded = sa.update(job).where(job.c.id == job_id, job.c.state.in_(sources_of("taken", JOB_MOVES)), alive)
    values = {"state": "taken", "worker": worker, "attempts": job.c.attempts + 1, "error": None, "sent": 0}
    return connection.execute(guarded.values({**values, **due_in(0)})).rowcount == 1


def _n_sent(connection: sa.Connection, lane: Lane) -> int:
    """Returns the number of jobs that wait, and of which a message is under way."""
    job, operation = schema.job, schema.operation
    query = sa.select(sa.func.count()).select_from(job).join(operation, operation.c.id == job.c.operation_id)
    query = query.where(job.c.state == "waiting", job.c.sent > 0, within([lane]))
    return int(connection.execute(query).scalar() or 0)


def _count_sent(connection: sa.Connection, seen: Sent, times: int) -> bool:
    """Counts a message only if the job still is as it was seen: of two dispatchers that want to send, one does."""
    c = schema.job.c
    as_seen = (c.id == seen.job, c.state == "waiting", c.attempts == seen.attempts, c.sent == seen.times)
    return connection.execute(sa.update(schema.job).where(*as_seen).values(sent=times)).rowcount == 1


def _take_turn(connection: sa.Connection, operation_id: str) -> None:
    """Puts an operation at the end of the line."""
    turn = last_turn(connection) + 1
    operation = schema.operation
    connection.execute(sa.update(operation).where(operation.c.id == operation_id).values(last_turn=turn))


def _move(connection: sa.Connection, job: Record, state: str, **values: Any) -> bool:
    """Moves a claimed job, if its owner and its attempt are still those of `job`."""
    c = schema.job.c
    owned = (c.id == job["id"], c.worker == job["worker"], c.attempts == job["attempts"])
    guarded = sa.update(schema.job).where(*owned, c.state.in_(sources_of(state, JOB_MOVES)))
    return connection.execute(guarded.values(state=state, **values)).rowcount == 1
