"""Parquet files, by row groups: only the columns that a run needs, only the row groups that may hold its times."""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from audience.errors import BadInput
from audience.tables.base import Selection, SourceSpec
from audience.tables.batches import BATCH_BYTES
from audience.tables.files.base import Piece, Rows

"""Few: a dictionary of long texts takes little room in the file and much once it is read."""
DECODED_ROWS = 32_768
"""Read at a time: what is stored once, as a dictionary, may take far more room when it is spelled out."""
BUFFER_BYTES = 2**20


class ParquetFormat:
    """A row group is never cut between pieces; a large one is read in batches."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    def columns(self, path: Path) -> dict[str, str]:
        with opened(path) as file:
            names = file.schema_arrow.names
            twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
            if twice is not None:
                raise BadInput(f"{path}: two columns are called {twice!r}: rename one")
            return {field.name: str(field.type) for field in file.schema_arrow}

    def pieces(self, path: Path, selection: Selection, time_column: str | None) -> Iterator[Piece]:
        with opened(path) as file:
            meta = file.metadata
            first_row, begun, n_rows = 1, 0, 0
            for i in range(meta.num_row_groups):
                group = meta.row_group(i)
                wanted = group.num_rows > 0 and not _outside(group, selection, time_column, self.spec.timezone)
                if n_rows and (not wanted or n_rows + group.num_rows > selection.partition_rows):
                    yield Piece({"row_groups": [begun, i], "first_row": first_row}, n_rows)
                    first_row, n_rows = first_row + n_rows, 0
                if not n_rows:
                    begun = i
                if wanted:
                    n_rows += group.num_rows
                else:
                    first_row += group.num_rows
            if n_rows:
                yield Piece({"row_groups": [begun, meta.num_row_groups], "first_row": first_row}, n_rows)

    def read(self, path: Path, piece: dict[str, Any], columns: Sequence[str]) -> Iterator[Rows]:
        groups = range(*piece["row_groups"])
        first_row = piece["first_row"]
        with opened(path) as file:
            kept = [name for name in columns if name in file.schema_arrow.names]
            for name in kept:
                _check_has_text(path, file.schema_arrow.field(name))
            size = rows_per_batch(file.metadata, groups, kept)
            for batch in file.iter_batches(size, row_groups=list(groups), columns=kept):
                yield Rows(first_row, len(batch), {name: _plain(batch[name]) for name in kept})
                first_row += len(batch)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A buffered file, so that a row group is not loaded whole; Arrow's errors as ours."""
    try:
        # INT96 reaches further than nanoseconds do: as those, the year 9999 would be 1816.
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, coerce_int96_timestamp_unit="us") as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} is damaged, cut short or not a Parquet file: {first}") from None


def rows_per_batch(meta: pq.FileMetaData, groups: range, columns: Sequence[str]) -> int:
    size = n_rows = 0
    for group in map(meta.row_group, groups):
        n_rows += group.num_rows
        chunks = map(group.column, range(group.num_columns))
        size += sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
    return max(1, min(DECODED_ROWS, BATCH_BYTES * n_rows // max(size, 1)))


def _check_has_text(path: Path, field: pa.Field) -> None:
    try:
        _plain(pa.nulls(1, field.type)).cast(pa.large_string())
    except pa.ArrowException:
        raise BadInput(f"{path}: column {field.name!r} holds {field.type}, which has no text form") from None


def _plain(column: pa.Array) -> pa.Array:
    """Text as bytes, because Parquet does not promise that it is UTF-8; dictionaries and extensions unfolded."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    other = (pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return column.cast(pa.large_binary()) if any(is_kind(kind) for is_kind in (*text, *other)) else column


def _outside(group: pq.RowGroupMetaData, selection: Selection, time_column: str | None, timezone: str) -> bool:
    """Whether the statistics prove that every time of the row group is known and out of the range."""
    if time_column is None or not (selection.start or selection.end):
        return False
    chunks = map(group.column, range(group.num_columns))
    statistics = next((c.statistics for c in chunks if c.path_in_schema == time_column), None)
    if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
        return False
    try:
        first, last = (_clock_time(value, timezone) for value in (statistics.min, statistics.max))
    except (ValueError, OverflowError):  # a time beyond the years 1 to 9999
        return False
    if first is None or last is None:
        return False
    too_late = selection.end is not None and first >= selection.end
    return too_late or (selection.start is not None and last < selection.start)


def _clock_time(value: Any, timezone: str) -> dt.datetime | None:
    if not isinstance(value, dt.datetime):
        return None
    return value.astimezone(ZoneInfo(timezone)).replace(tzinfo=None) if value.tzinfo else value
