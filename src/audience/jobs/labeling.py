"""The jobs of a run: plan, label a partition, report, produce; abort and delete.

    plan -> partition ... partition -> report -> produce

A job may be done twice, or at once by two workers that both believe to own it: what it writes to the target is the same
and counted once (fence and mark), and its end in our records is its owner's alone (`Jobs.finishing`)."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from threading import Lock

import sqlalchemy as sa

from audience.errors import AudienceError, Conflict, Elsewhere, Transient
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.jobs.memory import MemoryWatch
from audience.labeling.labeler import Labeler, NamedModel
from audience.labeling.plan import RunSpec, TaskSpec, result_layout
from audience.labeling.production import produce
from audience.labeling.statistics import PartitionStatistics, TaskStatistics, task_report
from audience.store import operations, runs, tasks
from audience.store.database import Record
from audience.store.records import Store
from audience.store.tasks import Finished
from audience.tables.base import Mark, Partition, Selection, Source, SourceSpec, Target

log = logging.getLogger(__name__)

CONTEXTS = 8
FORGET_RETRIES = 2


@dataclass(frozen=True)
class TaskContext:
    """What the partitions of a task share, opened once in this worker."""

    source: Source
    target: Target
    labeler: Labeler
    selection: Selection
    spec: RunSpec


@dataclass(frozen=True)
class LabelingJobs:
    """Carries out the jobs of runs with what the app hands it: the store, and how to open models, sources and
    targets."""

    store: Store
    load_model: Callable[[str], NamedModel]
    open_source: Callable[[SourceSpec], Source]
    target_of: Callable[[RunSpec], Target]
    result_indexes: tuple[str, ...] = ()
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    _contexts: dict[tuple[str, int], TaskContext] = field(default_factory=dict)
    _opening: dict[tuple[str, int], Lock] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of a run, by name."""
        return {
            "plan": JobKind(self._fresh(self.plan), _planned, _failed),
            "partition": JobKind(self._fresh(self.partition), _partition_done, _failed),
            "report": JobKind(self._fresh(self.report), _reported, _failed),
            "produce": JobKind(self._fresh(self.produce), _produced, _failed),
            "abort": JobKind(self._fresh(self.abort), _aborted, _failed, never_give_up=True),
            "delete": JobKind(self._fresh(self.delete), _deleted, _failed, never_give_up=True),
        }

    def _fresh(self, run: Callable[[Record, JobControl], Outcome]) -> Callable[[Record, JobControl], Outcome]:
        """Returns `run` as a job that forgets everything opened when it fails: an open connection may be what is
        wrong."""

        def attempt(job: Record, control: JobControl) -> Outcome:
            try:
                return run(job, control)
            except BaseException:
                with self._lock:
                    self._contexts.clear()
                raise

        return attempt

    # the jobs of a task

    def plan(self, job: Record, control: JobControl) -> Outcome:
        """Cuts the source into partitions, once; opens the task in the target for writers, and finds the partitions
        that are there already."""
        task_id = job["subject"]
        self.store.tasks.start(task_id)
        with self.memory.watching(task_id) as peak:
            context = self._context(job)
            if self.store.tasks.get(task_id)["n_planned"] is None:
                with control.interrupting(context.source.interrupt):
                    plan = context.source.plan(context.selection)
                control.check()
                self.store.tasks.save_plan(task_id, map(asdict, plan.partitions), plan.set_aside)
            # The fence goes before the marks: a late writer could add one that is not among those read.
            layout = result_layout(context.source, self.result_indexes)
            context.target.prepare(task_id, job["arguments"]["fence"], context.spec.groups.names, layout)
            finished = [_finished(mark) for mark in context.target.marks(task_id, authors=False)]
        return Outcome(details=(peak, finished, "author" in context.source.roles))

    def partition(self, job: Record, control: JobControl) -> Outcome:
        """Reads, labels and writes one partition of a task. One that is in the target already is only counted."""
        context = self._context(job)
        with self.memory.watching(job["subject"]) as peak:
            # Only a second attempt can find a mark; the first does without the query.
            done = self._mark(context, job) if job["attempts"] > 1 else None
            done = done or self._label(context, job, control) or self._mark(context, job)
        if done is None:
            raise Conflict(f"partition {job['number']} was removed from the target just after it was written")
        return Outcome(done.counts, done.n_read, (peak, context.spec.bad_rows_limit))

    def _label(self, context: TaskContext, job: Record, control: JobControl) -> Finished | None:
        """Writes the partition. Returns None when another worker had written it."""
        partition = Partition(**self.store.tasks.partition(job["subject"], job["number"]))
        statistics = PartitionStatistics(seed=context.spec.seed)
        read = control.counted(context.source.read(partition, context.selection))
        batches = statistics.timed(read, context.selection)
        rows = context.labeler.label(partition.number, batches, statistics)
        fence = job["arguments"]["fence"]
        written = context.target.write(job["subject"], partition.number, fence, rows, statistics)
        return Finished(partition.number, statistics.read, statistics.counts()) if written else None

    @staticmethod
    def _mark(context: TaskContext, job: Record) -> Finished | None:
        marks = context.target.marks(job["subject"], authors=False)
        return next((_finished(mark) for mark in marks if mark.partition == job["number"]), None)

    def report(self, job: Record, control: JobControl) -> Outcome:
        """Adds up the marks in the target. Partitions whose marks are gone (a server that lost what it had committed,
        tables that somebody emptied) are labelled again first."""
        task = self.store.tasks.get(job["subject"])
        spec = RunSpec.model_validate(task["run"]["spec"])
        with self.memory.watching(task["id"]) as peak:
            statistics = TaskStatistics.of(self.target_of(spec), task["id"], spec.seed)
            report = self._report(task, spec, statistics)
        gone = self.store.tasks.done(task["id"]) - statistics.partitions if task["state"] == "running" else set()
        return Outcome(details=(peak, gone, report, spec))

    @staticmethod
    def _report(task: Record, spec: RunSpec, statistics: TaskStatistics) -> Record:
        planned, set_aside = task["n_planned"] or 0, task["set_aside"] or {}
        return task_report(statistics, planned, set_aside, spec.groups.names, by_author=bool(task["by_author"]))

    def produce(self, job: Record, control: JobControl) -> Outcome:
        """Makes the production tables and adds their numbers to the task's report."""
        task = self.store.tasks.get(job["subject"])
        spec = RunSpec.model_validate(task["run"]["spec"])
        started = time.perf_counter()
        with self.memory.watching(task["id"]) as peak:
            target = self.target_of(spec)
            report = produce(target, task["id"], job["arguments"]["fence"], spec.panels, task["report"])
        report |= {"production_seconds": round(time.perf_counter() - started, 3)}
        report |= {"production_peak_memory_mb": peak.mb, "production_peak_memory_by": peak.how}
        return Outcome(details=report)

    # the jobs of a run

    def abort(self, job: Record, control: JobControl) -> Outcome:
        """Raises the fences against late writers, and adds up what is finished."""
        run = self.store.runs.show(job["operation_id"])
        spec = RunSpec.model_validate(run["spec"])
        stopping = [task for task in run["tasks"] if task["state"] == "aborting" and task["may_have_rows"]]
        return Outcome(details={task["id"]: report for task in stopping if (report := self._last_report(task, spec))})

    def _last_report(self, task: Record, spec: RunSpec) -> Record | None:
        """Returns the report of a task that is being aborted; None where the target cannot be read, which does not keep
        the task from being aborted."""
        try:
            target = self.target_of(spec)
            target.bar(task["id"], task["fence"])
            return self._report(task, spec, TaskStatistics.of(target, task["id"], spec.seed))
        except Transient:
            raise
        except AudienceError as error:
            log.warning("action=abort_without_report task_id=%s reason=%s", task["id"], error)
            return None

    def delete(self, job: Record, control: JobControl) -> Outcome:
        """Removes every row of the run. Retried while a target cannot be reached; of a run that is to be forgotten a
        few times, for what still writes there may be in the way."""
        run = self.store.runs.show(job["operation_id"])
        forget = job["arguments"].get("forget", False)
        for task in run["tasks"]:
            try:
                self._empty(task, RunSpec.model_validate(run["spec"]))
            except AudienceError as error:
                if forget and job["failures"] >= FORGET_RETRIES:
                    log.warning("action=rows_forgotten task_id=%s reason=%s", task["id"], error)
                elif isinstance(error, Elsewhere) and not forget:
                    raise
                else:
                    raise Transient(str(error)) from error
        return Outcome()

    def _empty(self, task: Record, spec: RunSpec) -> None:
        """Removes a task's rows. A target that cannot be reached is an error only where it may hold some."""
        try:
            target = self.target_of(spec)
            if target.exists():
                target.delete(task["id"])
            elif task["may_have_rows"]:
                raise Transient(f"{spec.target} is not there: bring it back, or let the run be forgotten without it")
        except AudienceError:
            if task["may_have_rows"]:
                raise

    # what a task needs

    def _context(self, job: Record) -> TaskContext:
        """Returns what the partitions of the job's task share; opens it at the first one in this worker, and again
        after the task was resumed."""
        key = (job["subject"], job["arguments"]["fence"])
        with self._lock:
            opening = self._opening.setdefault(key, Lock())
        with opening:  # once; jobs of other tasks do not wait for a server that is slow to answer
            if (known := self._contexts.get(key)) is not None:
                return known
            context = self._open(self.store.tasks.get(job["subject"]))
            with self._lock:
                for old in list(self._contexts)[: 1 - CONTEXTS]:
                    del self._contexts[old]
                    self._opening.pop(old, None)
                self._contexts[key] = context
            return context

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


# what follows, in the transaction that ends the job


def _planned(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    peak, finished, by_author = outcome.details
    tasks.note_peak(connection, job["subject"], peak.mb, peak.how)
    tasks.planned(connection, job["subject"], finished, by_author=by_author)


def _partition_done(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    peak, bad_rows_limit = outcome.details
    tasks.note_peak(connection, job["subject"], peak.mb, peak.how)
    if outcome.result["model_errors"]:  # or it has added nothing to those of the task
        tasks.too_many_model_errors(connection, job["subject"], bad_rows_limit)
    tasks.partition_done(connection, job["subject"])
    log.info("action=partition_done task_id=%s partition=%s rows=%s", job["subject"], job["number"], outcome.progress)


def _reported(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    peak, gone, report, spec = outcome.details
    tasks.note_peak(connection, job["subject"], peak.mb, peak.how)
    if gone:
        log.warning("action=partitions_lost task_id=%s partitions=%s", job["subject"], len(gone))
        tasks.lost(connection, job["subject"], gone)
        return
    tasks.reported(connection, job["subject"], report, production=spec.production, delay_s=spec.production_delay_s)
    log.info("action=task_labeled task_id=%s rows=%s", job["subject"], report["read"])


def _produced(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    tasks.produced(connection, job["subject"], outcome.details, job["arguments"].get("after"))


def _aborted(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    tasks.aborted(connection, job["operation_id"], outcome.details)


def _deleted(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    runs.remove_run(connection, job["operation_id"], operations.WORKER)
    log.info("action=run_deleted run_id=%s", job["operation_id"])


def _failed(connection: sa.Connection, job: Record, reason: str) -> None:
    tasks.failed(connection, job, reason)
    log.warning("action=task_failed kind=%s task_id=%s reason=%s", job["kind"], job["subject"], reason)
