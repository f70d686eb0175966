"""Runs and their tasks: what users ask of them, and the moves between their states."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput, Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, new_id, note, now, rows_of, total
from audience.store.idempotency import Once
from audience.store.jobs import add_jobs, last_served
from audience.store.queues import DEFAULT
from audience.store.states import FINAL, GOING_ON, OPEN_JOB, sources_of, state_of_run


class Runs:
    """Runs and tasks. Whatever a user asks for is written down with the jobs that carry it out, in one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        spec: Record,
        tasks: Iterable[Record],
        actor: str,
        priority: int = 0,
        once: Once | None = None,
        queue: str = DEFAULT,
    ) -> str:
        """A run of these tasks, planned, and the jobs that begin it; its id."""
        run_id = new_id()
        created = {"created_by": actor, "created_at": now()}
        row = {"id": run_id, "state": "planned", "spec": spec, "priority": priority, "queue": queue, **created}
        with self.database.writing() as connection:
            if once and once.answered(connection):
                return str(once.body["id"])
            row["served"] = last_served(connection) + 1  # at the end of the line
            connection.execute(sa.insert(schema.run).values(row))
            for number, task in enumerate(tasks):
                task_id = new_id()
                values = {"id": task_id, "run_id": run_id, "number": number, "spec": task, "state": "planned"}
                connection.execute(sa.insert(schema.task).values({**values, "fence": 1, **created}))
                add_jobs(connection, run_id, "plan", task_id=task_id, fence=1)
            note(connection, actor, "run.add", run_id)
            if once:
                once.keep(connection, row)
        return run_id

    def find(self, reference: str) -> Record:
        """By id, by the beginning of one, or `last`."""
        query = sa.select(schema.run).order_by(schema.run.c.created_at.desc())
        if reference == "last":
            found = self.database.rows(query.limit(1))
        else:
            found = self.database.rows(query.where(schema.run.c.id.startswith(reference, autoescape=True)).limit(2))
        if not found or not reference:
            raise NotFound(f"there is no run {reference!r}")
        if len(found) > 1:
            raise BadInput(f"several runs begin with {reference!r}: give more of the id")
        return found[0]

    def show(self, run_id: str) -> Record:
        """A run with its tasks and how far they are, as of one moment."""
        with self.database.reading() as connection:
            found = rows_of(connection, sa.select(schema.run).where(schema.run.c.id == run_id))
            if not found:
                raise NotFound(f"there is no run {run_id!r}")
            tasks = rows_of(connection, _tasks_of(run_id))
            done = _progress(connection, run_id)
        waiting_for = done.get(None, NO_PROGRESS)["waiting_for"]
        shown = [{**task, "progress": done.get(task["id"], NO_PROGRESS)} for task in tasks]
        return {**found[0], "waiting_for": waiting_for, "tasks": shown}

    def counted(self, task_ids: Iterable[str]) -> dict[str, list[Record]]:
        """task -> the numbers of each of its finished partitions."""
        job = schema.job
        query = sa.select(job.c.task_id, job.c.counts).where(job.c.task_id.in_(list(task_ids)), job.c.state == "done")
        found: dict[str, list[Record]] = {}
        with self.database.reading() as connection:
            for task_id, counts in connection.execute(query.where(job.c.kind == "partition")):
                found.setdefault(task_id, []).append(counts)
        return found

    def tasks(self, run_id: str) -> list[Record]:
        return self.database.rows(_tasks_of(run_id))

    def page(
        self,
        limit: int = 50,
        states: Sequence[str] = (),
        created_by: str | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[Record]:
        """Newest first; those before (created_at, id), in these states, of this actor."""
        run = schema.run
        query = sa.select(run).order_by(run.c.created_at.desc(), run.c.id.desc()).limit(limit)
        if states:
            query = query.where(run.c.state.in_(states))
        if created_by is not None:
            query = query.where(run.c.created_by == created_by)
        if before is not None:
            at, run_id = before
            query = query.where((run.c.created_at < at) | ((run.c.created_at == at) & (run.c.id < run_id)))
        return self.database.rows(query)

    def counts(self) -> dict[str, int]:
        """state -> number of runs."""
        query = sa.select(schema.run.c.state, sa.func.count()).group_by(schema.run.c.state)
        with self.database.reading() as connection:
            return dict(connection.execute(query).all())

    # what users ask for

    def abort(self, run_id: str, actor: str) -> None:
        """Stops what has not ended: nobody may write for it any more, and what is finished is added up."""
        with self.database.writing() as connection:
            move(connection, schema.run, run_id, "aborting", actor)
            for task in self._tasks(connection, run_id, GOING_ON):
                _raise_fence(connection, task["id"])
                move(connection, schema.task, task["id"], "aborting", actor)
            _cancel(connection, run_id)
            add_jobs(connection, run_id, "abort", urgent=True)

    def resume(self, run_id: str, actor: str) -> None:
        """Goes on with the tasks that failed or were aborted, from what their targets hold."""
        with self.database.writing() as connection:
            present = _state(connection, schema.run, run_id)
            if present not in ("failed", "aborted"):
                raise Conflict(f"the run {run_id} is {present}; one that failed or was aborted can be resumed", present)
            move(connection, schema.run, run_id, "running", actor)
            for task in self._tasks(connection, run_id, {"failed", "aborted"}):
                _raise_fence(connection, task["id"])
                move(connection, schema.task, task["id"], "running", actor)
                connection.execute(sa.update(schema.task).where(schema.task.c.id == task["id"]).values(report=None))
                connection.execute(sa.delete(schema.job).where(schema.job.c.task_id == task["id"]))
                add_jobs(connection, run_id, "plan", task_id=task["id"], fence=task["fence"] + 1)

    def produce(self, run_id: str, actor: str, *, partial: bool) -> None:
        """Production once more; of what is finished of a run that failed or was aborted, if `partial`."""
        with self.database.writing() as connection:
            present = _state(connection, schema.run, run_id)
            if present not in ({"done", "failed", "aborted"} if partial else {"done"}):
                raise Conflict(_no_production(run_id, present), present)
            tasks = [task for task in self._tasks(connection, run_id, FINAL) if task["report"]]
            if not tasks:
                raise Conflict(f"nothing of the run {run_id} is finished, so there is nothing to produce", present)
            move(connection, schema.run, run_id, "producing", actor, keep_error=True)
            for task in tasks:
                move(connection, schema.task, task["id"], "producing", actor, keep_error=True)
                add_jobs(connection, run_id, "produce", task_id=task["id"], fence=task["fence"], after=task["state"])

    def delete(self, run_id: str, actor: str) -> None:
        """Bars every writer and begins to remove what there is; asked for again, what waits is tried at once."""
        with self.database.writing() as connection:
            if _state(connection, schema.run, run_id) == "deleting":
                waiting = (schema.job.c.run_id == run_id, schema.job.c.state == "waiting")
                connection.execute(sa.update(schema.job).where(*waiting).values(delay_s=0, error=None))
                return
            move(connection, schema.run, run_id, "deleting", actor)
            for task in self._tasks(connection, run_id, GOING_ON | FINAL):
                _raise_fence(connection, task["id"])
                move(connection, schema.task, task["id"], "deleting", actor)
            _cancel(connection, run_id)
            add_jobs(connection, run_id, "delete", urgent=True)

    def forget(self, run_id: str, actor: str) -> None:
        """Removes the records of a run in state `deleting`; its results are gone, or given up."""
        with self.database.writing() as connection:
            remove_run(connection, run_id, actor)

    @staticmethod
    def _tasks(connection: sa.Connection, run_id: str, states: Iterable[str]) -> list[Record]:
        return rows_of(connection, _tasks_of(run_id).where(schema.task.c.state.in_(set(states))))


NO_PROGRESS: Record = {"partitions": 0, "partitions_done": 0, "read": 0, "working": 0, "waiting_for": None}


def _tasks_of(run_id: str) -> sa.Select[Any]:
    return sa.select(schema.task).where(schema.task.c.run_id == run_id).order_by(schema.task.c.number)


def _no_production(run_id: str, present: str) -> str:
    if present in FINAL:
        return f"the run {run_id} is {present}; production of what is finished is made only when asked for as partial"
    return f"the run {run_id} is {present}; production can be made again of a run that has ended"


def _progress(connection: sa.Connection, run_id: str) -> dict[str | None, Record]:
    """task (null: the run itself) -> how far it is: partitions, rows read, jobs under way, and why one waits."""
    job = schema.job
    parts = total(sa.case((job.c.kind == "partition", 1), else_=0))
    done = total(sa.case(((job.c.kind == "partition") & (job.c.state == "done"), 1), else_=0))
    working = total(sa.case((job.c.state == "taken", 1), else_=0))
    waiting_for = sa.func.max(sa.case((job.c.state.in_(OPEN_JOB), job.c.error), else_=None))
    columns = (job.c.task_id, parts, done, total(job.c.n_read), working, waiting_for)
    query = sa.select(*columns).where(job.c.run_id == run_id).group_by(job.c.task_id)
    return {
        task_id: dict(zip(NO_PROGRESS, numbers, strict=True)) for task_id, *numbers in connection.execute(query).all()
    }


def _state(connection: sa.Connection, table: sa.Table, record_id: str) -> str:
    present = connection.execute(sa.select(table.c.state).where(table.c.id == record_id)).scalar()
    if present is None:
        raise NotFound(f"there is no {table.name} {record_id!r}")
    return str(present)


def move(
    connection: sa.Connection,
    table: sa.Table,
    record_id: str,
    state: str,
    actor: str,
    error: str | None = None,
    *,
    keep_error: bool = False,
) -> None:
    """Moves a run or task to a state, if the state that it is in allows that: the only writer of these states."""
    values: Record = {"state": state} if keep_error else {"state": state, "error": error}
    if "finished_at" in table.c:
        values["finished_at"] = now() if state in FINAL else None
    if state == "running":
        values["started_at"] = sa.func.coalesce(table.c.started_at, now())
    elif "worked_s" in table.c:
        stop_clock(connection, record_id)
    guarded = sa.update(table).where(table.c.id == record_id, table.c.state.in_(sources_of(state))).values(values)
    if connection.execute(guarded).rowcount == 0:
        present = _state(connection, table, record_id)
        raise Conflict(f"the {table.name} {record_id} is {present}; it cannot become {state}", present)
    note(connection, actor, f"{table.name}.{state}", record_id, **({"error": error} if error else {}))


def stop_clock(connection: sa.Connection, task_id: str) -> None:
    """Adds the time since the task's clock was started to what it worked."""
    c = schema.task.c
    started = connection.execute(sa.select(c.started_at).where(c.id == task_id)).scalar()
    if started is not None:
        worked_s = max(0.0, (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(started)).total_seconds())
        values = {"started_at": None, "worked_s": c.worked_s + worked_s}
        connection.execute(sa.update(schema.task).where(c.id == task_id).values(values))


def sync_run_state(connection: sa.Connection, run_id: str, actor: str) -> None:
    """Brings the state of a run in line with those of its tasks."""
    tasks = rows_of(connection, _tasks_of(run_id))
    state = state_of_run([task["state"] for task in tasks])
    if state == _state(connection, schema.run, run_id):
        return
    reasons = [f"{task['spec']['name']}: {task['error']}" for task in tasks if task["error"]]
    move(connection, schema.run, run_id, state, actor, "\n".join(reasons) or None)


def remove_run(connection: sa.Connection, run_id: str, actor: str) -> None:
    """Removes a run in state `deleting` with all that belongs to it."""
    if _state(connection, schema.run, run_id) != "deleting":
        raise Conflict(f"the run {run_id} is not being deleted", _state(connection, schema.run, run_id))
    tasks = sa.select(schema.task.c.id).where(schema.task.c.run_id == run_id)
    connection.execute(sa.delete(schema.job).where(schema.job.c.run_id == run_id))
    connection.execute(sa.delete(schema.partition).where(schema.partition.c.task_id.in_(tasks)))
    connection.execute(sa.delete(schema.task).where(schema.task.c.run_id == run_id))
    connection.execute(sa.delete(schema.run).where(schema.run.c.id == run_id))
    note(connection, actor, "run.delete", run_id)


def _raise_fence(connection: sa.Connection, task_id: str) -> None:
    task = schema.task
    connection.execute(sa.update(task).where(task.c.id == task_id).values(fence=task.c.fence + 1))


def _cancel(connection: sa.Connection, run_id: str) -> None:
    """Takes the open jobs of a run from whoever has them; those who work on one notice at their next beat."""
    job = schema.job
    open_jobs = sa.update(job).where(job.c.run_id == run_id, job.c.state.in_(OPEN_JOB))
    connection.execute(open_jobs.values(state="cancelled"))
