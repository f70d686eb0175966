"""SQLite as a source. The standard library only: two SQLite libraries on one file in a process can corrupt it."""

import contextlib
import datetime as dt
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
    Description,
    Partition,
    Plan,
    Selection,
    SourceSpec,
    columns_to_read,
    resolve_roles,
)
from audience.tables.batches import canonical_batch, fetched
from audience.tables.times import check_are_times, parse_times

ROWID_NAMES = ("rowid", "_rowid_", "oid")
TIME_SAMPLE_ROWS = 1_000
ISO_TIME = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?$"
ISO_GLOB = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"


@dataclass(frozen=True)
class _Key:
    """A column that slices are ranges of, and the half-open range of it that is wanted (None: open)."""

    name: str
    start: Any = None
    end: Any = None


class SqliteSource:
    """A table or view of a SQLite file, opened read-only."""

    def __init__(self, spec: SourceSpec, path: Path) -> None:
        self.spec = spec
        self.path = path
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
            shown = ", ".join(f"CAST({self._column(c)} AS TEXT)" for c in self.columns)
            rows = db.execute(f"SELECT {shown} FROM {table} LIMIT 5").fetchall()
            span = self._time_span(db) if "post_time" in self.roles and n_rows else None
        preview = [
            {c: None if v is None else v.decode(errors="replace") for c, v in zip(self.columns, r, strict=True)}
            for r in rows
        ]
        advice: tuple[str, ...] = ()
        if "post_time" in self.roles and self._time_index is None:
            advice = (f"an index on {self.roles['post_time']} would make ranges of time read only their own rows",)
        return Description(dict(self.columns), dict(self.roles), n_rows, span, self._time_index, nulls, preview, advice)

    def _time_span(self, db: sqlite3.Connection) -> tuple[str, str] | None:
        column = self._column(self.roles["post_time"])
        row = db.execute(
            f"SELECT (SELECT min({column}) FROM {quoted(self.table)}), (SELECT max({column}) FROM {quoted(self.table)})"
        ).fetchone()
        texts = pl.Series(
            [v if v is None else v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row]
        )
        first, last = parse_times(texts.cast(pl.String), self.spec.time_format, self.spec.timezone).to_list()
        return (str(first), str(last)) if first and last else None

    # planning

    def plan(self, selection: Selection) -> Plan:
        size = selection.partition_rows
        with self._session() as db:
            where, values = self._time_condition(selection)
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
            partitions = [Partition(i, {"bounds": bounds}, n) for i, (bounds, n) in enumerate(slices)]
        return Plan(tuple(partitions), {reason: n for reason, n in set_aside.items() if n})

    def _time_bounds(self, selection: Selection) -> tuple[str | None, str | None]:
        """The range in the form that the column's texts have."""
        separator = self._separator or " "
        start, end = selection.start, selection.end
        return _shortest(start, separator) if start else None, _shortest(end, separator) if end else None

    def _time_condition(self, selection: Selection) -> tuple[str, list[Any]]:
        """The range as SQL where stored times sort by time; else empty, and the labeler compares parsed times."""
        if not (selection.start or selection.end):
            return "", []
        if "post_time" not in self.roles:
            raise BadInput(f"{self.path.name}:{self.table} has no time to select by: add --role post_time=COLUMN")
        if self._separator is None:
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

        def one(begin: str, since: str, at: Any, end: str = "", *more: Any) -> Any:
            conditions, bounds = where, [*values]
            for op, bound in ((since, at), ("<", key.end)):
                if bound is not None:
                    conditions, bounds = f"{conditions} AND {column} {op} ?", [*bounds, bound]
            sql = f"SELECT {begin} FROM {table} WHERE {conditions}{end}"
            return _text(db.execute(sql, (*bounds, *more)).fetchone()[0])

        start = one(f"min({column})", ">=", key.start)
        while start is not None:
            top = one(f"max(k) FROM (SELECT {column} AS k", ">=", start, " ORDER BY k LIMIT ?)", size)
            after = one(f"min({column})", ">", top)
            same = f"{where} AND {column} = ?"
            if tie and self._count(db, same, [*values, top]) > size:
                yield from self._range(db, key.name, start, top, where, values)
                for bounds, n in self._slices(db, _Key(tie), size, same, [*values, top]):
                    yield [[key.name, "=", top], *bounds], n
            else:
                yield from self._range(db, key.name, start, key.end if after is None else after, where, values)
            start = after

    def _range(
        self, db: sqlite3.Connection, key: str, start: Any, end: Any, where: str, values: Sequence[Any]
    ) -> Iterator[tuple[list[list[Any]], int]]:
        bounds = [[key, op, v] for op, v in ((">=", start), ("<", end)) if v is not None]
        conditions = "".join(f" AND {self._column(k)} {op} ?" for k, op, _ in bounds)
        if n := self._count(db, where + conditions, [*values, *(v for _, _, v in bounds)]):
            yield bounds, n

    # reading

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        names = columns_to_read(self.roles, selection)
        where, values = self._time_condition(selection)
        bounds = partition.slice["bounds"]
        keys = list(dict.fromkeys(key for key, _, _ in bounds))
        if self.roles.get("post_time") in keys:  # the slice lies within the range: one condition, one index range
            where, values = "", []
        conditions = [f"{self._column(key)} {_operator(op)} ?" for key, op, _ in bounds] + ([where] if where else [])
        sql = (
            f"SELECT {', '.join(self._expression(n) for n in names)} FROM {quoted(self.table)}"
            f" WHERE {' AND '.join(conditions) or '1'}"
            + (f" ORDER BY {', '.join(map(self._column, keys))}" if keys else "")
        )
        measured = [i for i, name in enumerate(names) if name in selection.fields]
        with self._session() as db:
            cursor = db.execute(sql, [*(v for _, _, v in bounds), *values])
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
        return f"CAST({self._column(self.roles[name])} AS TEXT)"

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


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadInput(
            f"a key is not UTF-8 text ({value[:40]!r}), so the table cannot be cut into partitions"
        ) from None
