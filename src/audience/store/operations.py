"""Operations: whatever users wait for and may cancel. Their states, and the moves between them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, new_id, note, now, rows_of, total
from audience.store.queue_rows import add_jobs, last_turn
from audience.store.queues import DEFAULT
from audience.store.states import FINAL, OPEN_JOB, sources_of

WORKER = "worker"
"""The actor of what workers do on their own."""

Cancelling = Callable[[sa.Connection, str, str], None]
"""Adds what a kind does besides, in the same transaction, when an actor cancels an operation (its id)."""


class Operations:
    """Reads, adds and cancels operations. All kinds look alike here; what a kind keeps beside them is in its own
    file."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, operation_id: str) -> Record:
        """Returns an operation with its `progress`, as of one moment."""
        with self.database.reading() as connection:
            return {**get_operation(connection, operation_id), "progress": _progress(connection, operation_id)}

    def find(self, reference: str, kind: str | None = None) -> Record:
        """Returns the operation with this id, or whose id begins so, or the `last`; of this kind, if one is given."""
        operation, what = schema.operation, kind or "operation"
        query = sa.select(operation).order_by(operation.c.created_at.desc())
        query = query if kind is None else query.where(operation.c.kind == kind)
        if reference == "last":
            found = self.database.rows(query.limit(1))
        else:
            begins = operation.c.id.startswith(reference, autoescape=True)
            found = self.database.rows(query.where(begins).limit(2))
        if not found or not reference:
            raise NotFound(f"there is no {what} {reference!r}")
        if len(found) > 1:
            raise BadInput(f"several {what}s begin with {reference!r}: give more of the id")
        return found[0]

    def page(
        self,
        limit: int = 50,
        kinds: Sequence[str] = (),
        states: Sequence[str] = (),
        created_by: str | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[Record]:
        """Returns operations, newest first: those before (created_at, id), of these kinds, states and this actor."""
        return self.database.rows(page_of(sa.select(schema.operation), limit, kinds, states, created_by, before))

    def add(
        self,
        kind: str,
        actor: str,
        *,
        subject: str | None = None,
        arguments: Record | None = None,
        queue: str = DEFAULT,
        delay_s: float = 0.0,
    ) -> str:
        """Adds an operation of one job, whose kind has the same name; returns its id."""
        with self.database.writing() as connection:
            row = add_operation(connection, kind, actor, subject=subject, queue=queue)
            add_jobs(connection, row["id"], kind, arguments=arguments, delay_s=delay_s)
            note(connection, actor, f"{kind}.add", row["id"])
        return str(row["id"])

    def start(self, operation_id: str) -> None:
        """Moves a planned operation to running; nothing when it runs already."""
        with self.database.writing() as connection:
            begin(connection, operation_id, WORKER)

    def jobs(self, operation_id: str) -> list[Record]:
        job = schema.job
        return self.database.rows(sa.select(job).where(job.c.operation_id == operation_id).order_by(job.c.id))

    def result(self, operation_id: str) -> Any:
        """Returns the result of the operation's last finished job; None as long as there is none."""
        job = schema.job
        done = sa.select(job.c.result).where(job.c.operation_id == operation_id, job.c.state == "done")
        with self.database.reading() as connection:
            return connection.execute(done.order_by(job.c.id.desc()).limit(1)).scalar()

    def counts(self) -> dict[tuple[str, str], int]:
        """Returns (kind, state) -> number of operations."""
        c = schema.operation.c
        query = sa.select(c.kind, c.state, sa.func.count()).group_by(c.kind, c.state)
        with self.database.reading() as connection:
            return {(kind, state): n for kind, state, n in connection.execute(query)}

    def cancel(self, operation_id: str, actor: str, and_then: Cancelling | None = None) -> None:
        """Cancels an operation, and takes its jobs from whoever works on them. `and_then` brings it to its end with
        jobs of its own; without it the operation is aborted now."""
        with self.database.writing() as connection:
            move(connection, operation_id, "aborting", actor)
            cancel_jobs(connection, operation_id)
            if and_then is not None:
                and_then(connection, operation_id, actor)
            else:
                move(connection, operation_id, "aborted", actor)


def add_operation(
    connection: sa.Connection,
    kind: str,
    actor: str,
    *,
    subject: str | None = None,
    queue: str = DEFAULT,
    priority: int = 0,
) -> Record:
    """Adds an operation, planned and last in the line, and returns its row. Its kind's own row and jobs follow."""
    row: Record = {"id": new_id(), "kind": kind, "subject": subject, "state": "planned", "queue": queue}
    row |= {"priority": priority, "last_turn": last_turn(connection) + 1, "created_by": actor, "created_at": now()}
    connection.execute(sa.insert(schema.operation).values(row))
    return row


def get_operation(connection: sa.Connection, operation_id: str) -> Record:
    found = rows_of(connection, sa.select(schema.operation).where(schema.operation.c.id == operation_id))
    if not found:
        raise NotFound(f"there is no operation {operation_id!r}")
    return found[0]


def page_of(
    query: sa.Select[Any],
    limit: int,
    kinds: Sequence[str],
    states: Sequence[str],
    created_by: str | None,
    before: tuple[str, str] | None,
) -> sa.Select[Any]:
    """Narrows a query of operations, or of a join with them, to one page, newest first."""
    c = schema.operation.c
    query = query.order_by(c.created_at.desc(), c.id.desc()).limit(limit)
    if kinds:
        query = query.where(c.kind.in_(kinds))
    if states:
        query = query.where(c.state.in_(states))
    if created_by is not None:
        query = query.where(c.created_by == created_by)
    if before is not None:
        at, operation_id = before
        query = query.where((c.created_at < at) | ((c.created_at == at) & (c.id < operation_id)))
    return query


def state_of(connection: sa.Connection, table: sa.Table, record_id: str) -> str:
    present = connection.execute(sa.select(table.c.state).where(table.c.id == record_id)).scalar()
    if present is None:
        raise NotFound(f"there is no {table.name} {record_id!r}")
    return str(present)


def move(
    connection: sa.Connection,
    operation_id: str,
    state: str,
    actor: str,
    error: str | None = None,
    *,
    keep_error: bool = False,
) -> None:
    """Moves an operation to a state, if the state that it is in allows that. The only writer of these states."""
    operation = schema.operation
    values: Record = {"state": state, "finished_at": now() if state in FINAL else None}
    if not keep_error:
        values["error"] = error
    if state == "running":
        values["started_at"] = sa.func.coalesce(operation.c.started_at, now())
    may = (operation.c.id == operation_id, operation.c.state.in_(sources_of(state)))
    moved = connection.execute(sa.update(operation).where(*may).values(values)).rowcount
    kind = connection.execute(sa.select(operation.c.kind).where(operation.c.id == operation_id)).scalar()
    if moved == 0:
        present = state_of(connection, operation, operation_id)
        raise Conflict(f"the {kind} {operation_id} is {present}; it cannot become {state}", present)
    note(connection, actor, f"{kind}.{state}", operation_id, **({"error": error} if error else {}))


def begin(connection: sa.Connection, operation_id: str, actor: str) -> None:
    """Moves a planned operation to running; nothing when it runs already."""
    if state_of(connection, schema.operation, operation_id) == "planned":
        move(connection, operation_id, "running", actor)


def end(connection: sa.Connection, operation_id: str, state: str, error: str | None = None) -> None:
    """Ends an operation of one job."""
    begin(connection, operation_id, WORKER)
    move(connection, operation_id, state, WORKER, error)


def cancel_jobs(connection: sa.Connection, operation_id: str) -> None:
    """Takes the open jobs of an operation from whoever has them; who works on one notices at the next heartbeat."""
    job = schema.job
    open_jobs = sa.update(job).where(job.c.operation_id == operation_id, job.c.state.in_(OPEN_JOB))
    connection.execute(open_jobs.values(state="cancelled"))


def remove(connection: sa.Connection, operation_ids: Iterable[str]) -> None:
    """Removes operations with their jobs; whatever else refers to them is gone already."""
    ids = list(operation_ids)
    connection.execute(sa.delete(schema.job).where(schema.job.c.operation_id.in_(ids)))
    connection.execute(sa.delete(schema.operation).where(schema.operation.c.id.in_(ids)))


NO_PROGRESS: Mapping[str, Any] = {"done": 0, "total": None, "working": 0, "waiting_for": None}


def _progress(connection: sa.Connection, operation_id: str) -> Record:
    """Returns what its jobs have done, of how much (null: nobody knows), how many are worked on, and why one waits."""
    job = schema.job
    working = total(sa.case((job.c.state == "taken", 1), else_=0))
    waiting_for = sa.func.max(sa.case((job.c.state.in_(OPEN_JOB), job.c.error), else_=None))
    query = sa.select(total(job.c.progress), total(job.c.total), working, waiting_for)
    done, whole, n_working, reason = connection.execute(query.where(job.c.operation_id == operation_id)).one()
    return {**NO_PROGRESS, "done": done or 0, "total": whole, "working": n_working or 0, "waiting_for": reason}
