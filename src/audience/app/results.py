"""What runs found: their rows, samples, and what was set aside, read from their targets."""

from collections.abc import Iterator

import pyarrow as pa

from audience.app.locations import Locations
from audience.app.runs import Runs
from audience.errors import NotFound
from audience.labeling import export as exports
from audience.labeling.plan import RunSpec
from audience.labeling.sampling import scan
from audience.labeling.statistics import PartitionStatistics, sampled
from audience.store.database import Record
from audience.tables.base import RESULT_SCHEMA, Target


class Results:
    """Reads the results of runs. A reference is the beginning of an id, or `last`."""

    def __init__(self, runs: Runs, locations: Locations) -> None:
        self.runs = runs
        self.locations = locations

    def where(self, run: Record) -> dict[str, tuple[str, str | None]]:
        """Returns group -> its result table and its production table (null: not made), as a person can look them up."""
        target = self.locations.target(RunSpec.model_validate(run["spec"]))
        numbers = [pair for task in run["tasks"] for pair in (task["report"] or {}).get("groups", {}).items()]
        made = {group for group, found in numbers if "production" in found}
        groups = dict.fromkeys(group for group, _ in numbers)
        return {g: (target.where(g), target.where(g, production=True) if g in made else None) for g in groups}

    def set_aside(self, reference: str) -> Iterator[Record]:
        """Yields the rows that were set aside, as far as they are listed: task, id and reason."""
        run = self.runs.get(reference)
        target = self._results_of(run, None)
        for task in _begun(run):
            for mark in target.marks(task["id"], authors=False):
                for row_id, reason in PartitionStatistics.from_json(mark.statistics).bad_rows:
                    yield {"task": task["spec"]["name"], "id": row_id, "reason": reason}

    def sample(
        self, reference: str, size: int, seed: int | None = None, group: str | None = None, label: str | None = None
    ) -> list[Record]:
        """Returns result rows: up to `size` a task, group and panel; the same ones for the same seed."""
        run = self.runs.get(reference)
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
        run = self.runs.get(reference)
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
