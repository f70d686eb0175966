"""What the edges hand to the app: one request model a call, filled in from a command line, a request over HTTP, or
anything else. The app resolves names and defaults, checks, and acts; so no edge can do anything that another cannot."""

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels
from audience.store.queues import DEFAULT

Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[str, int] = {"low": -1, "normal": 0, "high": 1}


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceRequest(_Request):
    """A source: `saved` under a name, or at a `location` (a path or URL), or whichever of both `reference` is; with
    none of them, on the server that the settings name. `options` are fields of `SourceSpec`, and replace those of a
    saved one. `confined`: its files must lie below the folders that the settings open to HTTP."""

    saved: str | None = None
    location: str | None = None
    reference: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    confined: bool = False


class ModelRequest(_Request):
    """A model to be checked and saved: `rules` (what a JSON rules file holds), `csv` (the text of a rules file), or the
    `parameters` of another kind. `options` of rules: `fields`, `case`, `width`, `labels`."""

    name: str
    kind: str = "rules"
    rules: dict[str, Any] | list[Any] | None = None
    csv: str | None = None
    parameters: dict[str, Any] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""


class TaskRequest(_Request):
    """One source in one range of time, `start <= time < end`, as clocks in the source's timezone show it. `where`: its
    place in the request, for messages."""

    source: SourceRequest
    name: str | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    where: str = "source"


class RunRequest(_Request):
    """The sources to label, the models to label them with, and where the results go. Names of saved groups and conflict
    groups are resolved; the settings fill in what is left out. `attended`: the caller works on the run itself."""

    tasks: tuple[TaskRequest, ...]
    models: tuple[str, ...]
    target: str | None = None
    groups: str | GroupMap | None = None
    conflict_groups: str | Panels | None = None
    first_wins: bool = False
    seed: int = 0
    production: bool = True
    production_delay_s: float | None = None
    partition_rows: int | None = None
    bad_rows_limit: int = 1_000
    priority: Priority = "normal"
    queue: str = DEFAULT
    confined: bool = False
    attended: bool = False


class PublicationRequest(_Request):
    """Where a new publication is kept, and how production goes into it."""

    name: str
    target: str | None = None
    indexes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    conflict_groups: str | dict[str, tuple[str, ...]] | None = None
    confined: bool = False


class PublishRequest(_Request):
    """The done runs to publish. What is left out stays as the publication has it. `base`: the version that must be
    published now."""

    runs: tuple[str, ...]
    replace: bool = False
    indexes: dict[str, tuple[str, ...]] | None = None
    conflict_groups: str | dict[str, tuple[str, ...]] | None = None
    preview: bool = False
    base: int | None = None


class ExportRequest(_Request):
    """The rows to write to a file: results or production of a run, or what a publication has published. `to`: a file of
    this machine, written by this process alone; without it the file is kept until it is fetched."""

    run: str | None = None
    publication: str | None = None
    of: Literal["results", "production"] = "results"
    group: str | None = None
    index: str | None = None
    comparable: bool = False
    layout: Literal["csv", "jsonl", "parquet"] = "jsonl"
    to: str | None = None
