"""Runs and their tasks, and the moves between their states. A run is an operation of the kind `run`; its state and
times are the operation's."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict, NotFound
from audience.store import models, operations, schema
from audience.store.database import Database, Record, new_id, note, now, rows_of, total
from audience.store.idempotency import IdempotencyKey, keep_made, made_before
from audience.store.operations import add_operation, cancel_jobs, page_of, state_of
from audience.store.queue_rows import add_jobs
from audience.store.queues import DEFAULT
from audience.store.references import ModelReference
from audience.store.states import FINAL, GOING_ON, OPEN_JOB, sources_of, state_of_run

KIND = "run"


class Runs:
    """Keeps runs and tasks. A user's request is written down with the jobs that carry it out, in one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        spec: Record,
        tasks: Iterable[Record],
        actor: str,
        priority: int = 0,
        key: IdempotencyKey | None = None,
        queue: str = DEFAULT,
        warnings: Sequence[str] = (),
    ) -> Record:
        """Adds a planned run of these tasks, and the jobs that begin it. Returns its id, state and time, and the
        `warnings`, so that the same request again is answered with them too. Raises NotFound when a model of it is
        gone."""
        with self.database.writing() as connection:
            if made := made_before(connection, key):
                return made
            for model in spec.get("models", ()):
                models.found(connection, ModelReference.parse(model))  # it may be deleted since it was looked up
            about = ", ".join(spec.get("models", ()))[:200]
            row = add_operation(connection, KIND, actor, subject=about or None, queue=queue, priority=priority)
            connection.execute(sa.insert(schema.run).values(id=row["id"], spec=spec))
            created = {name: row[name] for name in ("created_by", "created_at")}
            for number, task in enumerate(tasks):
                task_id = new_id()
                values = {"id": task_id, "run_id": row["id"], "number": number, "spec": task, "state": "planned"}
                connection.execute(sa.insert(schema.task).values({**values, "fence": 1, **created}))
                add_jobs(connection, row["id"], "plan", subject=task_id, arguments={"fence": 1})
            note(connection, actor, "run.add", row["id"])
            made = {name: row[name] for name in ("id", "state", "created_at")}
            return keep_made(connection, key, {**made, "warnings": list(warnings)})

    def show(self, run_id: str) -> Record:
        """Returns a run with its tasks and how far they are, as of one moment."""
        with self.database.reading() as connection:
            found = rows_of(connection, _runs().where(schema.run.c.id == run_id))
            if not found:
                raise NotFound(f"there is no run {run_id!r}")
            tasks = rows_of(connection, _tasks_of(run_id))
            done = _progress(connection, run_id)
        waiting_for = done.get(None, NO_PROGRESS)["waiting_for"]
        shown = [{**task, "progress": done.get(task["id"], NO_PROGRESS)} for task in tasks]
        return {**found[0], "waiting_for": waiting_for, "tasks": shown}

    def counted(self, task_ids: Iterable[str]) -> dict[str, list[Record]]:
        """Returns task -> the numbers of each of its finished partitions."""
        job = schema.job
        query = sa.select(job.c.subject, job.c.result).where(job.c.subject.in_(list(task_ids)), job.c.state == "done")
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
        """Returns runs, newest first; those before (created_at, id), in these states, of this actor."""
        return self.database.rows(page_of(_runs(), limit, (KIND,), states, created_by, before))

    def rows_read(self) -> int:
        """Returns the rows read by all runs that are not deleted."""
        job = schema.job
        read = sa.select(total(job.c.progress)).where(job.c.kind == "partition")
        with self.database.reading() as connection:
            return int(connection.execute(read).scalar() or 0)

    # what users ask for

    def resume(self, run_id: str, actor: str) -> None:
        """Resumes the tasks that failed or were aborted, from what their targets hold."""
        with self.database.writing() as connection:
            present = _state_of_run(connection, run_id)
            if present not in ("failed", "aborted"):
                raise Conflict(f"the run {run_id} is {present}; one that failed or was aborted can be resumed", present)
            operations.move(connection, run_id, "running", actor)
            for task in self._tasks(connection, run_id, {"failed", "aborted"}):
                _raise_fence(connection, task["id"])
                move_task(connection, task["id"], "running", actor)
                connection.execute(sa.update(schema.task).where(schema.task.c.id == task["id"]).values(report=None))
                connection.execute(sa.delete(schema.job).where(schema.job.c.subject == task["id"]))
                add_jobs(connection, run_id, "plan", subject=task["id"], arguments={"fence": task["fence"] + 1})

    def produce(self, run_id: str, actor: str, *, partial: bool) -> None:
        """Makes production once more; with `partial`, of what is finished of a run that failed or was aborted."""
        with self.database.writing() as connection:
            present = _state_of_run(connection, run_id)
            if present not in ({"done", "failed", "aborted"} if partial else {"done"}):
                raise Conflict(_no_production(run_id, present), present)
            tasks = [task for task in self._tasks(connection, run_id, FINAL) if task["report"]]
            if not tasks:
                raise Conflict(f"nothing of the run {run_id} is finished, so there is nothing to produce", present)
            operations.move(connection, run_id, "producing", actor, keep_error=True)
            for task in tasks:
                move_task(connection, task["id"], "producing", actor, keep_error=True)
                arguments = {"fence": task["fence"], "after": task["state"]}
                add_jobs(connection, run_id, "produce", subject=task["id"], arguments=arguments)

    def delete(self, run_id: str, actor: str, *, forget: bool = False) -> None:
        """Raises the fences and begins to remove what there is; given again, it retries at once what waits. `forget`:
        also when rows cannot be removed."""
        with self.database.writing() as connection:
            if _state_of_run(connection, run_id) == "deleting":
                job = schema.job
                mine = sa.update(job).where(job.c.operation_id == run_id, job.c.state.in_(OPEN_JOB))
                now_due = {"delay_s": 0, "due_at": 0, "error": None}
                connection.execute(mine.where(job.c.state == "waiting").values(now_due))
                if forget:
                    connection.execute(mine.values(arguments={"forget": True}))
                return
            operations.move(connection, run_id, "deleting", actor)
            for task in self._tasks(connection, run_id, GOING_ON | FINAL):
                _raise_fence(connection, task["id"])
                move_task(connection, task["id"], "deleting", actor)
            cancel_jobs(connection, run_id)
            add_jobs(connection, run_id, "delete", arguments={"forget": forget}, urgent=True)

    @staticmethod
    def _tasks(connection: sa.Connection, run_id: str, states: Iterable[str]) -> list[Record]:
        return rows_of(connection, _tasks_of(run_id).where(schema.task.c.state.in_(set(states))))


def abort_tasks(connection: sa.Connection, run_id: str, actor: str) -> None:
    """Raises the fences of a run's tasks, so that nobody writes for it any more, and adds a job that adds up what is
    finished."""
    for task in rows_of(connection, _tasks_of(run_id).where(schema.task.c.state.in_(GOING_ON))):
        _raise_fence(connection, task["id"])
        move_task(connection, task["id"], "aborting", actor)
    add_jobs(connection, run_id, "abort", urgent=True)


NO_PROGRESS: Record = {"partitions": 0, "partitions_done": 0, "read": 0, "working": 0, "waiting_for": None}


def _runs() -> sa.Select[Any]:
    """Selects runs joined with their operations."""
    c = schema.operation.c
    known = (c.id, c.state, c.error, c.started_at, c.finished_at, c.priority, c.queue, c.created_by, c.created_at)
    return sa.select(*known, schema.run.c.spec).join(schema.run, schema.run.c.id == c.id)


def _tasks_of(run_id: str) -> sa.Select[Any]:
    return sa.select(schema.task).where(schema.task.c.run_id == run_id).order_by(schema.task.c.number)


def _state_of_run(connection: sa.Connection, run_id: str) -> str:
    query = sa.select(schema.operation.c.state).join(schema.run, schema.run.c.id == schema.operation.c.id)
    present = connection.execute(query.where(schema.run.c.id == run_id)).scalar()
    if present is None:
        raise NotFound(f"there is no run {run_id!r}")
    return str(present)


def _no_production(run_id: str, present: str) -> str:
    if present in FINAL:
        return f"the run {run_id} is {present}; production of what is finished is made only when asked for as partial"
    return f"the run {run_id} is {present}; production can be made again of a run that has ended"


def _progress(connection: sa.Connection, run_id: str) -> dict[str | None, Record]:
    """Returns task (null: the run itself) -> its progress: partitions, rows read, jobs under way, and why one waits."""
    job = schema.job
    parts = total(sa.case((job.c.kind == "partition", 1), else_=0))
    done = total(sa.case(((job.c.kind == "partition") & (job.c.state == "done"), 1), else_=0))
    counts = (job.c.kind == "partition") & (job.c.state != "cancelled")  # what it had read is read again
    read = sa.case((counts, job.c.progress), else_=0)
    working = total(sa.case((job.c.state == "taken", 1), else_=0))
    waiting_for = sa.func.max(sa.case((job.c.state.in_(OPEN_JOB), job.c.error), else_=None))
    columns = (job.c.subject, parts, done, total(read), working, waiting_for)
    query = sa.select(*columns).where(job.c.operation_id == run_id).group_by(job.c.subject)
    return {
        task_id: dict(zip(NO_PROGRESS, numbers, strict=True)) for task_id, *numbers in connection.execute(query).all()
    }


def move_task(
    connection: sa.Connection,
    task_id: str,
    state: str,
    actor: str,
    error: str | None = None,
    *,
    keep_error: bool = False,
) -> None:
    """Moves a task to a state, if the state that it is in allows that. The only writer of these states."""
    task = schema.task
    values: Record = {"state": state} if keep_error else {"state": state, "error": error}
    if state == "running":
        values["started_at"] = sa.func.coalesce(task.c.started_at, now())
    else:
        stop_clock(connection, task_id)
    guarded = sa.update(task).where(task.c.id == task_id, task.c.state.in_(sources_of(state))).values(values)
    if connection.execute(guarded).rowcount == 0:
        present = state_of(connection, task, task_id)
        raise Conflict(f"the task {task_id} is {present}; it cannot become {state}", present)
    note(connection, actor, f"task.{state}", task_id, **({"error": error} if error else {}))


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
    if state == _state_of_run(connection, run_id):
        return
    reasons = [f"{task['spec']['name']}: {task['error']}" for task in tasks if task["error"]]
    operations.move(connection, run_id, state, actor, "\n".join(reasons) or None)


def remove_run(connection: sa.Connection, run_id: str, actor: str) -> None:
    """Removes a run in state `deleting` with all that belongs to it."""
    present = _state_of_run(connection, run_id)
    if present != "deleting":
        raise Conflict(f"the run {run_id} is not being deleted", present)
    tasks = sa.select(schema.task.c.id).where(schema.task.c.run_id == run_id)
    connection.execute(sa.delete(schema.partition).where(schema.partition.c.task_id.in_(tasks)))
    connection.execute(sa.delete(schema.task).where(schema.task.c.run_id == run_id))
    connection.execute(sa.delete(schema.run).where(schema.run.c.id == run_id))
    operations.remove(connection, [run_id])
    note(connection, actor, "run.delete", run_id)


def _raise_fence(connection: sa.Connection, task_id: str) -> None:
    task = schema.task
    connection.execute(sa.update(task).where(task.c.id == task_id).values(fence=task.c.fence + 1))
