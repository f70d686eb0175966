"""What every kind of source and target promises, and the two layouts that flow between them.

A source hands over batches of canonical columns; a target stores result rows. Nothing else knows a database.
"""

import datetime as dt
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from audience.errors import BadInput

ROLES = ("id", "post_time", "s_id", "s_area_id", "author", "title", "content")
TEXT_FIELDS = ("content", "title", "author", "s_area_id", "s_id")

RESULT_SCHEMA = pa.schema(
    [
        ("id", pa.large_string()),
        ("task_id", pa.large_string()),
        ("source_author", pa.large_string()),
        ("panel", pa.large_string()),
        ("create_time", pa.timestamp("us")),
        ("field_content", pa.large_string()),
        ("match_content", pa.large_string()),
        ("match_meta", pa.large_string()),
        ("model", pa.large_string()),
        ("score", pa.float64()),
        ("evidence", pa.large_string()),
        ("group", pa.large_string()),
        ("partition", pa.int64()),
        ("n", pa.int64()),
    ]
)
"""One label on one row. The predecessor's columns first; `(task_id, partition, n)` is the key, `n` the order in the
partition; `evidence` is a JSON list of hits with code-point spans; `group` names the result table."""

PRODUCTION_COLUMNS = (
    "id",
    "task_id",
    "source_author",
    "panel",
    "create_time",
    "field_content",
    "match_content",
    "match_meta",
    "model",
    "score",
    "evidence",
    "posts",
)
"""One row per (author, panel), or per (id, panel) where there is no author: the latest row stands for the pair;
`posts` counts the distinct rows that carried the label."""


class SourceSpec(BaseModel):
    """Where rows are and what their columns mean. `roles` maps our names to the table's columns; a name beyond
    `ROLES` is one more text field. A default role is taken when a column of that name exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str | None = Field(default=None, description="password: env:NAME, or a sealed value; never the password")
    url: str = Field(
        description="SQLite file, or CSV, TSV, JSONL or Parquet file, folder or glob; a path or a URL; "
        "or the URL of a MariaDB, MySQL or PostgreSQL server"
    )
    table: str | None = Field(default=None, description="table or view of a database; files have none")
    roles: dict[str, str] = Field(default_factory=dict, description="our name -> column of the table")
    time_format: str = Field(default="auto", description="auto, epoch_s, epoch_ms, epoch_us, or a strptime format")
    timezone: str = Field(default="UTC", description="times without an offset are in it; so are start and end of a run")
    delimiter: str | None = Field(default=None, description="of CSV files; by default by the file's ending")
    quoting: bool | None = Field(
        default=None, description="whether quotes enclose values; by default true for CSV only"
    )
    header: tuple[str, ...] | None = Field(default=None, description="column names of CSV files that have no header")
    encoding: str = Field(default="utf-8", description="of CSV files: utf-8, big5, cp950, gb18030 ...")
    max_readers: int | None = Field(
        default=None, ge=1, description="of a server: so many partitions a process reads at once at most"
    )
    statement_timeout_s: float = Field(
        default=0, ge=0, description="of a server: it ends a statement that takes longer; 0: its own default"
    )
    read_timeout_s: float = Field(
        default=300, gt=0, description="of a server: one that answers nothing for so long is given up"
    )
    within: tuple[str, ...] = Field(default=(), description="folders that its files must lie in, links followed")


@dataclass(frozen=True)
class Selection:
    """Which rows, `start <= time < end` in the source's timezone (None: open), which text fields, how many a slice."""

    start: dt.datetime | None = None
    end: dt.datetime | None = None
    fields: tuple[str, ...] = ()
    partition_rows: int = 200_000

    def __post_init__(self) -> None:
        if self.start and self.start == self.end:
            raise BadInput(
                f"the range from {self.start} to {self.end} is empty: its end is not included; name a later one"
            )
        if self.start and self.end and self.start >= self.end:
            raise BadInput(f"the range starts at {self.start}, which is not before its end {self.end}: swap them?")


@dataclass(frozen=True)
class Partition:
    """A half-open slice of a source. `slice` is JSON that only the source that planned it reads."""

    number: int
    slice: dict[str, Any]
    n_rows: int


@dataclass(frozen=True)
class Plan:
    """Partitions in order, and the rows that no partition can hold, counted by reason."""

    partitions: tuple[Partition, ...]
    set_aside: dict[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return sum(p.n_rows for p in self.partitions)


@dataclass(frozen=True)
class Bound:
    """What every value of a column is. `kind`: `signed` or `unsigned`, a whole number of 64 bits in its usual digits;
    `text`, of at most so many `characters` (None: of any length)."""

    kind: str = "text"
    characters: int | None = None

    @property
    def longest(self) -> int | None:
        """How many characters its texts have at most; None: any number."""
        return self.characters if self.kind == "text" else INTEGER_CHARACTERS


INTEGER_CHARACTERS = 20
ANY_TEXT = Bound()
NO_BOUNDS: Mapping[str, Bound] = {}


@dataclass(frozen=True)
class ResultLayout:
    """How result tables are made where a database has types: `bounds` of their columns of texts, which may be joined
    with the source then; `indexes`: the columns of result tables that get one."""

    bounds: Mapping[str, Bound] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()


DEFAULT_LAYOUT = ResultLayout()


@dataclass(frozen=True)
class Description:
    """What `source test` found. `null_keys` counts null ids and times; `advice` says what would make it faster."""

    columns: dict[str, str]
    roles: dict[str, str]
    n_rows: int
    time_span: tuple[str, str] | None
    index: str | None
    null_keys: dict[str, int]
    preview: list[dict[str, str | None]]
    advice: tuple[str, ...] = ()


class Source(Protocol):
    """Rows of one table or set of files. Safe to use from several threads at once."""

    spec: SourceSpec
    roles: Mapping[str, str]
    bounds: Mapping[str, Bound]
    """By role, of those columns that have any."""

    def describe(self) -> Description:
        """What is there: columns, types, rows, time span, index, null keys, five rows."""

    def plan(self, selection: Selection) -> Plan:
        """Balanced half-open slices with exact row counts; no row is lost: planned, or counted by reason."""

    def interrupt(self) -> None:
        """Makes a plan that other threads are making end soon, with whatever error. Called again and again until it
        has."""

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        """Batches of `batch_schema` in the partition's order, bounded in rows and bytes. Rows that cannot be decoded
        come with `error` set; rows outside the range may come where the source cannot select by time."""


def batch_schema(names: Iterable[str]) -> pa.Schema:
    """The layout of a batch: `id`, the roles asked for, and `error` (why the row cannot be used; null: it can)."""
    columns = [("post_time", pa.timestamp("us")) if n == "post_time" else (n, pa.large_string()) for n in names]
    return pa.schema([*columns, ("error", pa.large_string())])


def columns_to_read(roles: Mapping[str, str], selection: Selection) -> tuple[str, ...]:
    """The roles a run needs: keys, channel and author where they exist, and the fields its models look at."""
    missing = [f for f in selection.fields if f not in roles]
    if missing:
        raise BadInput(f"no column plays the role {missing[0]!r} that a model looks at; roles here: {', '.join(roles)}")
    keys = [r for r in ("post_time", "s_id", "author") if r in roles]
    return ("id", *keys, *(f for f in selection.fields if f not in keys and f != "id"))


def resolve_roles(spec: SourceSpec, columns: Sequence[str], where: str) -> dict[str, str]:
    """Our name -> column: what the spec says, then the default names that exist."""
    for role, column in spec.roles.items():
        if column not in columns:
            found = near_miss(column, columns)
            hint = f"; did you mean --role {role}={found!r}?" if found else ""
            raise BadInput(
                f"{where} has no column {column!r} for the role {role!r}; it has: {', '.join(columns)}{hint}"
            )
    taken = set(spec.roles.values())
    defaults = {r: r for r in ROLES if r in columns and r not in spec.roles and r not in taken}
    roles = {**defaults, **spec.roles}
    if not any(r not in ("id", "post_time") for r in roles):
        hint = "".join(f"; {advice}" for advice in likely_roles(roles, columns))
        raise BadInput(
            f"no column of {where} has a role to label: name one, e.g. --role content=COLUMN; "
            f"it has: {', '.join(columns)}{hint}"
        )
    return {r: roles[r] for r in (*ROLES, *spec.roles) if r in roles}


def near_miss(name: str, columns: Iterable[str]) -> str | None:
    """The column that was perhaps meant: the same but for case and spaces, else one that is spelled much alike."""
    plain = {column.strip(" \t\r\ufeff").casefold(): column for column in columns}
    close = difflib.get_close_matches(name.strip().casefold(), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def likely_roles(roles: Mapping[str, str], columns: Iterable[str]) -> Iterator[str]:
    """Columns called like a role but for case and spaces, which do not have it therefore."""
    free = {column.strip(" \t\r\ufeff").casefold(): column for column in columns if column not in roles.values()}
    for role in ROLES:
        if role in free and role not in roles:
            yield f"the column {free[role]!r} has no role: did you mean --role {role}={free[role]!r}?"


@dataclass(frozen=True)
class Mark:
    """What a target knows of a finished partition. `statistics` is JSON text; `authors` the packed author hashes."""

    partition: int
    n_rows: int
    statistics: str
    authors: bytes


@dataclass(frozen=True)
class ConflictRules:
    """How contradicting labels are resolved: `conflicts` maps a panel to its conflict group; `by_author`: one row per
    (author, panel), else per (id, panel)."""

    conflicts: dict[str, str]
    by_author: bool


class Statistics(Protocol):
    """What `Target.write` stores beside the rows, read once the rows are exhausted."""

    def to_json(self) -> str: ...

    def packed_authors(self) -> bytes: ...


class Target(Protocol):
    """Where result and production rows go. Its own tables only; the truth of what is written is here.

    A fence is a number that the caller counts up whenever the task changes hands; the target only compares it. Safe
    to use from several threads and processes at once. `unstorable`: the characters that its texts cannot hold; rows
    with one are set aside before they come here, and refused by `write`."""

    url: str
    unstorable: str

    def prepare(self, task: str, fence: int, groups: Sequence[str], layout: ResultLayout = DEFAULT_LAYOUT) -> None:
        """Creates what is missing (never inside a transaction) and admits writers with this fence; those with an older
        one are refused from now on. Tables that are there already, for narrower values, are widened. Twice: the same.
        Raises Conflict when a newer fence was admitted, or the task was deleted here."""

    def bar(self, task: str, fence: int) -> None:
        """Refuses writers with a fence below this one from now on, also those in mid-write; twice: the same; a newer
        fence stays. Creates no database, folder or table where nothing was prepared."""

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        """Rows and mark in one transaction. False, and nothing changed, when the mark is there already.
        Raises Conflict unless the fence is the present one, and when the task was deleted."""

    def check(self) -> None:
        """Raises what keeps anything from being written here: it cannot be reached, it refuses us, it is not there."""

    def exists(self) -> bool:
        """Returns whether anything was ever written here; it may have been moved away since."""

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        """Yields the marks of finished partitions, in order; one in memory at a time; without `authors` that blob is
        left unread and empty (cheap)."""

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yields result rows in key order, bounded in memory."""

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        """Returns the result rows with these (group, partition, n), in that order."""

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        """Replaces the task's production rows of one group at once; (rows, distinct subjects). Twice: the same.
        Raises Conflict unless the fence is the present one, and when the task was deleted."""

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        """Yields the task's production rows of one group, by time."""

    def delete(self, task: str) -> None:
        """Removes every row and mark of the task, and bars every fence for good, also of a task not known here yet: its
        first writer may be late."""

    def where(self, group: str, production: bool = False) -> str:
        """Returns a name a person can look up: the table or the file."""
