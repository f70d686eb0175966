"""Results or production rows as a file for people and other programs: CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from audience.errors import BadInput, Transient
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA

FORMULA = r"^[=+\-@\t\r]"
"""Texts that a spreadsheet would run: an apostrophe goes before them in CSV."""

PRODUCTION_SCHEMA = pa.schema(
    [
        *(RESULT_SCHEMA.field(name) for name in PRODUCTION_COLUMNS if name in RESULT_SCHEMA.names),
        ("posts", pa.int64()),
        ("group", pa.large_string()),
    ]
)


def export(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema) -> int:
    """Writes all rows to a new file and renames it into place; (the number of rows). Memory stays that of a batch."""
    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in writers:
        raise BadInput(f"{path.name}: an export ends in {', '.join(writers)}")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} to export to")
    part = path.with_name(f".{path.name}.part")
    try:
        n_rows = writers[path.suffix.lower()](_shaped(batches, schema), part, schema)
        part.replace(path)
    except OSError as error:
        raise Transient(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return n_rows


def _shaped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.select(schema.names).cast(schema)


def _parquet(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema) -> int:
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            n_rows += len(batch)
    return n_rows


def _csv(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets that it is UTF-8
        csv.writer(file).writerow(schema.names)
        for batch in batches:
            file.write(_safe(batch).write_csv(include_header=False, line_terminator="\r\n"))
            n_rows += len(batch)
    return n_rows


def _safe(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    text = pl.col(pl.String)
    frame = frame.with_columns(pl.col("create_time").dt.to_string("%Y-%m-%d %H:%M:%S%.f"))
    return frame.with_columns(pl.when(text.str.contains(FORMULA)).then("'" + text).otherwise(text).name.keep())


def _jsonl(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            for row in batch.to_pylist():
                file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")
            n_rows += len(batch)
    return n_rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Times as ISO text, and JSON columns as what they hold."""
    time = row["create_time"]
    row["create_time"] = None if time is None else time.isoformat(sep=" ")
    for name in ("match_meta", "evidence"):
        row[name] = json.loads(row[name])
    return row
