"""Writes results or production rows as a file for people and other programs: CSV, JSON lines or Parquet."""

import contextlib
import csv
import datetime as dt
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from audience.errors import BadInput, Transient
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA
from audience.tables.publications import PUBLISHED_SCHEMA as PUBLISHED_ROWS

FORMULA = r"^[=+\-@\t\r]"
"""Matches texts that a spreadsheet would run: an apostrophe goes before them in CSV."""

PRODUCTION_SCHEMA = pa.schema(
    [
        *(RESULT_SCHEMA.field(name) for name in PRODUCTION_COLUMNS if name in RESULT_SCHEMA.names),
        ("posts", pa.int64()),
        ("group", pa.large_string()),
    ]
)
PUBLISHED_SCHEMA = pa.schema([*PUBLISHED_ROWS, ("index", pa.large_string())])


@dataclass(frozen=True)
class Rows:
    """Rows to export, and their layout."""

    batches: Iterable[pa.RecordBatch]
    schema: pa.Schema


def comparable(rows: Rows) -> Rows:
    """Returns rows without what differs between two runs that labelled the same rows in the same partitions: the ids of
    their tasks. The order of the rows is the same already: by task, group, partition and place."""
    names = [name for name in rows.schema.names if name != "task_id"]
    return Rows(rows.batches, pa.schema([rows.schema.field(name) for name in names]))


def export(rows: Rows, path: Path) -> int:
    """Writes all rows to a new file and renames it into place; returns the number of rows. Memory stays that of a
    batch."""
    kind = check_path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # of this export alone: two may write one file
    counted = Counted(rows.batches)
    try:
        with part.open("wb") as file:
            for piece in encoded(Rows(counted, rows.schema), kind):
                file.write(piece)
        part.replace(path)
    except OSError as error:
        raise Transient(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # whatever was wrong before is what counts
            part.unlink(missing_ok=True)
    return counted.n_rows


def check_path(path: Path) -> str:
    """Returns the layout of a file to export to, from its ending. Raises BadInput where there is none, or no folder for
    it."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ENCODERS:
        raise BadInput(f"{path.name}: an export ends in {', '.join(f'.{name}' for name in ENCODERS)}")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} to export to")
    return kind


def encoded(rows: Rows, kind: str) -> Iterator[bytes]:
    """Yields the bytes of a file of this kind (csv, jsonl, parquet), piece by piece."""
    shaped = (batch.select(rows.schema.names).cast(rows.schema) for batch in rows.batches)
    return ENCODERS[kind](shaped, rows.schema)


class Counted:
    """Counts batches as they pass."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.batches = batches
        self.n_rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self.batches:
            self.n_rows += len(batch)
            yield batch


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    sink = _Pieces()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


class _Pieces(io.RawIOBase):
    """A file that collects what is written until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """Returns what was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    header = io.StringIO(newline="")
    csv.writer(header).writerow(schema.names)
    yield header.getvalue().encode("utf-8-sig")  # the mark tells spreadsheets that it is UTF-8
    for batch in batches:
        yield _safe(batch).write_csv(include_header=False, line_terminator="\r\n").encode()


def _safe(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    text = pl.col(pl.String)
    frame = frame.with_columns(pl.col(pl.Datetime).dt.to_string("%Y-%m-%d %H:%M:%S%.f"))
    return frame.with_columns(pl.when(text.str.contains(FORMULA)).then("'" + text).otherwise(text).name.keep())


def _jsonl(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    for batch in batches:
        lines = [json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in batch.to_pylist()]
        yield "".join(lines).encode()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with times as ISO text, and JSON columns as what they hold."""
    for name, value in row.items():
        if isinstance(value, dt.datetime):
            row[name] = value.isoformat(sep=" ")
    for name in ("match_meta", "evidence"):
        row[name] = json.loads(row[name])
    return row


ENCODERS: dict[str, Callable[[Iterable[pa.RecordBatch], pa.Schema], Iterator[bytes]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
