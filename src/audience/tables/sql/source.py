"""What sources on servers share: which table, which columns, which index; describing, and planning by `slices`."""

import contextlib
import datetime as dt
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from audience.errors import BadInput, NotFound
from audience.tables.base import (
    Bound,
    Description,
    Partition,
    Plan,
    Selection,
    SourceSpec,
    columns_to_read,
    likely_roles,
    resolve_roles,
)
from audience.tables.batches import canonical_batch
from audience.tables.sql.read_timeout import cut_connections, sockets
from audience.tables.sql.slices import Bounds, Column, Key, Literals, Slicer, condition
from audience.tables.times import check_are_times, implausible, parse_times

Rows = Callable[..., Sequence[Sequence[Any]]]
"""Answers `rows(sql, values)` with all rows; for queries whose answers are small."""
KEY_KINDS = ("integer", "text", "binary", "decimal", "uuid")
TIME_KINDS = ("time", "instant")
"""A time without a zone; a moment, which every session shows in its own zone (ours: UTC)."""
TIME_SAMPLE_ROWS = 1_000
FIRST_TIME = "0001-01-01 00:00:00"
SIZED_TEXT = re.compile(r"(?:var)?char(?:acter)?(?: varying)?\((\d+)\)")
UUID_CHARACTERS = 36


@dataclass(frozen=True)
class Index:
    """An index that begins with a column. `unique`: no value of the column occurs twice, and none is null."""

    name: str
    unique: bool


_gates: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_making = threading.Lock()


def reading_gate(place: str, max_readers: int | None) -> contextlib.AbstractContextManager[Any]:
    """Lets so many readers of one source through at once, in the whole process."""
    if max_readers is None:
        return contextlib.nullcontext()
    with _making:
        return _gates.setdefault((place, max_readers), threading.BoundedSemaphore(max_readers))


def bound_of(column: Column) -> Bound | None:
    """Returns the bound of a column's values as texts; None where its type tells none."""
    if column.kind == "integer" and "zerofill" not in column.type.lower():
        return Bound("unsigned" if column.type.lower().startswith("bigint") and "unsigned" in column.type else "signed")
    if column.type == "uuid":
        return Bound("text", UUID_CHARACTERS)
    sized = SIZED_TEXT.fullmatch(column.type.lower())
    return Bound("text", int(sized[1])) if sized else None


class ServerSource(ABC):
    """A table or view of a server, only read. `place` names the server in messages, without a password."""

    literals: Literals

    def __init__(self, spec: SourceSpec, place: str, address: tuple[str, int]) -> None:
        self.spec = spec
        self.place = place
        self._address = address
        self._sockets_before: dict[int, int] = {}
        with self._session() as rows:
            self.table = self._pick_table(rows)
            self.columns = {c.name: c for c in self._columns(rows)}
            self.roles: Mapping[str, str] = resolve_roles(spec, list(self.columns), self.name)
            self.indexes = self._indexes(rows)
            self._check_times(rows)
        self.bounds: Mapping[str, Bound] = {
            role: bound for role, name in self.roles.items() if (bound := bound_of(self.columns[name]))
        }
        self.gate = reading_gate(place, spec.max_readers)

    # what a kind of server has to know

    @abstractmethod
    def _session(self) -> contextlib.AbstractContextManager[Rows]:
        """A read-only session in UTC whose errors are ours."""

    @abstractmethod
    def _tables(self, rows: Rows) -> list[str]:
        """The names of tables and views."""

    @abstractmethod
    def _columns(self, rows: Rows) -> list[Column]:
        """The columns of `table`."""

    @abstractmethod
    def _indexes(self, rows: Rows) -> dict[str, Index]:
        """The best index that begins with a column, by the column; primary keys first."""

    @abstractmethod
    def _sql_table(self) -> str:
        """The table as SQL."""

    def _from(self, column: str | None) -> str:
        """The table as SQL for rows in a range of the column."""
        return self._sql_table()

    @abstractmethod
    def _text(self, column: Column) -> str:
        """A column as SQL whose values have, or are, the text that is read."""

    @abstractmethod
    def _numbered(self, column: Column) -> str:
        """An id made of the table's name and a key, as SQL: `posts#17`."""

    # the table

    @property
    def name(self) -> str:
        return f"{self.place}:{self.table}"

    def _pick_table(self, rows: Rows) -> str:
        names = sorted(self._tables(rows))
        table = self.spec.table
        if not names:
            raise NotFound(f"{self.place} has no table that this user may read")
        if table is None and len(names) == 1:
            return names[0]
        known = ", ".join(names[:50])
        if table is None:
            raise BadInput(f"{self.place} holds {len(names)} tables; name one with --table: {known}")
        if table not in names:
            raise NotFound(f"{self.place} has no table {table!r} that this user may read; it has: {known}")
        return table

    def _column(self, role: str) -> Column | None:
        return self.columns[self.roles[role]] if role in self.roles else None

    @property
    def _time(self) -> Column | None:
        """The column of `post_time` where the server itself knows that it holds times."""
        column = self._column("post_time")
        return column if column and column.kind in TIME_KINDS else None

    def _key(self) -> Key | None:
        """What rows are told apart by: the indexed id, else any unique column."""
        names = [self.roles["id"]] if "id" in self.roles else []
        names += [name for name, index in self.indexes.items() if index.unique]
        for name in names:
            if name in self.indexes and self.columns[name].kind in KEY_KINDS:
                return Key(self.columns[name], self.indexes[name].unique)
        return None

    def _check_times(self, rows: Rows) -> None:
        """Refuses a column of texts or numbers that are no times at all."""
        column = self._column("post_time")
        if column is None or self._time:
            return
        name = self.literals.quoted(column.name)
        sql = f"SELECT {self._shown(column)} FROM {self._sql_table()} WHERE {name} IS NOT NULL LIMIT {TIME_SAMPLE_ROWS}"
        texts = pl.Series([str(row[0]) for row in rows(sql)], dtype=pl.String)
        check_are_times(
            texts, parse_times(texts, self.spec.time_format, self.spec.timezone), f"{self.name}.{column.name}"
        )

    @abstractmethod
    def _shown(self, column: Column) -> str:
        """A column as SQL that gives the text a person may read; no bytes."""

    # describing

    def describe(self) -> Description:
        keys = [role for role in ("id", "post_time") if role in self.roles]
        counted = "".join(f", count({self.literals.quoted(self.roles[role])})" for role in keys)
        with self._session() as rows:
            n_rows, *known = rows(f"SELECT count(*){counted} FROM {self._sql_table()}")[0]
            shown = ", ".join(self._shown(c) for c in self.columns.values())
            preview = rows(f"SELECT {shown} FROM {self._sql_table()} {self._preview_order()} LIMIT 5")
            span = self._time_span(rows) if n_rows and "post_time" in self.roles else None
        index = self.indexes.get(self.roles.get("post_time", ""))
        return Description(
            {c.name: c.type for c in self.columns.values()},
            dict(self.roles),
            n_rows,
            (str(span[0]), str(span[1])) if span else None,
            index.name if index else None,
            {role: n_rows - n for role, n in zip(keys, known, strict=True)},
            [
                {name: None if v is None else str(v) for name, v in zip(self.columns, row, strict=True)}
                for row in preview
            ],
            (*self._advice(), *likely_roles(self.roles, self.columns), *implausible(span)),
        )

    def _preview_order(self) -> str:
        key = self._key()
        return f"ORDER BY {self.literals.quoted(key.column.name)}" if key else ""

    def _time_span(self, rows: Rows) -> tuple[dt.datetime, dt.datetime] | None:
        column = self.columns[self.roles["post_time"]]
        name = self.literals.quoted(column.name)
        only = f"WHERE {self._is_time(column)}" if self._time else ""
        ends = [
            self.literals.shown(column, f"{end}({name})") if self._time else f"{end}({name})" for end in ("min", "max")
        ]
        found = [rows(f"SELECT {end} FROM {self._sql_table()} {only}")[0][0] for end in ends]
        offset = "+00:00" if column.kind == "instant" else ""
        known = [None if v is None else _as_text(v).removesuffix("+00") + offset for v in found]
        texts = pl.Series(known, dtype=pl.String)
        time_format = "auto" if self._time else self.spec.time_format
        first, last = parse_times(texts, time_format, self.spec.timezone).to_list()
        return (min(first, last), max(first, last)) if first and last else None

    def _is_time(self, column: Column) -> str:
        """Holds for times that a calendar has; never null where the column is not."""
        return f"{self.literals.quoted(column.name)} >= {self.literals.literal(column, FIRST_TIME)}"

    def _advice(self) -> Iterator[str]:
        time, key = self._column("post_time"), self._key()
        unique = "id" if "id" in self.roles else "a number"
        if key is None:
            column = self.roles.get("id", unique)
            yield f"no index tells rows apart: an index on {column} (or a primary key) would let several workers read"
        if "id" not in self.roles and key is None:
            yield "no column has the role id: rows are numbered as they come, and that order may change"
        if time is None:
            return
        if self._time is None:
            yield f"{time.name} holds {time.type}, not times: every row is read and compared; a column of times is not"
        elif time.name not in self.indexes:
            tie = f", {key.column.name}" if key else ""
            yield f"an index on ({time.name}{tie}) would make ranges of time read only their own rows"

    # planning

    def interrupt(self) -> None:
        """Also what other threads do on connections that are younger than the plan; they try again."""
        cut_connections(*self._address, self._sockets_before)

    def plan(self, selection: Selection) -> Plan:
        self._sockets_before = sockets()
        with self._session() as rows:
            wanted, size, key, time = self._wanted(selection), selection.partition_rows, self._key(), self._time
            set_aside = self._set_aside(rows, selection) if wanted else {}
            if time and time.name in self.indexes and (key is None or wanted):
                start, end = self._bounds(selection)
                by_time = Key(time, start=start, end=end)
                slices = self._slicer(rows, "", time.name).slices(by_time, size, key)
            elif key:
                slices = self._slicer(rows, wanted, key.column.name).slices(key, size)
            else:
                slices = self._slicer(rows, wanted).whole()
            partitions = list(self._partitions(slices))
        return Plan(tuple(partitions), {reason: n for reason, n in set_aside.items() if n})

    def _partitions(self, slices: Iterable[tuple[Bounds, int]]) -> Iterator[Partition]:
        """Where nothing tells rows apart they are numbered, from `first_row` on."""
        first_row = 1
        for number, (bounds, n_rows) in enumerate(slices):
            yield Partition(number, {"bounds": bounds, "first_row": first_row}, n_rows)
            first_row += n_rows

    def _slicer(self, rows: Rows, where: str, column: str | None = None) -> Slicer:
        return Slicer(self._from(column), self.literals, lambda sql: next(iter(rows(sql)), None), self.columns, where)

    def _condition(self, bounds: Bounds, where: str) -> str:
        return condition(bounds, self.literals, self.columns, where)

    def _bounds(self, selection: Selection) -> tuple[str | None, str | None]:
        """The range as the column's own texts. A local time that occurs twice, or not at all, is taken so that the
        range is rather too wide: rows that come in vain are compared again."""
        if self._time is None:
            return None, None
        start = [self._moment(selection.start, fold) for fold in (0, 1)] if selection.start else [None]
        end = [self._moment(selection.end, fold) for fold in (0, 1)] if selection.end else [None]
        return min(start, key=str), max(end, key=str)

    def _moment(self, time: dt.datetime, fold: int) -> str:
        if self._time and self._time.kind == "instant":
            time = time.replace(tzinfo=ZoneInfo(self.spec.timezone), fold=fold).astimezone(dt.UTC)
        return time.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def _wanted(self, selection: Selection) -> str:
        """The range as SQL; empty where there is none, or where only reading a row tells its time."""
        if (selection.start or selection.end) and "post_time" not in self.roles:
            raise BadInput(f"{self.name} has no time to select by: add --role post_time=COLUMN")
        if self._time is None:
            return ""
        name, literal = self.literals.quoted(self._time.name), self.literals.literal
        bounds = zip((">=", "<"), self._bounds(selection), strict=True)
        return " AND ".join(f"{name} {op} {literal(self._time, b)}" for op, b in bounds if b is not None)

    def _set_aside(self, rows: Rows, selection: Selection) -> dict[str, int]:
        """Rows that no range of time can hold."""
        assert self._time is not None
        name = self.literals.quoted(self._time.name)
        count = self._slicer(rows, "").count
        return {
            "post_time is null": count(f"{name} IS NULL"),
            "post_time is not a time": count(f"NOT ({self._is_time(self._time)}) AND NOT ({self._wanted(selection)})"),
        }

    # reading

    def _conditions(self, partition: Partition, selection: Selection) -> tuple[Bounds, str]:
        """The slice, and what else its rows have to be; a slice of times lies within the range."""
        bounds: Bounds = partition.slice["bounds"]
        is_by_time = bool(self._time and bounds and bounds[0][0] == self._time.name)
        return bounds, "" if is_by_time else self._wanted(selection)

    def _ranged(self, bounds: Bounds) -> str | None:
        """The column that the slice is a range of."""
        return next((name for name, operator, _ in bounds if operator == ">="), None)

    def _order(self, bounds: Bounds) -> str:
        name = self._ranged(bounds)
        return f" ORDER BY {self.literals.quoted(name)}" if name else ""

    def _expression(self, name: str) -> str:
        if name == "post_time" and self._time:
            return self._time_read(self._time)
        if name == "id" and "id" not in self.roles:
            key = self._key()
            return self._numbered(key.column) if key else "CAST(NULL AS CHAR)"
        return self._text(self.columns[self.roles[name]])

    @abstractmethod
    def _time_read(self, column: Column) -> str:
        """A time as SQL; null where it is none."""

    def _batch(
        self, names: Sequence[str], arrays: Sequence[pa.Array], first_row: int, errors: pa.Array | None = None
    ) -> pa.RecordBatch:
        """Columns as a driver gave them -> the canonical layout. Rows without any key are numbered from `first_row`."""
        columns = dict(zip(names, arrays, strict=True))
        if self._time and "post_time" in columns:
            zone = "UTC" if self._time.kind == "instant" else None
            columns["post_time"] = columns["post_time"].cast(pa.timestamp("us", zone))
        if "id" not in self.roles and self._key() is None:
            numbers = range(first_row, first_row + len(columns["id"]))
            columns["id"] = pa.array([f"{self.table}#{n}" for n in numbers], pa.large_string())
        known = None if errors is None else pl.Series(errors.cast(pa.large_string()))
        return canonical_batch(columns, self.spec, known)

    def _names(self, selection: Selection) -> tuple[str, ...]:
        return columns_to_read(self.roles, selection)


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
