"""Runs: labeling of whole tables, from the request on; what they found is in `results`."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from audience.store.database import Record
from audience.store.idempotency import IdempotencyKey
from audience.store.records import Store
from audience.store.runs import KIND, abort_tasks

if TYPE_CHECKING:
    from audience.app.planning import Planning
    from audience.app.requests import RunRequest


class Runs:
    """Writes down what is requested of runs, for workers to carry out, and tells how far they are. A reference is the
    beginning of an id, or `last`. `planning`: what turns a request into a run; made when it is needed, because it knows
    every kind of source and model, and runs are listed far more often."""

    def __init__(self, store: Store, planning: "Callable[[], Planning]") -> None:
        self.store = store
        self._planning = planning

    def create(self, request: "RunRequest", actor: str, key: IdempotencyKey | None = None) -> Record:
        """Checks that everything opens and fits, and writes the run down for workers. Returns its id, state, time, and
        warnings."""
        if key and (made := self.store.answers.made(key)):
            return {**made, "warnings": made.get("warnings", [])}
        planned = self._planning().of(request)
        lacking = [] if request.attended else self.store.workers.lacking(request.queue)
        warnings = [*planned.spec.warnings, *lacking]
        made = self.store.runs.add(
            planned.spec.model_dump(mode="json"),
            [task.model_dump(mode="json") for task in planned.tasks],
            actor,
            planned.priority,
            key,
            request.queue,
            warnings,
        )
        return {**made, "warnings": made.get("warnings", [])}

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

    def get(self, reference: str) -> Record:
        """Returns a run with its tasks: the progress of each, and its report or, as long as there is none, its numbers
        so far; and with `warnings`."""
        run = self.store.runs.show(self.find(reference))
        working = [task["id"] for task in run["tasks"] if task["report"] is None and task["progress"]["read"]]
        counted = self.store.runs.counted(working) if working else {}
        tasks = [_shown(task, counted.get(task["id"])) for task in run["tasks"]]
        lacking = self.store.workers.lacking(run["queue"], run["state"])
        return {**run, "tasks": tasks, "warnings": [*run["spec"].get("warnings", ()), *_odd(tasks), *lacking]}


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
    if counts:
        from audience.labeling.statistics import so_far  # not when runs are only listed

        return {**task, "report": report, "so_far": {**so_far(counts), **measured}}
    return {**task, "report": report, "so_far": None}
