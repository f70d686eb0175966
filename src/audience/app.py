"""The composition root: Settings -> App. Constructs and delegates only; whatever changes something takes an actor."""

import datetime as dt
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audience.errors import BadInput, NotFound
from audience.jobs.steps import Steps
from audience.jobs.worker import Patience, Worker
from audience.labeling import export as exports
from audience.labeling.groups import GroupMap
from audience.labeling.labeler import NamedModel
from audience.labeling.panels import Panels
from audience.labeling.plan import RunSpec, TaskSpec, check_tasks
from audience.labeling.sampling import scan
from audience.labeling.statistics import PartitionStatistics, sampled, so_far
from audience.models.registry import kind_of
from audience.models.rule_files import load_rules
from audience.models.rule_model import explain
from audience.models.rules import RuleSet
from audience.settings import Settings
from audience.store.database import Record, digest_of, open_engine
from audience.store.migrate import migrate
from audience.store.records import Once, Store
from audience.store.secrets import Secrets
from audience.store.states import FINAL
from audience.tables import registry as tables
from audience.tables.base import RESULT_SCHEMA, Description, Source, SourceSpec, Target
from audience.tables.times import check_timezone

LOCAL = "local"
"""The actor until access control is on."""

SQLITE_PATH = "sqlite:///"
WATCH_S = 0.1
NAME = re.compile(r"\w[\w.\-]{0,99}")


class App:
    """Everything that Audience does, for the edges: the shell, and whatever comes beside it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        _make_home(settings.home)
        key = settings.secret_key.get_secret_value() if settings.secret_key else None
        self.secrets = Secrets(settings.home, key)
        self.store = Store(open_engine(settings.resolved_store_url))

    # sources

    def add_source(self, name: str, spec: SourceSpec, actor: str, once: Once | None = None) -> Description:
        """Saves a source after it was opened and described."""
        _check_name(name, "source")
        spec = self._sealed(spec)
        description = self.open_source(spec).describe()
        self.store.add_source(name, spec.model_dump(mode="json"), actor, once)
        return description

    def test_source(self, reference: str) -> Description:
        return self.open_source(self.source_spec(reference)).describe()

    def sources(self) -> list[Record]:
        return self.store.sources()

    def remove_source(self, name: str, actor: str) -> None:
        self.store.remove_source(name, actor)

    def source_spec(self, reference: str, **given: Any) -> SourceSpec:
        """Of a saved source by its name, or of a path or URL; `given` adds to it or replaces."""
        given = {key: value for key, value in given.items() if value not in (None, {}, ())}
        saved = [record for record in self.store.sources() if record["name"] == reference]
        if saved:
            roles = {**saved[0]["spec"]["roles"], **given.get("roles", {})}
            return SourceSpec.model_validate({**saved[0]["spec"], **given, "roles": roles})
        if NAME.fullmatch(reference) and not Path(reference).exists() and "." not in reference:
            raise NotFound(
                f"{reference!r} is neither a saved source nor a file here; `audience source list` shows them"
            )
        return self.new_source(reference, **given)

    def new_source(self, url: str, **given: Any) -> SourceSpec:
        """A source as it may be saved: an absolute path, no password in the URL."""
        check_timezone(given.get("timezone", "UTC"))
        return self._sealed(SourceSpec(url=url, **given))

    def open_source(self, spec: SourceSpec) -> Source:
        return tables.open_source(spec.model_copy(update={"url": self.secrets.joined(spec.url, spec.secret)}))

    def _sealed(self, spec: SourceSpec) -> SourceSpec:
        url, secret = self.secrets.separated(spec.url)
        self._refuse_own_records(url)
        return spec.model_copy(update={"url": _absolute(url), "secret": secret or spec.secret})

    def _refuse_own_records(self, reference: str) -> None:
        own = self.store.database.engine.url.database
        if own is not None and Path(_absolute(reference)).resolve() == Path(own).resolve():
            raise BadInput(f"{reference} holds our own records; data and results live in files of their own")

    # models

    def add_model(self, name: str, path: Path, actor: str, **options: Any) -> tuple[str, tuple[str, ...]]:
        """(`name@version`, warnings) of a rule set from a file."""
        rules, warnings = load_rules(path, **options)
        return self.save_rules(name, rules, actor, warnings), warnings

    def save_rules(
        self, name: str, rules: RuleSet, actor: str, warnings: Iterable[str] = (), once: Once | None = None
    ) -> str:
        """`name@version`; the same rules again are the same version."""
        _check_name(name, "model")
        definition = rules.model_dump(mode="json", exclude_defaults=True)
        return self.store.add_model(name, "rules", digest_of(definition), definition, list(warnings), actor, once)

    def models(self) -> list[Record]:
        return self.store.models()

    def model(self, reference: str) -> Record:
        return self.store.model(reference)

    def try_model(self, reference: str, texts: dict[str, str | None]) -> tuple[list[Record], list[Record]]:
        """(labels given, every hit) for one row; `texts` by field, or under "" for all fields at once."""
        rules = RuleSet.model_validate(self.store.model(reference)["definition"])
        row = {field: texts.get(field, texts.get("")) for field in rules.used_fields}
        return explain(rules, row)

    def model_fields(self, reference: str) -> tuple[str, ...]:
        record = self.store.model(reference)
        return kind_of(record["kind"]).fields(record["definition"])

    def load_model(self, reference: str) -> NamedModel:
        record = self.store.model(reference)
        return NamedModel(f"{record['name']}@{record['version']}", kind_of(record["kind"]).build(record["definition"]))

    # saved groups and conflict groups

    def save_groups(self, name: str, groups: GroupMap, actor: str) -> None:
        _check_name(name, "group map")
        self.store.save_mapping("groups", name, groups.model_dump(mode="json"), actor)

    def groups(self, name: str) -> GroupMap:
        return GroupMap.model_validate(self.store.mapping("groups", name)["definition"])

    def save_conflict_groups(self, name: str, panels: Panels, actor: str) -> None:
        _check_name(name, "set of conflict groups")
        self.store.save_mapping("conflict_groups", name, panels.model_dump(mode="json"), actor)

    def conflict_groups(self, name: str) -> Panels:
        return Panels.model_validate(self.store.mapping("conflict_groups", name)["definition"])

    # runs

    def create_run(
        self, tasks: Sequence[TaskSpec], spec: RunSpec, actor: str, priority: int = 0, once: Once | None = None
    ) -> str:
        """Checks that everything opens and fits, and writes the run down for workers to carry out; its id."""
        check_tasks(tuple(tasks))
        saved = [self.store.model(reference) for reference in spec.models]
        fields = tuple(dict.fromkeys(field for m in saved for field in kind_of(m["kind"]).fields(m["definition"])))
        for task in tasks:
            self._check_fields(task, fields)
        names = tuple(f"{m['name']}@{m['version']}" for m in saved)
        spec = spec.model_copy(update={"target": _absolute(spec.target), "models": names})
        self._refuse_own_records(spec.target)
        self.open_target(spec.target)
        asked = [task.model_dump(mode="json") for task in tasks]
        return self.store.runs.add(spec.model_dump(mode="json"), asked, actor, priority, once)

    def _check_fields(self, task: TaskSpec, fields: tuple[str, ...]) -> None:
        roles = self.open_source(task.source).roles
        for field in fields:
            if field not in roles:
                raise BadInput(
                    f"{task.name} has no column for the field {field!r} that a model looks at; "
                    f"say which one with --role {field}=COLUMN, or let the rules look at one of: {', '.join(roles)}"
                )

    def worker(self, threads: int | None = None, run_id: str | None = None) -> Worker:
        """A worker in this process, not started; of this run only, if one is given."""
        s = self.settings
        patience = Patience(s.lease_s, s.retry_s, s.max_retries, s.max_losses, s.stop_s)
        steps = Steps(self.store, self.load_model, self.open_source, self.open_target)
        return Worker(self.store, steps, threads=threads or s.threads, patience=patience, run_id=run_id)

    def work_on(self, run_id: str, progress: Callable[[Record], bool | None] | None = None) -> None:
        """Carries out a run in this process until it has ended, beside whatever workers there are. `progress` is told
        how the run stands now and then; when it returns true, the rest is left to others."""
        worker = self.worker(run_id=run_id)
        worker.start()
        try:
            while (run := self._unfinished(run_id)) is not None:
                if progress and progress(run):
                    return
                time.sleep(WATCH_S)
        finally:
            worker.stop()

    def _unfinished(self, run_id: str) -> Record | None:
        """The run as it stands; None when it has ended, or is no more."""
        try:
            run = self.store.runs.show(run_id)
        except NotFound:
            return None
        return None if run["state"] in FINAL and not self.store.jobs.is_open(run_id) else run

    def abort_run(self, reference: str, actor: str) -> str:
        """Stops a run; what is finished is kept. Workers bring it to an end; its id."""
        run_id = self.find_run(reference)
        self.store.runs.abort(run_id, actor)
        return run_id

    def resume_run(self, reference: str, actor: str) -> str:
        """Goes on with a run that failed or was aborted; its id."""
        run_id = self.find_run(reference)
        self.store.runs.resume(run_id, actor)
        return run_id

    def produce(self, reference: str, actor: str, *, partial: bool = False) -> str:
        """Production once more; the same tables come out. Of a run that failed or was aborted only if `partial`."""
        run_id = self.find_run(reference)
        self.store.runs.produce(run_id, actor, partial=partial)
        return run_id

    def delete_run(self, reference: str, actor: str, *, forget: bool = False) -> str:
        """Begins to remove a run, its results and its production rows; workers do. `forget`: at once, leaving behind
        what is in a target that is gone."""
        run_id = self.find_run(reference)
        self.store.runs.delete(run_id, actor)
        if forget:
            self.store.runs.forget(run_id, actor)
        return run_id

    def find_run(self, reference: str) -> str:
        """The id of a run, by the beginning of one, or `last`."""
        return str(self.store.runs.find(reference)["id"])

    def run(self, reference: str) -> Record:
        """A run with its tasks: how far each is, its report when there is one, its numbers so far as long as there is
        none."""
        run = self.store.runs.show(self.find_run(reference))
        working = [task["id"] for task in run["tasks"] if task["report"] is None and task["progress"]["read"]]
        counted = self.store.runs.counted(working) if working else {}
        return {**run, "tasks": [_shown(task, counted.get(task["id"])) for task in run["tasks"]]}

    def set_aside(self, reference: str) -> Iterator[Record]:
        """The rows that could not be used, as far as they are listed: task, id and reason."""
        run = self.run(reference)
        target = self._results_of(run, None)
        for task in _begun(run):
            for mark in target.marks(task["id"], authors=False):
                for row_id, reason in PartitionStatistics.from_json(mark.statistics).bad_rows:
                    yield {"task": task["spec"]["name"], "id": row_id, "reason": reason}

    def sample(
        self, reference: str, size: int, seed: int | None = None, group: str | None = None, label: str | None = None
    ) -> list[Record]:
        """Result rows: up to `size` a task, group and panel; the same ones for the same seed."""
        run = self.run(reference)
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
        """All results or production rows of a run, as they are read; `comparable` without the ids of its tasks."""
        run = self.run(reference)
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
        """The target of a run; where it has begun, its results must be there, and the group, if one is named."""
        target = self.open_target(run["spec"]["target"])
        if _begun(run) and not target.exists():
            raise NotFound(f"the results of run {run['id'][:12]} are gone: there is no {run['spec']['target']}")
        groups = RunSpec.model_validate(run["spec"]).groups.names
        if group is not None and group not in groups:
            raise NotFound(f"run {run['id'][:12]} has no group {group!r}; it has: {', '.join(groups)}")
        return target

    def open_target(self, url: str) -> Target:
        return tables.open_target(url)


def _begun(run: Record) -> list[Record]:
    """The tasks that may have something in the target."""
    return [task for task in run["tasks"] if task["touched"]]


def _shown(task: Record, counts: list[Record] | None) -> Record:
    """A task with the numbers that change until it ends."""
    seconds = task["worked_s"]
    if task["started_at"] is not None:
        began = dt.datetime.fromisoformat(task["started_at"])
        seconds += max(0.0, (dt.datetime.now(dt.UTC) - began).total_seconds())
    measured = {"seconds": round(seconds, 3), "peak_memory_mb": task["peak_mb"], "peak_memory_by": task["peak_by"]}
    report = {**task["report"], **measured} if task["report"] else None
    return {**task, "report": report, "so_far": {**so_far(counts), **measured} if counts else None}


def migrate_store(settings: Settings) -> tuple[str | None, str]:
    """(revision before, revision now)."""
    _make_home(settings.home)
    return migrate(open_engine(settings.resolved_store_url))


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise BadInput(f"AUDIENCE_HOME, the folder of our own records, cannot be made: {home}: {reason}") from None


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a {what}: use up to 100 letters, digits, _ - and .")


def _absolute(reference: str) -> str:
    """A path from anywhere; a URL as it is."""
    path = reference.removeprefix(SQLITE_PATH)
    return path if "://" in path else str(Path(path).absolute())
