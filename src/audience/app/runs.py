"""Runs: labeling of whole tables, from the request to the results."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from audience.app.locations import Locations
from audience.app.mappings import Mappings
from audience.app.models import Models
from audience.app.requests import PRIORITIES, RunRequest, TaskRequest
from audience.app.sources import Sources
from audience.errors import BadInput, NotFound
from audience.labeling import export as exports
from audience.labeling.plan import RunSpec, TaskSpec, check_tasks
from audience.labeling.sampling import scan
from audience.labeling.statistics import PartitionStatistics, sampled, so_far
from audience.store.database import Record
from audience.store.idempotency import IdempotencyKey
from audience.store.queues import check_queue
from audience.store.records import Store
from audience.store.runs import KIND, abort_tasks
from audience.tables.base import RESULT_SCHEMA, Target


class Runs:
    """Writes down what is requested of runs, for workers to carry out, and reads what they found. A reference is the
    beginning of an id, or `last`."""

    def __init__(
        self, store: Store, locations: Locations, sources: Sources, models: Models, mappings: Mappings
    ) -> None:
        self.store = store
        self.locations = locations
        self.sources = sources
        self.models = models
        self.mappings = mappings

    def create(self, request: RunRequest, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Checks that everything opens and fits, and writes the run down for workers. Returns its id, state, time, and
        warnings."""
        if key and (made := self.store.answers.made(key)):
            return {**made, "warnings": made.get("warnings", [])}
        tasks = tuple(self._task(task) for task in request.tasks)
        check_tasks(tasks)
        check_queue(request.queue)
        spec = self._spec(request)
        names = tuple(map(self.models.named, request.models))
        fields = tuple(dict.fromkeys(field for name in names for field in self.models.fields(name)))
        for task in tasks:
            self._check_fields(task, fields)
        if len(set(names)) < len(names):
            raise BadInput(f"a model is named twice, and would give every label twice: {', '.join(names)}")
        target, secret = self.locations.sealed_target(spec.target)
        secret = secret or spec.target_secret
        labels = [label for name in names for label in self.models.labels(name)]
        warnings = tuple(spec.panels.warnings(labels)) if request.conflict_groups is not None else ()
        spec = spec.model_copy(
            update={"target": target, "target_secret": secret, "models": names, "warnings": warnings}
        )
        self.locations.target(spec).check()
        lacking = [] if request.attended else self.store.workers.lacking(request.queue)
        task_specs = [task.model_dump(mode="json") for task in tasks]
        priority = PRIORITIES[request.priority]
        made = self.store.runs.add(
            spec.model_dump(mode="json"), task_specs, actor, priority, key, request.queue, [*warnings, *lacking]
        )
        return {**made, "warnings": made.get("warnings", [])}

    def _task(self, request: TaskRequest) -> TaskSpec:
        for name, bound in (("start", request.start), ("end", request.end)):
            if bound is not None and bound.tzinfo is not None:
                raise BadInput(
                    f"{request.where}.{name} has an offset; write the time as clocks in the source's timezone show it"
                )
        spec = self.sources.spec(request.source)
        name = request.name or self.sources.task_name(request.source, spec)
        return TaskSpec(name=name, source=spec, start=request.start, end=request.end)

    def _spec(self, request: RunRequest) -> RunSpec:
        settings = self.locations.settings
        target = request.target
        if target is None:
            target = self.locations.default_target()
        elif request.confined:
            target = self.locations.confined(target, "target")
        delay_s = request.production_delay_s
        return RunSpec(
            models=request.models,
            target=target,
            target_within=self.locations.roots if request.confined else (),
            first_wins=request.first_wins,
            groups=self.mappings.resolved_groups(request.groups),
            panels=self.mappings.resolved_panels(request.conflict_groups),
            seed=request.seed,
            production=request.production,
            production_delay_s=settings.production_delay_s if delay_s is None else delay_s,
            partition_rows=request.partition_rows or settings.partition_rows,
            bad_rows_limit=request.bad_rows_limit,
        )

    def _check_fields(self, task: TaskSpec, fields: tuple[str, ...]) -> None:
        roles = self.locations.source(task.source).roles
        for field in fields:
            if field not in roles:
                raise BadInput(
                    f"{task.name} has no column for the field {field!r} that a model looks at; "
                    f"say which one with --role {field}=COLUMN, or let the rules look at one of: {', '.join(roles)}"
                )

    def abort(self, reference: str, actor: str) -> str:
        """Stops a run; what is finished is kept. Workers bring it to its end. Returns its id."""
        run_id = self.find(reference)
        self.store.operations.cancel(run_id, actor, abort_tasks)
        return run_id

    def resume(self, reference: str, actor: str) -> str:
        """Resumes a run that failed or was aborted; returns its id."""
        run_id = self.find(reference)
        self.store.runs.resume(run_id, actor)
        return run_id

    def produce(self, reference: str, actor: str, *, partial: bool = False) -> str:
        """Makes production once more, with the same rows; with `partial` also of a run that failed or was aborted.
        Returns its id."""
        run_id = self.find(reference)
        self.store.runs.produce(run_id, actor, partial=partial)
        return run_id

    def delete(self, reference: str, actor: str, *, forget: bool = False) -> str:
        """Begins to remove a run, its results and its production rows. `forget`: also when its target cannot be
        reached, where its rows then stay. Returns its id."""
        run_id = self.find(reference)
        self.store.runs.delete(run_id, actor, forget=forget)
        return run_id

    def find(self, reference: str) -> str:
        """Returns the id of a run, from the beginning of one, or `last`."""
        return str(self.store.operations.find(reference, KIND)["id"])

    def page(
        self,
        limit: int = 50,
        states: Sequence[str] = (),
        created_by: str | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[Record]:
        """Returns runs, newest first: those before (created_at, id), in these states, of this actor."""
        return self.store.runs.page(limit, states, created_by, before)

    def rows_read(self) -> int:
        """Returns the rows read by the runs that are not deleted."""
        return self.store.runs.rows_read()

    def where(self, run: Record) -> dict[str, tuple[str, str | None]]:
        """Returns group -> its result table and its production table (null: not made), as a person can look them up."""
        target = self.locations.target(RunSpec.model_validate(run["spec"]))
        numbers = [pair for task in run["tasks"] for pair in (task["report"] or {}).get("groups", {}).items()]
        made = {group for group, found in numbers if "production" in found}
        groups = dict.fromkeys(group for group, _ in numbers)
        return {g: (target.where(g), target.where(g, production=True) if g in made else None) for g in groups}

    def get(self, reference: str) -> Record:
        """Returns a run with its tasks: the progress of each, and its report or, as long as there is none, its numbers
        so far; and with `warnings`."""
        run = self.store.runs.show(self.find(reference))
        working = [task["id"] for task in run["tasks"] if task["report"] is None and task["progress"]["read"]]
        counted = self.store.runs.counted(working) if working else {}
        tasks = [_shown(task, counted.get(task["id"])) for task in run["tasks"]]
        lacking = self.store.workers.lacking(run["queue"], run["state"])
        return {**run, "tasks": tasks, "warnings": [*run["spec"].get("warnings", ()), *_odd(tasks), *lacking]}

    def set_aside(self, reference: str) -> Iterator[Record]:
        """Yields the rows that were set aside, as far as they are listed: task, id and reason."""
        run = self.get(reference)
        target = self._results_of(run, None)
        for task in _begun(run):
            for mark in target.marks(task["id"], authors=False):
                for row_id, reason in PartitionStatistics.from_json(mark.statistics).bad_rows:
                    yield {"task": task["spec"]["name"], "id": row_id, "reason": reason}

    def sample(
        self, reference: str, size: int, seed: int | None = None, group: str | None = None, label: str | None = None
    ) -> list[Record]:
        """Returns result rows: up to `size` a task, group and panel; the same ones for the same seed."""
        run = self.get(reference)
        spec = RunSpec.model_validate(run["spec"])
        target = self._results_of(run, group)
        wanted = {label, f"/{label}", f"/{spec.panels.names.get(label or '', '')}"}
        rows: list[Record] = []
        for task in _begun(run):
            if seed is None or seed == spec.seed:
                sampler = sampled(target, task["id"], spec.seed)
            else:
                sampler = scan(target, task["id"], seed)
            for (name, panel), tickets in sorted(sampler.tickets.items()):
                if group in (None, name) and (label is None or panel in wanted):
                    rows += target.fetch(task["id"], [(name, partition, n) for _, partition, n in tickets[:size]])
        return rows

    def exported(
        self, reference: str, *, production: bool, group: str | None = None, comparable: bool = False
    ) -> exports.Rows:
        """Returns all results or production rows of a run, as a stream; `comparable` without the ids of its tasks."""
        run = self.get(reference)
        target = self._results_of(run, group)
        schema = exports.PRODUCTION_SCHEMA if production else RESULT_SCHEMA
        rows = exports.Rows(self._rows(run, target, production, group), schema)
        return exports.comparable(rows) if comparable else rows

    def _rows(self, run: Record, target: Target, production: bool, group: str | None) -> Iterator[pa.RecordBatch]:
        for task in _begun(run):
            if not production:
                yield from target.results(task["id"], group)
            for name in (task["report"] or {}).get("groups", {}) if production else ():
                if group in (None, name):
                    yield from target.production(task["id"], name)

    def _results_of(self, run: Record, group: str | None) -> Target:
        """Returns the target of a run. Raises NotFound where results that it should hold, or the group, are not
        there."""
        target = self.locations.target(RunSpec.model_validate(run["spec"]))
        if _begun(run) and not target.exists():
            raise NotFound(f"the results of run {run['id'][:12]} are gone: there is no {run['spec']['target']}")
        groups = RunSpec.model_validate(run["spec"]).groups.names
        if group is not None and group not in groups:
            raise NotFound(f"run {run['id'][:12]} has no group {group!r}; it has: {', '.join(groups)}")
        return target


def _begun(run: Record) -> list[Record]:
    """Returns the tasks of which the target may hold rows."""
    return [task for task in run["tasks"] if task["may_have_rows"]]


def _odd(tasks: Iterable[Record]) -> Iterator[str]:
    """Yields what is odd about the rows that tasks have read."""
    for task in tasks:
        numbers = task["report"] or task["so_far"] or {}
        yield from (f"{task['spec']['name']}: {warning}" for warning in numbers.get("warnings", ()))


def _shown(task: Record, counts: list[Record] | None) -> Record:
    """Returns a task with the numbers that change until it ends."""
    seconds = task["worked_s"]
    if task["started_at"] is not None:
        began = dt.datetime.fromisoformat(task["started_at"])
        seconds += max(0.0, (dt.datetime.now(dt.UTC) - began).total_seconds())
    measured = {"seconds": round(seconds, 3), "peak_memory_mb": task["peak_mb"], "peak_memory_by": task["peak_by"]}
    report = {**task["report"], **measured} if task["report"] else None
    return {**task, "report": report, "so_far": {**so_far(counts), **measured} if counts else None}
