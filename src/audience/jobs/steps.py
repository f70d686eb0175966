"""The steps of a run, each a job: plan, label a partition, report, produce; abort and delete.

    plan -> partition ... partition -> report -> produce

A step may be done twice, or at once by two workers that both believe to own it: what it writes to the target is the
same and counted once (fence and mark), and its end in our records is its owner's alone (`Jobs.finishing`)."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

import sqlalchemy as sa

from audience.errors import AudienceError, Conflict, Elsewhere, Transient
from audience.jobs.control import JobCancelled, JobControl
from audience.jobs.memory import MemoryWatch, Peak
from audience.labeling.labeler import Labeler, NamedModel
from audience.labeling.plan import RunSpec, TaskSpec
from audience.labeling.production import produce
from audience.labeling.statistics import PartitionStatistics, TaskStatistics, task_report
from audience.store import runs, tasks
from audience.store.database import Record
from audience.store.records import Store
from audience.store.tasks import Finished
from audience.tables.base import Mark, Partition, Selection, Source, SourceSpec, Target

log = logging.getLogger(__name__)

CONTEXTS = 8


@dataclass(frozen=True)
class TaskContext:
    """What the partitions of a task need, opened once."""

    source: Source
    target: Target
    labeler: Labeler
    selection: Selection
    spec: RunSpec


@dataclass(frozen=True)
class Steps:
    """Carries out jobs with what the app hands it: the store, and how to open models, sources and targets."""

    store: Store
    load_model: Callable[[str], NamedModel]
    open_source: Callable[[SourceSpec], Source]
    target_of: Callable[[RunSpec], Target]
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    _contexts: dict[tuple[str, int], TaskContext] = field(default_factory=dict)
    _opening: Lock = field(default_factory=Lock)

    def carry_out(self, job: Record, control: JobControl) -> None:
        """Does a job that was taken, and ends it. Raises what stands in its way."""
        step: Callable[[Record, JobControl], None] = getattr(self, job["kind"])
        try:
            step(job, control)
        except BaseException:
            with self._opening:
                self._contexts.clear()  # whatever was opened may be what is wrong
            raise

    def fail(self, job: Record, reason: str) -> None:
        """Ends a job, and with it its task, for a reason that will not pass."""
        with self.store.jobs.finishing(job, "failed", error=reason) as connection:
            tasks.failed(connection, job, reason)
        log.warning("action=task_failed kind=%s task_id=%s reason=%s", job["kind"], job["task_id"], reason)

    @contextmanager
    def _finishing(self, job: Record, peak: Peak, **values: Any) -> Iterator[sa.Connection]:
        with self.store.jobs.finishing(job, **values) as connection:
            tasks.note_peak(connection, job["task_id"], peak.mb, peak.how)
            yield connection

    # the steps of a task

    def plan(self, job: Record, control: JobControl) -> None:
        """Cuts the source into partitions, once; admits writers to the target, and finds what is there already."""
        task_id = job["task_id"]
        self.store.tasks.start(task_id)
        with self.memory.watching(task_id) as peak:
            context = self._context(job)
            if self.store.tasks.get(task_id)["n_planned"] is None:
                plan = context.source.plan(context.selection)
                if control.stop.is_set():
                    raise JobCancelled
                self.store.tasks.save_plan(task_id, map(asdict, plan.partitions), plan.set_aside)
            context.target.prepare(task_id, job["fence"], context.spec.groups.names)
            finished = [_finished(mark) for mark in context.target.marks(task_id, authors=False)]
        with self._finishing(job, peak) as connection:
            tasks.planned(connection, task_id, finished, by_author="author" in context.source.roles)

    def partition(self, job: Record, control: JobControl) -> None:
        """Reads, labels and writes one slice of a task. One that is in the target already is only counted."""
        context = self._context(job)
        number = job["number"]
        with self.memory.watching(job["task_id"]) as peak:
            done = self._mark(context, job) if job["attempts"] > 1 else None
            done = done or self._label(context, job, control) or self._mark(context, job)
        if done is None:
            raise Conflict(f"partition {number} was removed from the target just after it was written")
        with self._finishing(job, peak, n_read=done.n_read, counts=done.counts) as connection:
            if done.counts["undigested"]:  # or it has added nothing to those of the task
                tasks.undigestible(connection, job["task_id"], context.spec.bad_rows_limit)
            tasks.partition_done(connection, job["task_id"])
        log.info("action=partition_done task_id=%s partition=%s rows=%s", job["task_id"], number, done.n_read)

    def _label(self, context: TaskContext, job: Record, control: JobControl) -> Finished | None:
        """The partition, now written; None when another worker had written it."""
        partition = Partition(**self.store.tasks.partition(job["task_id"], job["number"]))
        statistics = PartitionStatistics(seed=context.spec.seed)
        batches = control.batches(context.source.read(partition, context.selection))
        rows = context.labeler.label(partition.number, batches, statistics)
        written = context.target.write(job["task_id"], partition.number, job["fence"], rows, statistics)
        return Finished(partition.number, statistics.read, statistics.counts()) if written else None

    @staticmethod
    def _mark(context: TaskContext, job: Record) -> Finished | None:
        marks = context.target.marks(job["task_id"], authors=False)
        return next((_finished(mark) for mark in marks if mark.partition == job["number"]), None)

    def report(self, job: Record, control: JobControl) -> None:
        """Adds up what the marks in the target say. Partitions whose marks are gone (a server that fell with what it
        had promised to keep, tables that somebody emptied) are labelled again first."""
        task = self.store.tasks.get(job["task_id"])
        spec = RunSpec.model_validate(task["run"]["spec"])
        with self.memory.watching(task["id"]) as peak:
            statistics = TaskStatistics.of(self.target_of(spec), task["id"], spec.seed)
            report = self._report(task, spec, statistics)
        if task["state"] == "running" and (lost := self.store.tasks.done(task["id"]) - statistics.partitions):
            log.warning("action=partitions_lost task_id=%s partitions=%s", task["id"], len(lost))
            with self._finishing(job, peak) as connection:
                tasks.lost(connection, task["id"], lost)
            return
        with self._finishing(job, peak) as connection:
            tasks.reported(connection, task["id"], report, production=spec.production, delay_s=spec.production_delay_s)
        log.info("action=task_labeled task_id=%s rows=%s", task["id"], report["read"])

    @staticmethod
    def _report(task: Record, spec: RunSpec, statistics: TaskStatistics) -> Record:
        planned, set_aside = task["n_planned"] or 0, task["set_aside"] or {}
        return task_report(statistics, planned, set_aside, spec.groups.names, by_author=bool(task["by_author"]))

    def produce(self, job: Record, control: JobControl) -> None:
        """Makes the production tables and adds their numbers to the task's report."""
        task = self.store.tasks.get(job["task_id"])
        spec = RunSpec.model_validate(task["run"]["spec"])
        started = time.perf_counter()
        with self.memory.watching(task["id"]) as peak:
            target = self.target_of(spec)
            report = produce(target, task["id"], job["fence"], spec.panels, task["report"])
        report |= {"production_seconds": round(time.perf_counter() - started, 3)}
        report |= {"production_peak_memory_mb": peak.mb, "production_peak_memory_by": peak.how}
        with self.store.jobs.finishing(job) as connection:
            tasks.produced(connection, task["id"], report, job["after"])

    # the steps of a run

    def abort(self, job: Record, control: JobControl) -> None:
        """Bars late writers, and adds up what is finished."""
        run = self.store.runs.show(job["run_id"])
        spec = RunSpec.model_validate(run["spec"])
        stopping = [task for task in run["tasks"] if task["state"] == "aborting" and task["touched"]]
        reports = {task["id"]: report for task in stopping if (report := self._last_report(task, spec))}
        with self.store.jobs.finishing(job) as connection:
            tasks.aborted(connection, run["id"], reports)

    def _last_report(self, task: Record, spec: RunSpec) -> Record | None:
        """None where the target cannot tell; that does not keep a task from being aborted."""
        try:
            target = self.target_of(spec)
            target.bar(task["id"], task["fence"])
            return self._report(task, spec, TaskStatistics.of(target, task["id"], spec.seed))
        except Transient:
            raise
        except AudienceError as error:
            log.warning("action=abort_without_report task_id=%s reason=%s", task["id"], error)
            return None

    def delete(self, job: Record, control: JobControl) -> None:
        """Removes every row of the run, then the run. A target that is away is waited for."""
        run = self.store.runs.show(job["run_id"])
        try:
            for task in run["tasks"]:
                self._empty(task, RunSpec.model_validate(run["spec"]))
        except Elsewhere:
            raise
        except AudienceError as error:
            raise Transient(str(error)) from error
        with self.store.jobs.finishing(job) as connection:
            runs.remove_run(connection, run["id"], tasks.WORKER)
        log.info("action=run_deleted run_id=%s", run["id"])

    def _empty(self, task: Record, spec: RunSpec) -> None:
        """A target that cannot be reached matters where it may hold something of the task."""
        try:
            target = self.target_of(spec)
            if target.exists():
                target.delete(task["id"])
            elif task["touched"]:
                raise Transient(f"{spec.target} is not there: bring it back, or let the run be forgotten without it")
        except AudienceError:
            if task["touched"]:
                raise

    # what a task needs

    def _context(self, job: Record) -> TaskContext:
        """Opened at the first partition of a task in this worker, and again after it was resumed."""
        key = (job["task_id"], job["fence"])
        with self._opening:
            if key not in self._contexts:
                context = self._open(self.store.tasks.get(job["task_id"]))
                for old in list(self._contexts)[: 1 - CONTEXTS]:
                    del self._contexts[old]
                self._contexts[key] = context
            return self._contexts[key]

    def _open(self, task: Record) -> TaskContext:
        spec = RunSpec.model_validate(task["run"]["spec"])
        task_spec = TaskSpec.model_validate(task["spec"])
        models = [self.load_model(reference) for reference in spec.models]
        fields = tuple(dict.fromkeys(name for m in models for name in m.model.inputs.names))
        selection = task_spec.selection(fields, spec.partition_rows)
        target = self.target_of(spec)
        labeler = Labeler(
            task["id"],
            models,
            spec.groups,
            spec.panels,
            spec.first_wins,
            selection.start,
            selection.end,
            target.unstorable,
        )
        return TaskContext(self.open_source(task_spec.source), target, labeler, selection, spec)


def _finished(mark: Mark) -> Finished:
    counts = PartitionStatistics.from_json(mark.statistics).counts()
    return Finished(mark.partition, counts["read"], counts)
