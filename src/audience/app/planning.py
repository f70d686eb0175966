"""What a requested run is, with every name resolved and everything checked that can be before it begins."""

from dataclasses import dataclass

from audience.app.locations import Locations
from audience.app.mappings import Mappings
from audience.app.models import Models
from audience.app.requests import PRIORITIES, RunRequest, TaskRequest
from audience.app.sources import Sources
from audience.errors import BadInput
from audience.labeling.plan import RunSpec, TaskSpec, check_tasks
from audience.store.queues import check_queue


@dataclass(frozen=True)
class Planned:
    """A run that can be written down."""

    spec: RunSpec
    tasks: tuple[TaskSpec, ...]
    priority: int


@dataclass(frozen=True)
class Planning:
    """Turns requests into runs."""

    locations: Locations
    sources: Sources
    models: Models
    mappings: Mappings

    def of(self, request: RunRequest) -> Planned:
        """Returns the run that a request means. Raises BadInput or NotFound where something does not open or fit."""
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
        return Planned(spec, tasks, PRIORITIES[request.priority])

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
