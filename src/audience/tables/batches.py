"""Columns as a driver gives them -> batches in the canonical layout, with bad values set aside by row."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from audience.tables.base import SourceSpec, batch_schema
from audience.tables.times import EARLIEST, LATEST, in_calendar, naive, parse_times

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 65_536
FETCH_ROWS = 256
"""Rows per driver call: few enough that the bytes of a batch stay bounded when one field holds megabytes."""
SHOWN_CHARACTERS = 40
WHOLE_BELOW = 9.2e18
INT64_MAX = 2**63 - 1
FIRST_DAY, LAST_DAY = ((end - dt.datetime(1970, 1, 1)).days for end in (EARLIEST, LATEST))
PER_DAY = {"day": 1, "s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
NOT_A_TIME = "post_time is not a time: "


def canonical_batch(
    columns: Mapping[str, pa.Array], spec: SourceSpec, errors: pl.Series | None = None
) -> pa.RecordBatch:
    """A batch of `batch_schema`. Text may arrive as binary (checked to be UTF-8 here) or as any type that has a text
    form; a row whose text or time cannot be read, or whose id is null, gets an `error`. `errors`: what is known to be
    wrong with rows already."""
    if errors is None:
        errors = pl.Series("error", [None] * 0, dtype=pl.String).extend_constant(None, len(columns["id"]))
    ready: dict[str, pa.Array] = {}
    for name, column in columns.items():
        if name == "post_time":
            values, bad = _times(column, spec)
        else:
            values, bad = _texts(column)
        ready[name] = values
        if bad is not None:
            errors = errors.fill_null(bad)
    null_ids = pl.Series(pc.is_null(ready["id"]))
    errors = errors.set(null_ids & errors.is_null(), "id is null")
    schema = batch_schema(columns)
    return pa.RecordBatch.from_arrays([*ready.values(), errors.to_arrow().cast(pa.large_string())], schema=schema)


def fetched(cursor: Any, n_columns: int, measured: Iterable[int]) -> list[list[Any]]:
    """The next rows of a driver's cursor, by column: as many as a batch holds; none at the end. `measured`: columns of
    long values, whose bytes count."""
    columns: list[list[Any]] = [[] for _ in range(n_columns)]
    size = 0
    while size < BATCH_BYTES and len(columns[0]) < BATCH_ROWS and (rows := cursor.fetchmany(FETCH_ROWS)):
        fresh = list(zip(*rows, strict=True))
        for column, values in zip(columns, fresh, strict=True):
            column.extend(values)
        size += sum(sum(map(len, filter(None, fresh[i]))) for i in measured)
    return columns


def _texts(column: pa.Array) -> tuple[pa.Array, pl.Series | None]:
    if pa.types.is_large_string(column.type):
        return column, None
    if pa.types.is_floating(column.type):
        return _numbers(column), None
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column.cast(pa.large_string()), None
    try:
        return column.cast(pa.large_binary()).cast(pa.large_string()), None
    except pa.ArrowInvalid:
        return _texts_of_which_some_are_not_utf8(column)


def _numbers(column: pa.Array) -> pa.Array:
    """Whole numbers as such, with all their digits: an id that became a float is joined with what it was."""
    texts = column.cast(pa.large_string())
    wide = column.cast(pa.float64())
    is_whole = pc.and_(pc.equal(pc.trunc(wide), wide), pc.less(pc.abs(wide), WHOLE_BELOW))
    if not pc.any(is_whole).as_py():
        return texts
    whole = pc.if_else(is_whole, wide, pa.scalar(0.0)).cast(pa.int64()).cast(pa.large_string())
    return pc.if_else(is_whole, whole, texts)


def _texts_of_which_some_are_not_utf8(column: pa.Array) -> tuple[pa.Array, pl.Series]:
    texts: list[str | None] = []
    errors: list[str | None] = []
    for value in column.to_pylist():
        try:
            texts.append(None if value is None else value.decode())
            errors.append(None)
        except UnicodeDecodeError as error:
            texts.append(None)
            errors.append(f"text is not UTF-8: at byte {error.start} (a lone surrogate, or another encoding)")
    return pa.array(texts, pa.large_string()), pl.Series(errors, dtype=pl.String)


def _times(column: pa.Array, spec: SourceSpec) -> tuple[pa.Array, pl.Series | None]:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _from_calendar(column, spec.timezone)
    if pa.types.is_duration(column.type):  # no point in time, and Arrow has no text for it
        column = column.cast(pa.int64())
        shown = pl.Series(column.cast(pa.large_string())) + " (a duration)"
        return pa.nulls(len(column), pa.timestamp("us")), NOT_A_TIME + shown
    texts, bad = _texts(column)
    raw = _series(texts)
    times = parse_times(raw, spec.time_format, spec.timezone)
    unreadable = times.is_null() & raw.is_not_null()
    if unreadable.any():
        shown = NOT_A_TIME + raw.str.slice(0, SHOWN_CHARACTERS)
        shown = shown.set(~unreadable, None)
        bad = shown if bad is None else bad.fill_null(shown)
    return times.to_arrow().cast(pa.timestamp("us")), bad


def _from_calendar(column: pa.Array, timezone: str) -> tuple[pa.Array, pl.Series | None]:
    """Timestamps and dates of the years 1 to 9999. All others are set aside: they are what a writer puts for `never`,
    and microseconds, or the next calendar, would make another year of them."""
    raw = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64()).cast(pa.int64())
    zone = getattr(column.type, "tz", None)
    per_day = PER_DAY["ms" if pa.types.is_date64(column.type) else getattr(column.type, "unit", "day")]
    first = max(FIRST_DAY * per_day, -INT64_MAX)
    last = min((LAST_DAY + 1) * per_day, INT64_MAX) - 1
    is_known = pc.and_(pc.greater_equal(raw, first), pc.less_equal(raw, last))
    if pc.all(is_known, min_count=0).as_py():
        known = column
    else:
        known = pc.if_else(is_known, column, pa.scalar(None, column.type))
    times = (
        in_calendar(naive(_series(known).cast(pl.Datetime("us", zone)), timezone)).to_arrow().cast(pa.timestamp("us"))
    )
    lost = pc.and_(times.is_null(), column.is_valid())
    if not pc.any(lost).as_py():
        return times, None
    shown = NOT_A_TIME + pl.Series(raw.cast(pa.large_string())) + f" ({column.type}) is beyond the years 1 to 9999"
    return times, shown.set(~pl.Series(lost), None)


def _series(column: pa.Array) -> pl.Series:
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series


def rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of bounded size: small ones joined, large ones cut."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in _cut(batch):
            if waiting and (rows + len(piece) > BATCH_ROWS or size + piece.nbytes > BATCH_BYTES):
                yield _joined(waiting)
                rows = size = 0
            waiting.append(piece)
            rows, size = rows + len(piece), size + piece.nbytes
    if waiting:
        yield _joined(waiting)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    pieces = max(1, -(-batch.nbytes // BATCH_BYTES), -(-len(batch) // BATCH_ROWS))
    step = max(1, -(-len(batch) // pieces))
    for start in range(0, len(batch), step):
        yield batch.slice(start, step)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Empties the list: a generator that waits should hold no rows."""
    joined = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    batches.clear()
    return joined
