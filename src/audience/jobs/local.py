"""Carries out a run in this process: partitions in a few threads, so that reading, matching and writing overlap."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Protocol

import pyarrow as pa

from audience.errors import AudienceError, Conflict
from audience.jobs.memory import PeakMemory
from audience.labeling.labeler import Labeler, NamedModel
from audience.labeling.plan import RunSpec, TaskSpec
from audience.labeling.production import produce
from audience.labeling.statistics import PartitionStatistics, TaskStatistics, task_report
from audience.store import schema
from audience.store.records import Record, Store
from audience.tables.base import Partition, Selection, Source, SourceSpec, Target

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Told what happens; called from several threads."""

    def planning(self, task: int) -> None: ...

    def planned(self, task: int, n_rows: int) -> None: ...

    def read(self, task: int, n_rows: int) -> None: ...

    def producing(self, task: int) -> None: ...

    def finished(self, task: int) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def planning(self, task: int) -> None: ...

    def planned(self, task: int, n_rows: int) -> None: ...

    def read(self, task: int, n_rows: int) -> None: ...

    def producing(self, task: int) -> None: ...

    def finished(self, task: int) -> None: ...


@dataclass(frozen=True)
class LocalRunner:
    """Runs with what the app hands it: the store, and how to open models, sources and targets."""

    store: Store
    load_model: Callable[[str], NamedModel]
    open_source: Callable[[SourceSpec], Source]
    open_target: Callable[[str], Target]
    threads: int

    def execute(self, run_id: str, actor: str, progress: Progress) -> None:
        """Tasks one after another. A task that fails does not stop the others, but fails the run."""
        run = self.store.run(run_id)
        spec = RunSpec.model_validate(run["spec"])
        self._move_run(run_id, "running", actor)
        failures: list[str] = []
        try:
            models = [self.load_model(reference) for reference in spec.models]
            target = self.open_target(spec.target)
            for task in self.store.tasks(run_id):
                reason = self._attempt(task, spec, models, target, actor, progress)
                failures += [f"{task['spec']['name']}: {reason}"] if reason else []
        except AudienceError as error:
            self._move_run(run_id, "failed", actor, str(error))
            raise
        except BaseException:
            self._move_run(run_id, "aborted", actor, "stopped before it was done")
            raise
        self._move_run(run_id, "failed" if failures else "done", actor, "\n".join(failures) or None)

    def _move_run(self, run_id: str, state: str, actor: str, error: str | None = None) -> None:
        self.store.move(schema.run, run_id, state, actor, error)

    def _attempt(
        self,
        task: Record,
        spec: RunSpec,
        models: Sequence[NamedModel],
        target: Target,
        actor: str,
        progress: Progress,
    ) -> str | None:
        """Labels one task; the reason when it failed."""
        self.store.move(schema.task, task["id"], "running", actor)
        try:
            self._label(task, spec, models, target, progress)
            if spec.production:
                progress.producing(task["number"])
                self.store.move(schema.task, task["id"], "producing", actor)
                self._produce(task, spec, target)
        except AudienceError as error:
            self.store.move(schema.task, task["id"], "failed", actor, str(error))
            log.warning("action=task_failed task_id=%s", task["id"])
            return str(error)
        except BaseException:
            self.store.move(schema.task, task["id"], "aborted", actor, "stopped before it was done")
            raise
        self.store.move(schema.task, task["id"], "done", actor)
        progress.finished(task["number"])
        return None

    def _label(
        self, task: Record, spec: RunSpec, models: Sequence[NamedModel], target: Target, progress: Progress
    ) -> None:
        started = time.perf_counter()
        progress.planning(task["number"])
        task_spec = TaskSpec.model_validate(task["spec"])
        with PeakMemory() as memory:
            source = self.open_source(task_spec.source)
            fields = tuple(dict.fromkeys(name for m in models for name in m.model.inputs.names))
            selection = task_spec.selection(fields, spec.partition_rows)
            plan = source.plan(selection)
            self.store.save_plan(task["id"], map(asdict, plan.partitions), plan.set_aside)
            progress.planned(task["number"], plan.n_rows)
            labeler = Labeler(
                task["id"], models, spec.groups, spec.panels, spec.first_wins, selection.start, selection.end
            )
            fence = target.prepare(task["id"], spec.groups.names)
            work = _TaskWork(source, target, labeler, selection, fence, spec.seed, task["number"], progress)
            work.run(plan.partitions, self.threads)
            statistics = TaskStatistics.of(target, task["id"], spec.seed)
        report = task_report(statistics, plan, spec.groups.names, by_author="author" in source.roles)
        report |= {
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_mb": memory.peak_mb,
            "peak_memory_by": memory.how,
        }
        self.store.save_report(task["id"], report)
        log.info("action=task_labeled task_id=%s rows=%s", task["id"], report["read"])

    def _produce(self, task: Record, spec: RunSpec, target: Target) -> None:
        """Makes the production tables and adds their numbers to the task's report."""
        report = next(t for t in self.store.tasks(task["run_id"]) if t["id"] == task["id"])["report"]
        self.store.save_report(task["id"], produce(target, task["id"], spec.panels, report))

    def produce_again(self, run_id: str, actor: str) -> None:
        """Production of a finished run, once more: the same tables. When that fails the run is done as before."""
        run = self.store.run(run_id)
        if run["state"] != "done":
            raise Conflict(
                f"the run {run_id[:12]} is {run['state']}; production can be made again of a run that is done"
            )
        spec = RunSpec.model_validate(run["spec"])
        target = self.open_target(spec.target)
        self._move_run(run_id, "producing", actor)
        try:
            for task in self.store.tasks(run_id):
                self._produce(task, spec, target)
        finally:
            self._move_run(run_id, "done", actor)


@dataclass(frozen=True)
class _TaskWork:
    source: Source
    target: Target
    labeler: Labeler
    selection: Selection
    fence: int
    seed: int
    number: int
    progress: Progress

    def run(self, partitions: Sequence[Partition], threads: int) -> None:
        """All partitions; the first error stops the others at their next batch."""
        stop = threading.Event()
        with ThreadPoolExecutor(threads, thread_name_prefix="label") as pool:
            futures = [pool.submit(self._partition, partition, stop) for partition in partitions]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                _raise_first(done)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _partition(self, partition: Partition, stop: threading.Event) -> None:
        statistics = PartitionStatistics(seed=self.seed)
        batches = self._watched(self.source.read(partition, self.selection), stop)
        rows = self.labeler.label(partition.number, batches, statistics)
        self.target.write(self.labeler.task, partition.number, self.fence, rows, statistics)
        log.info("action=partition_done task_id=%s partition=%s", self.labeler.task, partition.number)

    def _watched(self, batches: Iterable[pa.RecordBatch], stop: threading.Event) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if stop.is_set():
                raise _Stopped
            self.progress.read(self.number, len(batch))
            yield batch


class _Stopped(Exception):
    """Another partition failed, or the user stopped the run; this one leaves nothing behind."""


def _raise_first(done: Iterable[Future[None]]) -> None:
    errors = [error for future in done if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, _Stopped)):
        raise error
