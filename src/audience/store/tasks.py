"""What follows when a step of a task has ended: the next jobs, and the moves of the task and its run. The functions
below work in the transaction that ends the step's job (`Jobs.finishing`)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict, NotFound
from audience.store import schema
from audience.store.database import Database, Record, now, rows_of
from audience.store.operations import WORKER
from audience.store.queue_rows import add_jobs
from audience.store.runs import move_task, stop_clock, sync_run_state
from audience.store.states import OPEN_JOB

MOST_REPORTS = 5


class Tasks:
    """Reads tasks for workers, and keeps their plans."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, task_id: str) -> Record:
        """Returns the task, and under `run` its run."""
        with self.database.reading() as connection:
            task = _task(connection, task_id)
            run = rows_of(connection, sa.select(schema.run).where(schema.run.c.id == task["run_id"]))[0]
        return {**task, "run": run}

    def start(self, task_id: str) -> None:
        """Moves a planned task to running; nothing when it runs already."""
        with self.database.writing() as connection:
            task = _task(connection, task_id)
            if task["state"] == "planned":
                move_task(connection, task_id, "running", WORKER)
                sync_run_state(connection, task["run_id"], WORKER)

    def partition(self, task_id: str, number: int) -> Record:
        c = schema.partition.c
        query = sa.select(c.number, c.slice, c.n_rows).where(c.task_id == task_id, c.number == number)
        return self.database.rows(query)[0]

    def done(self, task_id: str) -> set[int]:
        """Returns the numbers of the partitions that are labelled, as our records have it; the target decides."""
        numbers = sa.select(schema.job.c.number).where(*_partitions(task_id, "done"))
        with self.database.reading() as connection:
            return set(connection.execute(numbers).scalars())

    def save_plan(self, task_id: str, partitions: Iterable[Mapping[str, Any]], set_aside: Mapping[str, int]) -> None:
        """Saves the plan of a task that has none. A plan never changes: what is written follows the first one."""
        rows = [{"task_id": task_id, **partition} for partition in partitions]
        planned = {"n_planned": sum(row["n_rows"] for row in rows), "set_aside": dict(set_aside)}
        with self.database.writing() as connection:
            if _task(connection, task_id)["n_planned"] is None:
                if rows:
                    connection.execute(sa.insert(schema.partition), rows)
                connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(planned))


@dataclass(frozen=True)
class Finished:
    """A partition that is in the target: its rows read, and its numbers."""

    number: int
    n_read: int
    counts: Record


def planned(connection: sa.Connection, task_id: str, finished: Sequence[Finished], *, by_author: bool) -> None:
    """Adds a job for each partition that is not in the target yet. From now on the target may hold rows of the task."""
    task = _task(connection, task_id)
    values = {"by_author": by_author, "may_have_rows": True}
    connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(values))
    number = schema.partition.c.number
    numbers = connection.execute(sa.select(number).where(schema.partition.c.task_id == task_id).order_by(number))
    there = {part.number: part for part in finished}
    jobs = [_done(there[n]) if n in there else {"number": n} for n in numbers.scalars()]
    _add_partitions(connection, task, jobs)
    if all("state" in job for job in jobs):
        _report_next(connection, task)


def _add_partitions(connection: sa.Connection, task: Record, jobs: Iterable[Record]) -> None:
    arguments = {"fence": task["fence"]}
    kind = {"lane": "label", "subject": task["id"], "arguments": arguments}
    add_jobs(connection, task["run_id"], "partition", **kind, jobs=jobs)


def _done(part: Finished) -> Record:
    return {"number": part.number, "state": "done", "progress": part.n_read, "result": part.counts}


def partition_done(connection: sa.Connection, task_id: str) -> None:
    """Adds the job that reports, after the last partition of the task."""
    _report_after_the_last(connection, _task(connection, task_id))


def _report_after_the_last(connection: sa.Connection, task: Record) -> None:
    """Adds the job that reports when no step of the task is open. A task that failed is reported too, once what was
    under way has ended."""
    job = schema.job.c
    steps = (job.subject == task["id"], job.kind.in_(("partition", "report")), job.state.in_(OPEN_JOB))
    left = connection.execute(sa.select(job.id).where(*steps).limit(1)).first()
    if task["state"] in ("running", "failed") and task["may_have_rows"] and left is None:
        _report_next(connection, task)


def _report_next(connection: sa.Connection, task: Record) -> None:
    stop_clock(connection, task["id"])
    add_jobs(connection, task["run_id"], "report", subject=task["id"])


def lost(connection: sa.Connection, task_id: str, numbers: Collection[int]) -> None:
    """Labels partitions again that the target has lost. Raises Conflict when that happens again and again."""
    task, job = _task(connection, task_id), schema.job.c
    reports = sa.select(sa.func.count()).where(job.subject == task_id, job.kind == "report")
    if connection.execute(reports).scalar_one() > MOST_REPORTS:
        raise Conflict(f"the target loses what is written to it: {len(numbers)} partitions are gone again")
    connection.execute(sa.delete(schema.job).where(*_partitions(task_id, "done"), job.number.in_(numbers)))
    jobs = [{"number": number} for number in sorted(numbers)]
    _add_partitions(connection, task, jobs)
    connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(started_at=now()))


def reported(connection: sa.Connection, task_id: str, report: Record, *, production: bool, delay_s: float) -> None:
    """Saves the report of a task. A task that is running goes on to production, if that is wanted."""
    task = _task(connection, task_id)
    save_report(connection, task_id, report)
    if task["state"] == "running":
        move_task(connection, task_id, "producing" if production else "done", WORKER)
        if production:
            arguments = {"fence": task["fence"]}
            add_jobs(connection, task["run_id"], "produce", subject=task_id, arguments=arguments, delay_s=delay_s)
        sync_run_state(connection, task["run_id"], WORKER)


def produced(connection: sa.Connection, task_id: str, report: Record, after: str | None) -> None:
    """Ends production: the task is done, or in the state that it had before production was requested again."""
    save_report(connection, task_id, report)
    move_task(connection, task_id, after or "done", WORKER, keep_error=after != "done")
    sync_run_state(connection, _task(connection, task_id)["run_id"], WORKER)


def aborted(connection: sa.Connection, run_id: str, reports: Mapping[str, Record]) -> None:
    """Ends the abort of every task that is being aborted; `reports` of those that have numbers."""
    c = schema.task.c
    stopping = connection.execute(sa.select(c.id).where(c.run_id == run_id, c.state == "aborting")).scalars().all()
    for task_id in stopping:
        if task_id in reports:
            save_report(connection, task_id, reports[task_id])
        move_task(connection, task_id, "aborted", WORKER)
    sync_run_state(connection, run_id, WORKER)


def failed(connection: sa.Connection, job: Record, reason: str) -> None:
    """Fails a task. What is under way ends by itself, what is finished is kept and reported, unless the report is what
    failed. When production that was requested again fails, the task is as it was before, because its tables are."""
    task = _task(connection, job["subject"])
    if task["state"] in ("planned", "running", "producing"):
        _fail(connection, task, reason, job["arguments"].get("after") or "failed")
    if task["report"] is None and job["kind"] != "report":
        _report_after_the_last(connection, _task(connection, task["id"]))


def too_many_model_errors(connection: sa.Connection, task_id: str, limit: int) -> None:
    """Fails a task when its models have failed on more rows than the limit."""
    c = schema.job.c
    query = sa.select(c.result).where(c.subject == task_id, c.kind == "partition", c.state == "done")
    n = sum(counts["model_errors"] for counts in connection.execute(query).scalars())
    task = _task(connection, task_id)
    if n > limit and task["state"] == "running":
        reason = f"the models could not digest {n:,} rows, more than the limit of {limit:,}: see which were set aside"
        _fail(connection, task, reason, "failed")


def _fail(connection: sa.Connection, task: Record, reason: str, state: str) -> None:
    job = schema.job
    waiting = sa.update(job).where(job.c.subject == task["id"], job.c.state == "waiting")
    connection.execute(waiting.values(state="cancelled"))
    move_task(connection, task["id"], state, WORKER, reason)
    sync_run_state(connection, task["run_id"], WORKER)


def save_report(connection: sa.Connection, task_id: str, report: Record) -> None:
    connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(report=report))


def note_peak(connection: sa.Connection, task_id: str, mb: float | None, how: str) -> None:
    """Keeps the largest peak of memory of the task."""
    task = _task(connection, task_id)
    if mb is not None and mb > (task["peak_mb"] or 0.0):
        connection.execute(sa.update(schema.task).where(schema.task.c.id == task_id).values(peak_mb=mb, peak_by=how))


def _partitions(task_id: str, state: str) -> tuple[sa.ColumnElement[bool], ...]:
    job = schema.job.c
    return job.subject == task_id, job.kind == "partition", job.state == state


def _task(connection: sa.Connection, task_id: str) -> Record:
    found = rows_of(connection, sa.select(schema.task).where(schema.task.c.id == task_id))
    if not found:
        raise NotFound(f"there is no task {task_id!r}")
    return found[0]
