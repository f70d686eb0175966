"""Production of a folder target in polars; the same answer as the SQL of the databases gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA, ConflictRules

NEWEST = ("create_time", "id", "partition", "n")


@dataclass(frozen=True)
class Settled:
    """Production rows, not read yet, by time, subject and panel; and how many rows and subjects there will be."""

    frame: pl.LazyFrame
    n_rows: int
    n_subjects: int


def resolved(parts: Sequence[Path], group: str, rules: ConflictRules) -> Settled:
    """Finds in two passes which rows stand for their pairs, by narrow columns only, and then those rows: whole rows of
    a task do not fit into memory."""
    subject = "source_author" if rules.by_author else "id"
    results = _scan(parts).filter(pl.col("group") == group)
    keys = list(dict.fromkeys([subject, "panel", *NEWEST]))
    narrow = results.select(keys).filter(pl.col(subject).is_not_null(), pl.col("panel").is_not_null())
    pairs = [subject, "panel"]
    newest = narrow.sort(NEWEST, descending=True, nulls_last=True).unique(pairs, keep="first", maintain_order=True)
    kept = newest.join(_kept(narrow, subject, rules), on=pairs)
    winners = kept.select(subject, "partition", "n", "posts").collect()
    rows = results.join(winners.lazy().drop(subject), on=["partition", "n"]).sort("create_time", *pairs)
    return Settled(rows.select(PRODUCTION_COLUMNS), len(winners), winners[subject].n_unique())


def _scan(parts: Sequence[Path]) -> pl.LazyFrame:
    if parts:
        return pl.scan_parquet(list(parts), glob=False, hive_partitioning=False)
    nothing = pl.from_arrow(RESULT_SCHEMA.empty_table())
    assert isinstance(nothing, pl.DataFrame)
    return nothing.lazy()


def _kept(rows: pl.LazyFrame, subject: str, rules: ConflictRules) -> pl.LazyFrame:
    """Returns each (subject, panel) that stays, with its count of distinct rows; inside a conflict group only the
    strict majority."""
    posts = pl.col("id").drop_nulls().n_unique().cast(pl.Int64).alias("posts")
    if subject == "id":
        posts = pl.lit(1, pl.Int64).alias("posts")
    counted = rows.group_by(subject, "panel").agg(posts)
    if not rules.conflicts:
        return counted
    conflict = pl.col("panel").replace_strict(rules.conflicts, default=None, return_dtype=pl.String)
    judged = counted.with_columns(conflict=conflict).with_columns(
        all_posts=pl.col("posts").sum().over(subject, "conflict")
    )
    majority = 2 * pl.col("posts") > pl.col("all_posts")
    return judged.filter(pl.col("conflict").is_null() | majority).select(subject, "panel", "posts")
