"""The composition root: Settings -> App. Constructs and delegates only; whatever changes something takes an actor."""

import contextlib
import datetime as dt
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audience.errors import AudienceError, BadInput, Conflict, NotFound
from audience.jobs.patience import Patience
from audience.jobs.publishing import Publishers
from audience.jobs.roster import roster
from audience.jobs.steps import Steps
from audience.jobs.worker import Worker
from audience.labeling import export as exports
from audience.labeling.groups import GroupMap
from audience.labeling.labeler import NamedModel
from audience.labeling.panels import Panels, checked
from audience.labeling.plan import RunSpec, TaskSpec, check_tasks
from audience.labeling.publish import Progress, PublicationSpec, by_index, check_indexes
from audience.labeling.sampling import scan
from audience.labeling.statistics import PartitionStatistics, sampled, so_far
from audience.models.registry import kind_of
from audience.models.rule_files import load_rules
from audience.models.rule_model import explain
from audience.models.rules import RuleSet
from audience.settings import Settings
from audience.store.database import Record, digest_of, make_home
from audience.store.engines import open_engine, same_place
from audience.store.migrate import migrate
from audience.store.queues import DEFAULT, check_queue, shares
from audience.store.records import Once, open_store
from audience.store.secrets import Secrets
from audience.store.states import FINAL
from audience.tables import registry as tables
from audience.tables.base import RESULT_SCHEMA, Description, Source, SourceSpec, Target
from audience.tables.publications import Publisher
from audience.tables.times import check_timezone

LOCAL = "local"
"""The actor until access control is on."""

SQLITE_PATH = "sqlite:///"
WATCH_S = 0.1
MIGRATION_S = 3600
NAME = re.compile(r"\w[\w.\-]{0,99}")


class App:
    """Everything that Audience does, for the edges: the shell, and whatever comes beside it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings.home, settings.resolved_store_url, settings.resolved_blobs_url)
        key = settings.secret_key.get_secret_value() if settings.secret_key else None
        self.secrets = Secrets(settings.home, key)

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

    def source_spec(self, reference: str | None, **given: Any) -> SourceSpec:
        """Of a saved source by its name, or of a path or URL; None: of the server that the settings name. `given` adds
        to it or replaces."""
        if reference is None:
            return self.new_source(self.default_source(), **given)
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

    def default_source(self) -> str:
        """The server of sources that the settings name, with its password: never shown."""
        if url := self.settings.resolved_source_url:
            return url
        raise BadInput("no source is named: give a path, a URL or a saved source, or set AUDIENCE_SOURCE_URL")

    def default_target(self) -> str:
        """The target that the settings name, with its password: never shown."""
        if url := self.settings.resolved_target_url:
            return url
        raise BadInput("no target is named: say where results go, or set AUDIENCE_TARGET_URL")

    def default_publication_target(self) -> str:
        """Where the settings keep publications, with its password: never shown."""
        if url := self.settings.resolved_publication_url:
            return url
        raise BadInput("say where the new publication is to be kept (target), or set AUDIENCE_PUBLICATION_URL")

    def open_source(self, spec: SourceSpec) -> Source:
        return tables.open_source(spec, self.secrets.joined(spec.url, spec.secret))

    def _sealed(self, spec: SourceSpec) -> SourceSpec:
        url, secret = self.secrets.separated(spec.url)
        self._refuse_own_records(url, "source")
        return spec.model_copy(update={"url": _absolute(url), "secret": secret or spec.secret})

    def _refuse_own_records(self, reference: str, what: str) -> None:
        if what == "target" and same_place(reference, self.settings.resolved_store_url):
            raise BadInput("the target holds our own records: results go to another schema, or to another database")
        path = tables.path_of(reference, what)
        if path is not None and self.store.database.is_in(Path(path)):
            raise BadInput(f"{path} holds our own records; data and results live in files of their own")

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
        """Every version; `definition` is null of large ones."""
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
        self,
        tasks: Sequence[TaskSpec],
        spec: RunSpec,
        actor: str,
        priority: int = 0,
        once: Once | None = None,
        queue: str = DEFAULT,
    ) -> str:
        """Checks that everything opens and fits, and writes the run down for workers to carry out; its id."""
        check_tasks(tuple(tasks))
        check_queue(queue)
        saved = [self.store.model(reference) for reference in spec.models]
        fields = tuple(dict.fromkeys(field for m in saved for field in kind_of(m["kind"]).fields(m["definition"])))
        for task in tasks:
            self._check_fields(task, fields)
        names = tuple(f"{m['name']}@{m['version']}" for m in saved)
        if len(set(names)) < len(names):
            raise BadInput(f"a model is named twice, and would give every label twice: {', '.join(names)}")
        target, secret = self._sealed_target(spec.target)
        secret = secret or spec.target_secret
        spec = spec.model_copy(update={"target": target, "target_secret": secret, "models": names})
        self.target_of(spec).check()
        asked = [task.model_dump(mode="json") for task in tasks]
        return self.store.runs.add(spec.model_dump(mode="json"), asked, actor, priority, once, queue)

    def _sealed_target(self, reference: str) -> tuple[str, str | None]:
        """A target as it may be saved: (an absolute path, or a URL without its password; the password, sealed)."""
        target, secret = self.secrets.separated(_absolute(reference))
        self._refuse_own_records(target, "target")
        return target, secret

    def _check_fields(self, task: TaskSpec, fields: tuple[str, ...]) -> None:
        roles = self.open_source(task.source).roles
        for field in fields:
            if field not in roles:
                raise BadInput(
                    f"{task.name} has no column for the field {field!r} that a model looks at; "
                    f"say which one with --role {field}=COLUMN, or let the rules look at one of: {', '.join(roles)}"
                )

    def worker(
        self, threads: int | None = None, run_id: str | None = None, queues: Sequence[str] | None = None
    ) -> Worker:
        """A worker in this process, not started; of this run only, if one is given, whatever its queue."""
        return Worker(
            self.store,
            self.steps(),
            threads=threads or self.settings.threads,
            patience=Patience.of(self.settings),
            served=shares(queues or self.settings.queues),
            run_id=run_id,
        )

    def workers(self) -> list[Record]:
        """Who is alive, and works on what; looks for a moment."""
        return roster(self.store, self.settings.lease_s)

    def steps(self) -> Steps:
        """What carries out jobs in this process."""
        return Steps(self.store, self.load_model, self.open_source, self.target_of)

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
        """Begins to remove a run, its results and its production rows; workers do. `forget`: at once, and also when
        its target cannot be reached, where its rows then stay."""
        run_id = self.find_run(reference)
        self.store.runs.delete(run_id, actor)
        if forget:
            self._empty(self.store.runs.show(run_id))
            self.store.runs.forget(run_id, actor)
        return run_id

    def _empty(self, run: Record) -> None:
        """Removes what can be removed of a run that is about to be forgotten."""
        with contextlib.suppress(AudienceError):
            target = self.target_of(RunSpec.model_validate(run["spec"]))
            for task in run["tasks"] if target.exists() else ():
                target.delete(task["id"])

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
        target = self.target_of(RunSpec.model_validate(run["spec"]))
        if _begun(run) and not target.exists():
            raise NotFound(f"the results of run {run['id'][:12]} are gone: there is no {run['spec']['target']}")
        groups = RunSpec.model_validate(run["spec"]).groups.names
        if group is not None and group not in groups:
            raise NotFound(f"run {run['id'][:12]} has no group {group!r}; it has: {', '.join(groups)}")
        return target

    def target_of(self, spec: RunSpec) -> Target:
        """Where the results of such a run go."""
        return tables.open_target(spec.target, spec.target_within, self.secrets.joined(spec.target, spec.target_secret))

    # publications

    def add_publication(self, name: str, spec: PublicationSpec, actor: str, once: Once | None = None) -> None:
        """Saves a publication after its target was opened; nothing is published yet."""
        _check_name(name, "publication")
        target, secret = self._sealed_target(spec.target)
        spec = spec.model_copy(update={"target": target, "target_secret": secret or spec.target_secret})
        check_indexes(spec.indexes)
        self._publisher({"id": "", "name": name}, spec)
        self.store.publications.add(name, spec.model_dump(mode="json"), actor, once)

    def is_target(self, saved: str, reference: str) -> bool:
        """Whether a reference means this saved target."""
        return self._sealed_target(reference)[0] == saved

    def publications(self) -> list[Record]:
        return self.store.publications.all()

    def publication(self, name: str) -> Record:
        """A publication with its versions, newest first, and where its indexes can be looked up."""
        record = self.store.publications.get(name)
        publisher = self._publisher(record, PublicationSpec.model_validate(record["spec"]))
        return {**record, "where": {index: publisher.where(index) for index in publisher.edition().indexes}}

    def begin_publishing(
        self,
        name: str,
        runs: Sequence[str],
        actor: str,
        *,
        indexes: dict[str, tuple[str, ...]] | None = None,
        conflicts: dict[str, tuple[str, ...]] | None = None,
        replace: bool = False,
        preview: bool = False,
        base: int | None = None,
    ) -> Record:
        """Begins to merge the production of done runs with what is published, and to swap it in unless it is a
        `preview`; what `carry_out_publishing` is to do. `base`: the version that must be published now."""
        spec = PublicationSpec.model_validate(self.store.publications.get(name)["spec"])
        run_ids = list(dict.fromkeys(self.find_run(run) for run in runs))
        indexes = spec.indexes if indexes is None else indexes
        check_indexes(indexes)
        publishers = self._publishers()
        by_index(publishers.parts(run_ids), indexes)
        conflicts = conflicts or spec.conflicts or self._conflicts_of(run_ids)
        checked(Panels(conflicts=conflicts), "conflict groups")
        asked: Record = {"action": "preview" if preview else "publish", "runs": run_ids, "replace": replace}
        asked |= {"indexes": indexes, "conflicts": conflicts}
        return self.store.publications.begin(name, asked, actor, base)

    def resume_publication(self, name: str, actor: str) -> Record:
        """Begins to go on with what is under way, in the place of whoever began it."""
        return self.store.publications.take_over(name, actor)

    def carry_out_publishing(self, begun: Record, progress: Progress | None = None) -> list[Record]:
        """Does what was begun; the changes by index and panel."""
        return self._publishers().carry_out(begun, progress)

    def _conflicts_of(self, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Those that all the runs have."""
        found = [RunSpec.model_validate(self.store.runs.show(run)["spec"]).panels for run in run_ids]
        if not found:
            raise BadInput("nothing to publish: name at least one run")
        if any(panels.conflict_of != found[0].conflict_of for panels in found):
            raise BadInput("the runs were made with different conflict groups: say which the publication goes by")
        return found[0].conflicts

    def roll_back_publication(self, name: str, actor: str) -> None:
        """Brings the former version back; doing so again undoes it."""
        record = self.store.publications.get(name)
        edition = self._publisher(record, PublicationSpec.model_validate(record["spec"])).edition()
        if not edition.former:
            raise Conflict(f"{name!r} has no former version to bring back", record["state"])
        asked = {"action": "roll_back", "version": edition.former}
        self._publishers().carry_out(self.store.publications.begin(name, asked, actor))

    def delete_publication(self, name: str, actor: str, *, forget: bool = False) -> None:
        """Drops its tables; `forget`: also when its target cannot be reached, where they then stay."""
        asked = {"action": "delete", "forget": forget}
        self._publishers().carry_out(self.store.publications.begin(name, asked, actor))

    def exported_publication(self, name: str, index: str | None = None) -> exports.Rows:
        """All rows that are published, or those of one index, as they are read."""
        record = self.store.publications.get(name)
        publisher = self._publisher(record, PublicationSpec.model_validate(record["spec"]))
        indexes = publisher.edition().indexes
        if index is not None and index not in indexes:
            raise NotFound(f"{name!r} has no index {index!r}; it has: {', '.join(indexes) or 'none yet'}")
        return exports.Rows(_published(publisher, [index] if index else indexes), exports.PUBLISHED_SCHEMA)

    def _publishers(self) -> Publishers:
        return Publishers(self.store, self.target_of, self._publisher)

    def _publisher(self, record: Record, spec: PublicationSpec) -> Publisher:
        url = self.secrets.joined(spec.target, spec.target_secret)
        return tables.open_publisher(spec.target, record["id"], record["name"], spec.target_within, url)


def _published(publisher: Publisher, indexes: Iterable[str]) -> Iterator[pa.RecordBatch]:
    for index in indexes:
        for batch in publisher.published(index):
            yield batch.append_column("index", pa.array([index] * len(batch), pa.large_string()))


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
    make_home(settings.home)
    engine = open_engine(settings.resolved_store_url, silence_s=MIGRATION_S)
    try:
        return migrate(engine)
    finally:
        engine.dispose()


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a {what}: use up to 100 letters, digits, _ - and .")


def _absolute(reference: str) -> str:
    """A path from anywhere; a URL as it is."""
    path = reference.removeprefix(SQLITE_PATH)
    return path if "://" in path else str(Path(path).absolute())
