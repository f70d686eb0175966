"""Result rows on their way into and out of databases: gathered, as CSV for bulk loads, and back as batches."""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from audience.errors import BadInput
from audience.tables.base import RESULT_SCHEMA
from audience.tables.times import parse_times

WRITE_BUFFER_BYTES = 16 * 2**20
STORED = tuple(name for name in RESULT_SCHEMA.names if name != "group")
TYPES = {**{field.name: field.type for field in RESULT_SCHEMA}, "posts": pa.int64()}
TIME_FORMAT = "%Y-%m-%d %H:%M:%S%.f"


def gathered(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Returns the first results of a partition, before the database is asked for them; a huge partition is not gathered
    whole."""
    found, size = [], 0
    for batch in batches:
        found.append(batch)
        size += batch.nbytes
        if size > WRITE_BUFFER_BYTES:
            break
    return found


def by_group(batch: pa.RecordBatch) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yields the rows of each group, in the columns of its table."""
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    for part in [frame] if frame["group"].n_unique() == 1 else frame.partition_by("group", maintain_order=True):
        yield part["group"][0], part.select(STORED)


def types_of(names: Iterable[str]) -> dict[str, pa.DataType]:
    return {name: TYPES[name] for name in names}


def with_time_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the rows with times as text, for drivers that take values one by one."""
    return frame.with_columns(pl.col(pl.Datetime).dt.to_string(TIME_FORMAT))


def as_csv(frame: pl.DataFrame) -> memoryview:
    """Texts in quotes, a quote doubled, no escapes; a bare NULL is null. Ends of lines are line feeds."""
    written = io.BytesIO()
    frame.write_csv(written, include_header=False, quote_style="non_numeric", null_value="NULL")
    return written.getbuffer()


def holding(characters: str) -> pl.Expr:
    """Returns an expression: whether any text of a row holds one of them."""
    found = [pl.col(pl.String).str.contains(c, literal=True) for c in characters]
    return pl.any_horizontal(*found, pl.lit(value=False)).fill_null(value=False)


def refused_row(frame: pl.DataFrame, place: int | None, table: str, reason: str) -> BadInput:
    """Returns what is said of a row that the database refuses. `place` counts the rows sent, from 0; None: it did not
    say which."""
    row = "a result row" if place is None else f"the result row of id {frame['id'][place]!r} (n {frame['n'][place]})"
    return BadInput(f"{row} cannot be written to {table}: {reason}")


def result_batch(names: Sequence[str], rows: Sequence[Any], group: str) -> pa.RecordBatch:
    """Rows of a group as a driver gives them, times as text."""
    batch = batch_of(rows, pa.schema(list(types_of(names).items())))
    return batch.append_column("group", pa.array([group] * len(rows), pa.large_string()))


def batch_of(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as a driver gives them, times as text; at least one."""
    columns = zip(schema, zip(*rows, strict=True), strict=True)
    return pa.RecordBatch.from_arrays([_array(values, field.type) for field, values in columns], schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return parse_times(pl.Series(values, dtype=pl.String)).to_arrow().cast(kind)
    if pa.types.is_large_string(kind) and isinstance(next(filter(_is_known, values), None), int):  # numbers there
        values = [None if value is None else str(value) for value in values]
    return pa.array(values, kind)


def _is_known(value: Any) -> bool:
    return value is not None


def shown_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows for people: times as text."""
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return with_time_texts(frame).to_dicts()
