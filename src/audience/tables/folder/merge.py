"""The next version of an index in a folder: what is new and what is published, merged by polars."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from audience.tables.files.parquet import opened, rows_per_batch
from audience.tables.publications import PUBLISHED_SCHEMA, Change, Publishing

SUBJECT = ["subject", "channel"]
"""`channel` is computed: that of an author; empty where the subject is a row. Authors of two channels may have one
`subject`."""
CHANNEL = pl.when(pl.col("source_author").is_not_null()).then(pl.col("field_content")).fill_null("").alias("channel")
PAIR = [*SUBJECT, "panel"]


@dataclass(frozen=True)
class Merge:
    """New rows and old ones. Keys alone decide which stay, and are all that is in memory; the rows pass by in batches.
    Whatever has the column `row` says by it where a row is in its file."""

    old_file: Path
    new_file: Path
    publishing: Publishing

    def write(self, following: Path) -> list[Change]:
        """Writes the next version; what changes, without the name of the index."""
        before = self._keys(self.old_file).select("row", *PAIR, "conflict").collect()
        old = before.clear() if self.publishing.replace else before
        winners = self._winners()
        staying = _unopposed(old, winners)
        with pq.ParquetWriter(following, PUBLISHED_SCHEMA, compression="zstd") as writer:
            for batch in self._new_rows(winners, old):
                writer.write_batch(batch)
            for frame in _picked(self.old_file, staying.select("row")):
                writer.write_batch(_published(frame))
        return _changes(before, old, pl.concat([winners, staying], how="diagonal"))

    def _keys(self, path: Path) -> pl.LazyFrame:
        """Returns the keys of a file with the conflict group of the panel, null where it is in none."""
        if not path.exists():
            nothing = pl.from_arrow(PUBLISHED_SCHEMA.empty_table())
            assert isinstance(nothing, pl.DataFrame)
            return nothing.with_row_index("row").with_columns(CHANNEL, conflict=pl.lit(None, pl.String)).lazy()
        conflict, groups = pl.lit(None, pl.String), self.publishing.conflicts
        if groups:
            conflict = pl.col("panel").replace_strict(groups, default=None, return_dtype=pl.String)
        return _scan(path).with_columns(CHANNEL, conflict=conflict)

    def _winners(self) -> pl.DataFrame:
        """Returns the new rows that count, in their order."""
        newest = pl.col("n") == pl.col("n").max().over(PAIR)
        last = pl.col("run") == pl.col("run").max().over(*SUBJECT, "conflict")
        keys = self._keys(self.new_file).select("row", *PAIR, "conflict", "run", "n")
        winners = keys.filter(newest & (pl.col("conflict").is_null() | last))
        return winners.select("row", *PAIR, "conflict").sort("row").collect()

    def _new_rows(self, winners: pl.DataFrame, old: pl.DataFrame) -> Iterator[pa.RecordBatch]:
        p = self.publishing
        kept = winners.lazy().select("row", *PAIR)
        if len(old):
            kept = kept.join(
                _scan(self.old_file).with_columns(CHANNEL).select(*PAIR, "published_at"), on=PAIR, how="left"
            )
        else:
            kept = kept.with_columns(published_at=pl.lit(None, pl.Datetime("us")))
        times = kept.select("row", pl.col("published_at").fill_null(pl.lit(p.at, pl.Datetime("us")))).sort("row")
        for frame in _picked(self.new_file, times.collect()):
            yield _published(frame.with_columns(version=pl.lit(p.version, pl.Int64)))


def _unopposed(old: pl.DataFrame, winners: pl.DataFrame) -> pl.DataFrame:
    """Returns the old rows that no new one stands against, in their order."""
    contested = winners.filter(pl.col("conflict").is_not_null()).select(*SUBJECT, "conflict").unique()
    staying = old.join(winners.select(PAIR), on=PAIR, how="anti")
    return staying.join(contested, on=[*SUBJECT, "conflict"], how="anti").sort("row")


def _changes(before: pl.DataFrame, old: pl.DataFrame, after: pl.DataFrame) -> list[Change]:
    """Returns how many rows of each panel have changed. `old`: what of `before` may be kept."""
    fresh = after.join(old, on=PAIR, how="anti")
    contested = old.filter(pl.col("conflict").is_not_null()).select(*SUBJECT, "conflict").unique()
    parts = {
        "added": fresh.join(contested, on=[*SUBJECT, "conflict"], how="anti"),
        "changed": fresh.join(contested, on=[*SUBJECT, "conflict"], how="semi"),
        "kept": after.join(old, on=PAIR, how="semi"),
        "dropped": before if len(old) < len(before) else before.join(after, on=PAIR, how="anti"),
    }
    fates = pl.concat([part.select("panel", fate=pl.lit(fate)) for fate, part in parts.items()])
    counts = [(pl.col("fate") == fate).sum().cast(pl.Int64) for fate in parts]
    counted = fates.group_by("panel").agg(**dict(zip(parts, counts, strict=True))).sort("panel")
    return [Change("", **row) for row in counted.iter_rows(named=True)]


def _picked(path: Path, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yields the rows of a file that `rows`, sorted, names, with its other columns, batch by batch."""
    if not len(rows):
        return
    start = 0
    with opened(path) as file:
        size = rows_per_batch(file.metadata, range(file.num_row_groups), file.schema_arrow.names)
        for batch in file.iter_batches(size):
            first, end = (int(rows["row"].search_sorted(place)) for place in (start, start + len(batch)))
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            chosen = rows[first:end]
            yield frame[(chosen["row"] - start).cast(pl.Int64)].with_columns(chosen.drop("row"))
            start += len(batch)


def _published(frame: pl.DataFrame) -> pa.RecordBatch:
    table = frame.select(PUBLISHED_SCHEMA.names).to_arrow().cast(PUBLISHED_SCHEMA).combine_chunks()
    return next(iter(table.to_batches()), pa.RecordBatch.from_pylist([], PUBLISHED_SCHEMA))


def _scan(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name="row")
