"""The specification of a run: sources with ranges, models, groups, panels, target. Validated where it enters, stored as
JSON."""

import datetime as dt
import itertools

from pydantic import BaseModel, ConfigDict, Field

from audience.errors import BadInput
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels, default_panels
from audience.tables.base import ANY_TEXT, Bound, ResultLayout, Selection, Source, SourceSpec

SEPARATOR = "_"
"""Between the channel and the author in `source_author`."""
PRIORITIES = {"low": -1, "normal": 0, "high": 1}


class TaskSpec(BaseModel):
    """One source in one range of time, `start <= time < end` in the source's timezone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: SourceSpec
    start: dt.datetime | None = None
    end: dt.datetime | None = None

    def selection(self, fields: tuple[str, ...], partition_rows: int) -> Selection:
        return Selection(self.start, self.end, fields, partition_rows)


class RunSpec(BaseModel):
    """A run as a user asked for it; tasks one by one. `models` are `name@version`, in order of priority."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    target: str
    target_secret: str | None = Field(default=None, description="password: env:NAME, or a sealed value")
    target_within: tuple[str, ...] = Field(default=(), description="folders that the target must lie in")
    first_wins: bool = Field(default=False, description="whether a row keeps the label of the first model that has one")
    groups: GroupMap = Field(default_factory=lambda: GroupMap.checked({}, None))
    panels: Panels = Field(default_factory=default_panels)
    seed: int = Field(default=0, description="of the sample")
    production: bool = Field(default=True, description="whether production tables are made at the end")
    production_delay_s: float = Field(default=0, ge=0, description="how long production waits after labeling")
    partition_rows: int = Field(default=200_000, ge=1)
    bad_rows_limit: int = Field(default=1_000, ge=0, description="rows a task's models may fail on before it fails")
    warnings: tuple[str, ...] = Field(default=(), description="what was accepted, and may be a slip")


def result_layout(source: Source, indexes: tuple[str, ...]) -> ResultLayout:
    """Returns the layout of result tables that can be joined with the source, with these indexes."""
    bounds = source.bounds
    found = {"id": bounds.get("id", ANY_TEXT), "field_content": bounds.get("s_id", ANY_TEXT)}
    longest = [bounds.get(role, ANY_TEXT).longest for role in ("s_id", "author") if role in source.roles]
    joined = None if None in longest else sum(filter(None, longest)) + len(SEPARATOR)
    return ResultLayout({**found, "source_author": Bound("text", joined)}, indexes)


def check_tasks(tasks: tuple[TaskSpec, ...]) -> None:
    """Refuses a range that ends before it starts, a run without tasks, and rows that two tasks would both label."""
    if not tasks:
        raise BadInput("a run needs at least one source")
    for task in tasks:
        task.selection((), 1)
    for first, second in itertools.combinations(tasks, 2):
        is_same = (first.source.url, first.source.table) == (second.source.url, second.source.table)
        if is_same and _overlap(first, second):
            raise BadInput(
                f"{second.name} is named twice, and its rows would get every label twice: name it once, "
                "or with ranges that do not overlap"
            )


def _overlap(first: TaskSpec, second: TaskSpec) -> bool:
    begins = max((t.start for t in (first, second) if t.start), default=None)
    ends = min((t.end for t in (first, second) if t.end), default=None)
    return begins is None or ends is None or begins < ends
