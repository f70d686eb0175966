"""What requests hold, and what replies look like."""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels
from audience.models.rules import RuleSet
from audience.store.database import Record
from audience.store.queues import DEFAULT
from audience.tables.base import SourceSpec

NAME = r"^\w[\w.\-]{0,99}$"
TEXT_LIMIT = 100_000

State = Literal["planned", "running", "producing", "done", "failed", "aborting", "aborted", "deleting"]
Priority = Literal["low", "normal", "high"]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Request(BaseModel):
    """Refuses fields that it does not know: a slip of the hand is told, not ignored."""

    model_config = ConfigDict(extra="forbid")


# sources


class SourceBody(Request):
    """Where rows are, and what their columns mean."""

    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description=f"{SourceSpec.model_fields['url'].description}; by default the server of AUDIENCE_SOURCE_URL",
    )
    table: str | None = Field(default=None, max_length=200, description="table or view of a database")
    roles: dict[str, str] = Field(default_factory=dict, description="our name -> column of the table")
    time_format: str = Field(default="auto", max_length=100, description="auto, epoch_s (_ms, _us) or strptime")
    timezone: str = Field(default="UTC", max_length=100, description="of times that have no offset")
    delimiter: str | None = Field(default=None, max_length=10, description="of CSV files")
    quoting: bool | None = Field(default=None, description="of CSV files: whether quotes enclose values")
    header: tuple[str, ...] | None = Field(default=None, description="column names of CSV files that have no header")
    encoding: str = Field(default="utf-8", max_length=40, description="of CSV files")
    max_readers: int | None = Field(default=None, ge=1, le=1000, description="of a server: partitions read at once")
    statement_timeout_s: float = Field(default=0, ge=0, le=86_400, description="of a server; 0: its own default")
    read_timeout_s: float = Field(default=300, gt=0, le=86_400, description="of a server that answers nothing")

    def options(self) -> Record:
        """Everything but the URL."""
        return self.model_dump(include=set(SourceBody.model_fields) - {"url"}, exclude_unset=True)


class NewSource(SourceBody):
    """A source to be saved under a name."""

    name: str = Field(pattern=NAME)


class Created(BaseModel):
    """Something new."""

    name: str
    href: str
    created_at: str | None = None


class SourceView(BaseModel):
    """A saved source. Passwords are never shown; `has_secret` says whether there is one."""

    name: str
    url: str
    table: str | None
    roles: dict[str, str]
    time_format: str
    timezone: str
    delimiter: str | None
    quoting: bool | None
    header: list[str] | None
    encoding: str
    has_secret: bool
    created_by: str
    created_at: str

    @classmethod
    def of(cls, record: Record) -> "SourceView":
        spec = record["spec"]
        kept = {name: record[name] for name in ("name", "created_by", "created_at")}
        return cls.model_validate({**spec, **kept, "has_secret": bool(spec.get("secret"))})


class DescriptionView(BaseModel):
    """What a source holds."""

    columns: dict[str, str]
    roles: dict[str, str]
    n_rows: int
    time_span: tuple[str, str] | None
    index: str | None = Field(description="an index on time that reading uses")
    null_keys: dict[str, int]
    preview: list[dict[str, str | None]]
    advice: list[str]


# models


class NewModel(Request):
    """A rule set to be saved: its rules, or a rules file as text."""

    name: str = Field(pattern=NAME)
    rules: RuleSet | None = None
    csv: str | None = Field(default=None, max_length=50_000_000, description="a rules file: label, content, match_type")
    fields: tuple[str, ...] | None = Field(default=None, description="with `csv`: the fields the rules look at")
    case: Literal["lower", "ignore", "exact"] | None = Field(default=None, description="with `csv`")
    width: bool | None = Field(default=None, description="with `csv`: whether full-width ASCII equals ASCII")
    labels: Literal["one", "all"] | None = Field(default=None, description="with `csv`: labels a row may get")


class ModelCreated(BaseModel):
    """A saved version of a model."""

    model: str = Field(description="name@version")
    warnings: list[str]
    href: str


class ModelView(BaseModel):
    """A version of a model."""

    name: str
    version: int
    kind: str
    digest: str
    n_rules: int | None = Field(description="null in the list of models, of those that have many")
    warnings: list[str]
    created_by: str
    created_at: str
    definition: dict[str, Any] | None = Field(default=None, description="when one model is asked for")

    @classmethod
    def of(cls, record: Record, *, whole: bool = False) -> "ModelView":
        definition = record["definition"]
        return cls.model_validate(
            {
                **record,
                "n_rules": len(definition["rules"]) if definition else None,
                "definition": definition if whole else None,
            }
        )


class Texts(Request):
    """One row: its texts by field, or one text for every field."""

    text: str | None = Field(default=None, max_length=TEXT_LIMIT)
    fields: dict[str, Annotated[str, Field(max_length=TEXT_LIMIT)] | None] = Field(default_factory=dict)


class GivenLabel(BaseModel):
    label: str
    score: float


class Hit(BaseModel):
    """Where a rule hits: code points `start` to `end` of the field's text."""

    label: str
    rule: int
    field: str
    match: str
    text: str
    start: int
    end: int


class Tried(BaseModel):
    """What a model makes of one row."""

    labels: list[GivenLabel]
    hits: list[Hit]


# groups


class NamedGroups(GroupMap):
    """Saved groups."""

    name: str
    created_by: str
    created_at: str


class NamedConflictGroups(Panels):
    """Saved conflict groups."""

    name: str
    created_by: str
    created_at: str


# runs


class TaskBody(Request):
    """One source in one range of time: `start <= time < end` as clocks in the source's timezone show it."""

    source: str | SourceBody = Field(description="name of a saved source, or a source")
    name: str | None = Field(default=None, max_length=200, pattern=r"^[^\x00-\x1f]+$")
    start: dt.datetime | None = None
    end: dt.datetime | None = None


class NewRun(Request):
    """What is to be labelled, with what, and where the results go."""

    sources: list[TaskBody] = Field(min_length=1, max_length=1000)
    models: list[str] = Field(min_length=1, max_length=100, description="name or name@version, in order of priority")
    target: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description="SQLite file, folder for Parquet files, or URL of a server; by default AUDIENCE_TARGET_URL",
    )
    groups: str | GroupMap | None = Field(default=None, description="saved groups, or groups; by default one for all")
    conflict_groups: str | Panels | None = Field(default=None, description="saved ones, or conflict groups")
    first_wins: bool = Field(default=False, description="a row keeps the label of the first model that has one")
    seed: int = Field(default=0, ge=-(2**53), le=2**53, description="of the sample")
    production: bool = Field(default=True, description="whether production tables are made at the end")
    production_delay_s: float | None = Field(default=None, ge=0, le=7 * 86_400)
    partition_rows: int | None = Field(default=None, ge=1, le=10_000_000)
    bad_rows_limit: int = Field(
        default=1_000, ge=0, le=2**53, description="rows the models may fail on before a task fails"
    )
    priority: Priority = "normal"
    queue: str = Field(default=DEFAULT, pattern=r"^[A-Za-z0-9_-]{1,40}$", description="only its workers take the jobs")


class RunCreated(BaseModel):
    """A run that is written down; workers carry it out."""

    id: RunId
    state: State
    created_at: str
    href: str


class Progress(BaseModel):
    """How far a task is. `waiting_for`: what stands in its way at present, and is tried again."""

    partitions: int
    partitions_done: int
    read: int
    working: int
    waiting_for: str | None


class GroupNumbers(BaseModel):
    """Numbers of one group. `authors` are distinct, over all rows; `labelled` those with a production row."""

    received: int
    results: int
    authors: int | None = None
    authorless: int | None = None
    production: int | None = None
    labelled: int | None = None
    rate_of_label: float | None = Field(default=None, description="labelled authors of all authors, in per cent")


class Statistics(BaseModel):
    """Numbers of a task; when they are not `complete`, of its finished partitions only."""

    complete: bool
    read: int
    outside: int
    received: int
    planned: int | None = None
    missing: int | None = Field(default=None, description="planned rows that were not read: the source changed")
    set_aside: dict[str, int] = Field(description="rows that could not be used, by kind of reason")
    unmapped: dict[str, int] = Field(description="rows of channels that are in no group")
    by_author: bool | None = None
    groups: dict[str, GroupNumbers]
    seconds: float
    peak_memory_mb: float | None = Field(description="of a process while it planned or labelled for the task")
    production_peak_memory_mb: float | None = Field(default=None, description="the same of production")
    peak_memory_by: str | None = Field(description="VmHWM: counted by the kernel; else how it was sampled")


class TaskView(BaseModel):
    """A source of a run, and how far it is."""

    id: RunId
    name: str
    state: State
    source: str
    table: str | None
    start: dt.datetime | None
    end: dt.datetime | None
    planned: int | None = Field(description="rows; null before it is planned")
    progress: Progress
    statistics: Statistics | None
    error: str | None

    @classmethod
    def of(cls, task: Record) -> "TaskView":
        spec = task["spec"]
        numbers = task.get("report") or task.get("so_far")
        complete = bool(task.get("report")) and task["state"] in ("producing", "done")
        statistics = {**numbers, "complete": complete} if numbers else None
        return cls.model_validate(
            {
                **{name: task[name] for name in ("id", "state", "progress", "error")},
                **{name: spec[name] for name in ("name", "start", "end")},
                "source": spec["source"]["url"],
                "table": spec["source"]["table"],
                "planned": task["n_planned"],
                "statistics": statistics,
            }
        )


class RunSummary(BaseModel):
    """A run, without its tasks."""

    id: RunId
    state: State
    models: list[str]
    target: str
    priority: Priority
    queue: str
    error: str | None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    href: str

    @classmethod
    def of(cls, run: Record) -> "RunSummary":
        return cls.model_validate(_summary(run))


class RunView(RunSummary):
    """A run with its tasks."""

    first_wins: bool
    seed: int
    production: bool
    production_delay_s: float
    groups: GroupMap
    conflict_groups: Panels
    waiting_for: str | None
    tasks: list[TaskView]

    @classmethod
    def of(cls, run: Record) -> "RunView":
        spec = run["spec"]
        asked = {name: spec[name] for name in ("first_wins", "seed", "production", "production_delay_s", "groups")}
        tasks = [TaskView.of(task) for task in run["tasks"]]
        own = {"conflict_groups": spec["panels"], "waiting_for": run["waiting_for"], "tasks": tasks}
        return cls.model_validate({**_summary(run), **asked, **own})


def _summary(run: Record) -> Record:
    kept = ("id", "state", "queue", "error", "created_by", "created_at", "started_at", "finished_at")
    names = {1: "high", 0: "normal", -1: "low"}
    asked = {"models": run["spec"]["models"], "target": run["spec"]["target"]}
    return {
        **{name: run[name] for name in kept},
        **asked,
        "priority": names[run["priority"]],
        "href": f"/v1/runs/{run['id']}",
    }


class Moved(BaseModel):
    """A run or task came into a state. `add`: it was made; `deleted`: it is no more."""

    kind: Literal["run", "task"]
    subject: str = Field(description="id of the run or task")
    state: str
    at: str
    actor: str
    error: str | None


class ProductionBody(Request):
    partial: bool = Field(default=False, description="also of a run that failed or was aborted, of what is finished")


class ResultRow(BaseModel):
    """One label on one row, with its evidence."""

    id: str | None
    source_author: str | None
    panel: str
    create_time: str | None
    field_content: str | None
    match_content: str | None
    model: str
    score: float | None
    evidence: list[dict[str, Any]]
    group: str


class SetAside(BaseModel):
    """A row that could not be used."""

    task: str
    id: str | None
    reason: str


# lists


class SourceList(BaseModel):
    items: list[SourceView]


class ModelList(BaseModel):
    items: list[ModelView]


class GroupsList(BaseModel):
    items: list[NamedGroups]


class ConflictGroupsList(BaseModel):
    items: list[NamedConflictGroups]


class RunList(BaseModel):
    """Newest first. `next_cursor`: give it as `cursor` for the next page; null on the last."""

    items: list[RunSummary]
    next_cursor: str | None


class Sample(BaseModel):
    items: list[ResultRow]


class SetAsideList(BaseModel):
    items: list[SetAside]


class WorkerView(BaseModel):
    """A process that takes jobs. `jobs`: those it works on. `queues`: what it serves. `pool`: how it works on several
    jobs at once; `local` looks for them itself, the others are sent them."""

    id: str
    name: str
    threads: int
    started_at: str
    jobs: int
    queues: str
    pool: str


class WorkerList(BaseModel):
    items: list[WorkerView]


class Ready(BaseModel):
    """Whether requests can be carried out."""

    store: Literal["ok"]
    workers: int


class Health(BaseModel):
    status: Literal["ok"]
    version: str
