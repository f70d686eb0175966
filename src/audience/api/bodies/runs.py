"""Bodies of `/v1/runs`."""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from audience.api.bodies.base import Request
from audience.api.bodies.sources import SourceBody
from audience.app.types import DEFAULT_QUEUE, GroupMap, Panels, Record

State = Literal["planned", "running", "producing", "done", "failed", "aborting", "aborted", "deleting"]
Priority = Literal["low", "normal", "high"]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


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
    queue: str = Field(
        default=DEFAULT_QUEUE, pattern=r"^[A-Za-z0-9_-]{1,40}$", description="only its workers take the jobs"
    )


class RunCreated(BaseModel):
    """A run that is written down; workers carry it out."""

    id: RunId
    state: State
    created_at: str
    warnings: list[str] = Field(default=[], description="what was accepted, and may be a slip")
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
    times: tuple[str, str] | None = Field(default=None, description="the first and the last of the rows in the range")
    by_author: bool | None = None
    groups: dict[str, GroupNumbers]
    seconds: float
    production_seconds: float | None = Field(default=None, description="the last making of production")
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
    warnings: list[str] = Field(description="what was accepted, and may be a slip")
    tasks: list[TaskView]

    @classmethod
    def of(cls, run: Record) -> "RunView":
        spec = run["spec"]
        asked = {name: spec[name] for name in ("first_wins", "seed", "production", "production_delay_s", "groups")}
        tasks = [TaskView.of(task) for task in run["tasks"]]
        own = {"conflict_groups": spec["panels"], "tasks": tasks}
        own |= {name: run[name] for name in ("waiting_for", "warnings")}
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
    """An operation, or a task of a run, came into a state. `add`: it was made; `deleted`: it is no more."""

    kind: str = Field(description="run, task, or another kind of operation")
    subject: str = Field(description="id of the operation or task")
    state: str
    at: str
    actor: str
    error: str | None


class ProductionBody(Request):
    partial: bool = Field(default=False, description="also of a run that failed or was aborted, of what is finished")


class ExportBody(Request):
    """Which rows go into a file, and its format."""

    of: Literal["results", "production"] = "results"
    format: Literal["csv", "jsonl", "parquet"] = "parquet"
    group: str | None = Field(default=None, max_length=40, description="of this group only")
    comparable: bool = Field(default=False, description="without what differs between equal runs")


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


class RunList(BaseModel):
    """Newest first. `next_cursor`: give it as `cursor` for the next page; null on the last."""

    items: list[RunSummary]
    next_cursor: str | None


class Sample(BaseModel):
    items: list[ResultRow]


class SetAsideList(BaseModel):
    items: list[SetAside]
