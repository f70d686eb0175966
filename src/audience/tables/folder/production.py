"""Production of a folder target: whole rows of those that stand for their pairs, by time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA, ConflictRules
from audience.tables.production import standing_rows


@dataclass(frozen=True)
class Produced:
    """Production rows, not read yet, and how many rows and subjects there will be."""

    frame: pl.LazyFrame
    n_rows: int
    n_subjects: int


def produced(parts: Sequence[Path], narrow: Iterable[pa.RecordBatch], rules: ConflictRules) -> Produced:
    """Finds the rows by their `narrow` columns, then reads them whole: those of a task do not fit into memory."""
    slices = list(standing_rows(narrow, rules))
    if not slices:
        nothing = pl.from_arrow(RESULT_SCHEMA.empty_table())
        assert isinstance(nothing, pl.DataFrame)
        return Produced(nothing.lazy().with_columns(posts=pl.lit(0, pl.Int64)).select(PRODUCTION_COLUMNS), 0, 0)
    standing = pl.concat(rows for rows, _ in slices)
    results = pl.scan_parquet(list(parts), glob=False, hive_partitioning=False)
    rows = results.join(standing.lazy(), on=["partition", "n"]).sort("at", "partition", "n")
    return Produced(rows.select(PRODUCTION_COLUMNS), len(standing), sum(n for _, n in slices))
