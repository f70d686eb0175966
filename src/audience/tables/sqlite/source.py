"""SQLite as a source. The standard library only: two SQLite libraries on one file in a process can corrupt it."""

import contextlib
import datetime as dt
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow as pa

from audience.databases.sqlite import BUSY_TIMEOUT_S, check_is_database, mapped_errors, quoted
from audience.errors import BadInput, NotFound
from audience.tables.base import (
    NO_BOUNDS,
    Description,
    Partition,
    Plan,
    Selection,
    SourceSpec,
    columns_to_read,
    likely_roles,
    resolve_roles,
)
from audience.tables.batches import canonical_batch, fetched
from audience.tables.times import check_are_times, implausible, parse_times

ROWID_NAMES = ("rowid", "_rowid_", "oid")
TIME_SAMPLE_ROWS = 1_000
ISO_TIME = r"^\d{4}-\d\d-\d\d([ T]([01]\d|2[0-3]):\d\d(:\d\d(\.\d+)?)?)?$"
ISO_GLOB = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
DAY, MINUTE, SECOND = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]", "[0-2][0-9]:[0-5][0-9]", ":[0-5][0-9]"
TEXT_TYPES = ("CHAR", "CLOB", "TEXT", "INT")
"""In the type of a column: it holds no whole numbers as reals."""
WHOLE_BELOW = "9.2e18"


@dataclass(frozen=True)
class _Key:
    """A column that slices are ranges of, and the half-open range of it that is wanted (None: open)."""

    name: str
    start: Any = None
    end: Any = None


class SqliteSource:
    """A table or view of a SQLite file, opened read-only. Its types bind nothing."""

    bounds = NO_BOUNDS

    def __init__(self, spec: SourceSpec, path: Path) -> None:
        self.spec = spec
        self.path = path
        self._planning: set[sqlite3.Connection] = set()
        check_is_database(path)
        with self._session() as db:
            self.table = self._pick_table(db, spec.table)
            self.columns = {
                r[1].decode(): r[2].decode() for r in db.execute(f"PRAGMA table_xinfo({quoted(self.table)})")
            }
            self.roles: Mapping[str, str] = resolve_roles(spec, list(self.columns), f"{path.name}:{self.table}")
            self._rowid = self._find_rowid(db)
            self._time_index = self._find_index(db, self.roles["post_time"]) if "post_time" in self.roles else None
            self._separator = self._check_times(db) if "post_time" in self.roles else None

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection that hands text over as bytes, and errors over as ours."""
        with mapped_errors(self.path):
            db = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
            )
            db.text_factory = bytes
            with contextlib.closing(db):
                yield db

    def _pick_table(self, db: sqlite3.Connection, table: str | None) -> str:
        rows = db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name").fetchall()
        names = [r[0].decode() for r in rows if not r[0].startswith(b"sqlite_")]
        if table is None and len(names) == 1:
            return str(names[0])
        if table is None:
            raise BadInput(
                f"{self.path} holds {len(names)} tables; name one with --table: {', '.join(names) or 'none'}"
            )
        if table not in names:
            raise NotFound(f"{self.path} has no table {table!r}; it has: {', '.join(names) or 'none'}")
        return table

    def _find_rowid(self, db: sqlite3.Connection) -> str | None:
        taken = {c.lower() for c in self.columns}
        for name in ROWID_NAMES:
            kind = db.execute("SELECT type FROM sqlite_master WHERE name = ?", (self.table,)).fetchone()[0]
            if name not in taken and kind == b"table":
                with contextlib.suppress(sqlite3.OperationalError):  # WITHOUT ROWID
                    db.execute(f"SELECT {name} FROM {quoted(self.table)} LIMIT 0")
                    return name
        return None

    def _find_index(self, db: sqlite3.Connection, column: str) -> str | None:
        """The index that a range of the column can use."""
        for row in db.execute(f"PRAGMA index_list({quoted(self.table)})").fetchall():
            name, partial = row[1].decode(), row[4]
            first = db.execute(f"PRAGMA index_info({quoted(name)})").fetchone()
            if not partial and first and first[2] is not None and first[2].decode() == column:
                return str(name)
        return None

    def _check_times(self, db: sqlite3.Connection) -> str | None:
        """What stands between date and time where stored times sort by time; None where they do not.
        Refuses a column that holds no times at all."""
        column = self.roles["post_time"]
        sql = f"SELECT CAST({self._column(column)} AS TEXT), typeof({self._column(column)}) FROM {quoted(self.table)}"
        rows = db.execute(f"{sql} WHERE {self._column(column)} IS NOT NULL LIMIT {TIME_SAMPLE_ROWS}").fetchall()
        texts = pl.Series([r[0].decode(errors="replace") for r in rows], dtype=pl.String)
        times = parse_times(texts, self.spec.time_format, self.spec.timezone)
        check_are_times(texts, times, f"{self.path.name}:{self.table}.{column}")
        separators = texts.filter(times.is_not_null()).str.slice(10, 1).unique().to_list()
        iso = texts.filter(times.is_not_null()).str.contains(ISO_TIME).all()
        sortable = iso and self.spec.time_format == "auto" and all(r[1] == b"text" for r in rows)
        return (separators[0] or " ") if sortable and len(separators) == 1 else None

    def describe(self) -> Description:
        with self._session() as db:
            table = quoted(self.table)
            n_rows = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            keys = [r for r in ("id", "post_time") if r in self.roles]
            nulls = {
                r: db.execute(f"SELECT count(*) FROM {table} WHERE {self._column(self.roles[r])} IS NULL").fetchone()[0]
                for r in keys
            }
            shown = ", ".join(map(self._text, self.columns))
            rows = db.execute(f"SELECT {shown} FROM {table} LIMIT 5").fetchall()
            span = self._time_span(db) if "post_time" in self.roles and n_rows else None
        preview = [
            {c: None if v is None else v.decode(errors="replace") for c, v in zip(self.columns, r, strict=True)}
            for r in rows
        ]
        advice = [*likely_roles(self.roles, self.columns), *implausible(span)]
        if "post_time" in self.roles and self._time_index is None:
            advice.append(f"an index on {self.roles['post_time']} would make ranges of time read only their own rows")
        shown_span = (str(span[0]), str(span[1])) if span else None
        found = (n_rows, shown_span, self._time_index, nulls, preview, tuple(advice))
        return Description(dict(self.columns), dict(self.roles), *found)

    def _time_span(self, db: sqlite3.Connection) -> tuple[dt.datetime, dt.datetime] | None:
        column = self._column(self.roles["post_time"])
        row = db.execute(
            f"SELECT (SELECT min({column}) FROM {quoted(self.table)}), (SELECT max({column}) FROM {quoted(self.table)})"
        ).fetchone()
        texts = pl.Series(
            [v if v is None else v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row]
        )
        first, last = parse_times(texts.cast(pl.String), self.spec.time_format, self.spec.timezone).to_list()
        return (min(first, last), max(first, last)) if first and last else None

    # planning

    def interrupt(self) -> None:
        """Leaves alone those who read meanwhile: a plan that comes too late is interrupted beside them."""
        for db in list(self._planning):
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed just now
                db.interrupt()

    @contextlib.contextmanager
    def _interruptible(self, db: sqlite3.Connection) -> Iterator[None]:
        self._planning.add(db)
        try:
            yield
        finally:
            self._planning.discard(db)

    def plan(self, selection: Selection) -> Plan:
        size = selection.partition_rows
        with self._session() as db, self._interruptible(db):
            where, values = self._time_condition(selection, by_sql=self._times_sort(db, selection))
            set_aside = self._outside_any_range(db, where, values) if where else {}
            key = self._rowid or self.roles.get("id")
            if where and self._time_index:
                column = self.roles["post_time"]
                slices = self._slices(db, _Key(column, *self._time_bounds(selection)), size, "1", [], tie=key)
            elif key:
                slices = self._slices(db, _Key(key), size, where or "1", values)
            else:
                slices = iter([([], self._count(db, where or "1", values))])
            if not self._rowid and "id" in self.roles:
                null_id = f"{self._column(self.roles['id'])} IS NULL"
                set_aside["id is null"] = self._count(db, f"{null_id} AND {where or '1'}", values)
            # What selects by time has to be the same when it is read, whatever was written meanwhile.
            partitions = [
                Partition(i, {"bounds": bounds, "by_sql": bool(where)}, n) for i, (bounds, n) in enumerate(slices)
            ]
        return Plan(tuple(partitions), {reason: n for reason, n in set_aside.items() if n})

    def _times_sort(self, db: sqlite3.Connection, selection: Selection) -> bool:
        """Whether the texts of all times sort by time, not only those of the first rows; where a range is asked for."""
        if self._separator is None or not (selection.start or selection.end):
            return False
        column = self._column(self.roles["post_time"])
        minute = f"{DAY}{self._separator}{MINUTE}"
        forms = (DAY, minute, minute + SECOND)
        of_form = " OR ".join(["%s GLOB ?"] * len(forms)) % ((column,) * len(forms))
        fraction = f"({column} GLOB ? AND substr({column}, 21) NOT GLOB '*[^0-9]*')"
        late = f"substr({column}, 12, 2) = '24'"  # midnight, of the day after
        other = f"typeof({column}) <> 'text' OR NOT ({of_form} OR {fraction}) OR {late}"
        sql = f"SELECT CAST({column} AS TEXT) FROM {quoted(self.table)} WHERE {column} IS NOT NULL AND ({other})"
        found = db.execute(f"{sql} LIMIT {TIME_SAMPLE_ROWS}", (*forms, minute + SECOND + ".[0-9]*")).fetchall()
        texts = pl.Series([r[0].decode(errors="replace") for r in found], dtype=pl.String)
        none_is_a_time = parse_times(texts, self.spec.time_format, self.spec.timezone).null_count() == len(texts)
        return none_is_a_time and len(texts) < TIME_SAMPLE_ROWS

    def _time_bounds(self, selection: Selection) -> tuple[str | None, str | None]:
        """The range in the form that the column's texts have."""
        separator = self._separator or " "
        start, end = selection.start, selection.end
        return _shortest(start, separator) if start else None, _shortest(end, separator) if end else None

    def _time_condition(self, selection: Selection, *, by_sql: bool) -> tuple[str, list[Any]]:
        """The range as SQL where stored times sort by time; else empty, and the labeler compares parsed times."""
        if not (selection.start or selection.end):
            return "", []
        if "post_time" not in self.roles:
            raise BadInput(f"{self.path.name}:{self.table} has no time to select by: add --role post_time=COLUMN")
        if not by_sql:
            return "", []
        column = self._column(self.roles["post_time"])
        bounds = zip((">=", "<"), self._time_bounds(selection), strict=True)
        given = [(f"{column} {op} ?", bound) for op, bound in bounds if bound is not None]
        return " AND ".join(sql for sql, _ in given), [bound for _, bound in given]

    def _outside_any_range(self, db: sqlite3.Connection, where: str, values: Sequence[Any]) -> dict[str, int]:
        """Rows that no range of time can hold: null times, and text that is no time. Text that sorts into the range
        is read, and set aside there."""
        column = self._column(self.roles["post_time"])
        return {
            "post_time is null": self._count(db, f"{column} IS NULL", []),
            "post_time is not a time": self._count(db, f"{column} NOT GLOB ? AND NOT ({where})", [ISO_GLOB, *values]),
        }

    def _count(self, db: sqlite3.Connection, where: str, values: Sequence[Any]) -> int:
        return int(db.execute(f"SELECT count(*) FROM {quoted(self.table)} WHERE {where}", values).fetchone()[0])

    def _slices(
        self, db: sqlite3.Connection, key: "_Key", size: int, where: str, values: Sequence[Any], tie: str | None = None
    ) -> Iterator[tuple[list[list[Any]], int]]:
        """Half-open ranges of `key` with exact counts, about `size` rows each. Every step reads one slice of the
        key's index, so that a plan reads it once. A single key that has more rows than `size` is cut by `tie`."""
        column, table = self._column(key.name), quoted(self.table)

        def one(found: str, since: str, at: Any, inner: str = "", end: str = "", *more: Any) -> Any:
            conditions, bounds = where, [*values]
            for op, bound in ((since, at), ("<", key.end)):
                if bound is not None:
                    conditions, bounds = f"{conditions} AND {column} {op} {_place(bound)}", [*bounds, _bound(bound)]
            sql = f"SELECT {found}, typeof({found}) FROM {inner or table + ' WHERE '}{conditions}{end}"
            return _key(*db.execute(sql, (*bounds, *more)).fetchone())

        start = one(f"min({column})", ">=", key.start)
        passed: set[str] = set()
        while start is not None:
            top = one("max(k)", ">=", start, f"(SELECT {column} AS k FROM {table} WHERE ", " ORDER BY k LIMIT ?)", size)
            after = one(f"min({column})", ">", top)
            if repr(start) in passed or top is None or after in (start, top):
                raise BadInput(
                    f"{self.path.name}:{self.table}.{key.name} cannot be cut into partitions: the key {start!r} does "
                    "not compare with itself as it is stored; name another column with --role id=COLUMN"
                )
            passed.add(repr(start))
            same = f"{where} AND {column} = {_place(top)}"
            if tie and self._count(db, same, [*values, _bound(top)]) > size:
                yield from self._range(db, key.name, start, top, where, values)
                for bounds, n in self._slices(db, _Key(tie), size, same, [*values, _bound(top)]):
                    yield [[key.name, "=", top], *bounds], n
            else:
                yield from self._range(db, key.name, start, key.end if after is None else after, where, values)
            start = after

    def _range(
        self, db: sqlite3.Connection, key: str, start: Any, end: Any, where: str, values: Sequence[Any]
    ) -> Iterator[tuple[list[list[Any]], int]]:
        bounds = [[key, op, v] for op, v in ((">=", start), ("<", end)) if v is not None]
        conditions = "".join(f" AND {self._column(k)} {op} {_place(v)}" for k, op, v in bounds)
        if n := self._count(db, where + conditions, [*values, *(_bound(v) for _, _, v in bounds)]):
            yield bounds, n

    # reading

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        names = columns_to_read(self.roles, selection)
        where, values = self._time_condition(selection, by_sql=partition.slice.get("by_sql", False))
        bounds = partition.slice["bounds"]
        keys = list(dict.fromkeys(key for key, _, _ in bounds))
        if self.roles.get("post_time") in keys:  # the slice lies within the range: one condition, one index range
            where, values = "", []
        conditions = [f"{self._column(key)} {_operator(op)} {_place(value)}" for key, op, value in bounds]
        conditions += [where] if where else []
        sql = (
            f"SELECT {', '.join(self._expression(n) for n in names)} FROM {quoted(self.table)}"
            f" WHERE {' AND '.join(conditions) or '1'}"
            + (f" ORDER BY {', '.join(map(self._column, keys))}" if keys else "")
        )
        measured = [i for i, name in enumerate(names) if name in selection.fields]
        with self._session() as db:
            cursor = db.execute(sql, [*(_bound(v) for _, _, v in bounds), *values])
            # Not a loop: its variable would keep a batch alive while the next one is made.
            yield from iter(lambda: self._next_batch(cursor, names, measured), None)

    def _column(self, name: str) -> str:
        """With its table: a quoted name alone that is no column (any more) is read as a text, without an error."""
        return f"{quoted(self.table)}.{quoted(name)}"

    def _expression(self, name: str) -> str:
        """Every value as text, whatever type SQLite stored it with, so that one column is one type."""
        if name == "id" and "id" not in self.roles:
            prefix = self.table.replace("'", "''")
            return f"'{prefix}#' || {self._rowid or 'row_number() OVER ()'}"
        return self._text(self.roles[name])

    def _text(self, name: str) -> str:
        """A whole number that was stored as a real keeps its digits: SQLite would write 1.23456789012346e+15."""
        column = self._column(name)
        if any(kind in self.columns[name].upper() for kind in TEXT_TYPES):
            return f"CAST({column} AS TEXT)"
        whole = f"typeof({column}) = 'real' AND abs({column}) < {WHOLE_BELOW} AND {column} = CAST({column} AS INTEGER)"
        return f"CASE WHEN {whole} THEN CAST(CAST({column} AS INTEGER) AS TEXT) ELSE CAST({column} AS TEXT) END"

    def _next_batch(
        self, cursor: sqlite3.Cursor, names: Sequence[str], measured: Sequence[int]
    ) -> pa.RecordBatch | None:
        columns = fetched(cursor, len(names), measured)
        if not columns[0]:
            return None
        arrays = {name: pa.array(columns.pop(0), pa.large_binary()) for name in names}
        return canonical_batch(arrays, self.spec)


def _shortest(time: dt.datetime, separator: str) -> str:
    """The shortest ISO text of a time: it sorts before every longer text of the same instant."""
    text = time.isoformat(sep=separator)
    for zero in (":00", f"{separator}00:00"):
        text = text.removesuffix(zero)
    return str(text)


def _operator(op: str) -> str:
    if op not in (">=", "<", "="):
        raise BadInput(f"a partition holds the operator {op!r}; plan again")
    return op


def _key(value: Any, stored: bytes) -> Any:
    """A key as JSON carries it, so that it comes back as the very value that is stored: SQLite compares a number, a
    text and a blob of the same characters as three different things."""
    if stored == b"text":
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"text": value.hex()}
    if stored == b"blob":
        return {"blob": value.hex()}
    return {"real": str(value)} if stored == b"real" and not math.isfinite(value) else value


def _place(key: Any) -> str:
    """Where a key goes in SQL. The plus takes the affinity away that a cast has, so that it compares as it is."""
    return "+CAST(? AS TEXT)" if isinstance(key, dict) and "text" in key else "?"


def _bound(key: Any) -> Any:
    """What is bound there."""
    if not isinstance(key, dict):
        return key
    return float(key["real"]) if "real" in key else bytes.fromhex(key.get("blob") or key.get("text") or "")
