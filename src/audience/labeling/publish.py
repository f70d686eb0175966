"""Prepares production rows of chosen runs for publishing, by index, whatever kind of target they go to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from audience.errors import BadInput, Conflict, Problem
from audience.labeling.groups import NAME, name_faults
from audience.tables.base import Target
from audience.tables.publications import STAGED_SCHEMA, Change, Publisher, Publishing

Progress = Callable[[int, int], None]
"""Called with the number of further rows, and the number of all."""


class PublicationSpec(BaseModel):
    """Where a publication is kept, and how: `indexes` names groups of groups, and a group in none is an index of its
    own; `conflicts` names groups of panels, null: those of the runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    target_secret: str | None = Field(default=None, description="password: env:NAME, or a sealed value")
    target_within: tuple[str, ...] = Field(default=(), description="folders that the target must lie in")
    indexes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    conflicts: dict[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Part:
    """Production rows to publish, of one task and group. `run` numbers the runs; the one made last has the highest
    number."""

    run: int
    run_id: str
    task: str
    group: str
    target: Target
    by_author: bool
    n_rows: int


def check_indexes(indexes: dict[str, tuple[str, ...]]) -> None:
    """Refuses names that cannot name tables, and a group in two indexes."""
    faults = [Problem("indexes", reason) for reason in name_faults(tuple(indexes))]
    faults += [Problem("indexes", f"{name!r} holds two underscores in a row") for name in indexes if "__" in name]
    seen: dict[str, str] = {}
    for index, groups in indexes.items():
        faults += [Problem(f"indexes.{index}", "names no group")] if not groups else []
        for group in groups:
            if not NAME.fullmatch(group):
                faults.append(Problem(f"indexes.{index}", f"{group!r} is no name of a group"))
            if seen.setdefault(group, index) != index:
                faults.append(Problem(f"indexes.{index}", f"{group} is in the index {seen[group]} already"))
    if faults:
        raise BadInput("these indexes cannot be published:", tuple(faults))


def by_index(
    parts: Iterable[Part], indexes: dict[str, tuple[str, ...]], known: Iterable[str] = ()
) -> dict[str, list[Part]]:
    """Returns index -> the parts that go there; also the `known` indexes, to which nothing may go."""
    index_of = {group: index for index, groups in indexes.items() for group in groups}
    found: dict[str, list[Part]] = {index: [] for index in (*known, *indexes)}
    for part in parts:
        index = index_of.get(part.group, part.group)
        if index == part.group and index in indexes and part.group not in index_of:
            raise BadInput(
                f"there is an index {index!r} and a group of that name, which is not in it: name one otherwise"
            )
        found.setdefault(index, []).append(part)
    check_indexes({index: indexes.get(index, (index,)) for index in found})
    return found


def merged(
    publisher: Publisher, publishing: Publishing, parts: dict[str, list[Part]], progress: Progress | None = None
) -> list[Change]:
    """Makes the next version of every index aside; returns what it changes."""
    total = sum(part.n_rows for each in parts.values() for part in each)
    changes: list[Change] = []
    for index, each in parts.items():
        rows = _counted(staged(each), total, progress)
        changes += publisher.merge(publishing, index, rows)
    return changes


def staged(parts: Sequence[Part]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of one index, in the order of runs. Raises Conflict when a part does not have the rows that its
    report says: its run is being deleted, or its production made anew."""
    n = 0
    for part in sorted(parts, key=lambda part: part.run):
        n_rows = 0
        for batch in part.target.production(part.task, part.group):
            n_rows += len(batch)
            yield _staged(batch, part, n)
            n += len(batch)
        if n_rows != part.n_rows:
            raise Conflict(
                f"run {part.run_id[:12]} has {n_rows:,} production rows of the group {part.group}, "
                f"not {part.n_rows:,}: it is changing, or its target is another; make its production once more, "
                "or leave it out"
            )


def _staged(batch: pa.RecordBatch, part: Part, n: int) -> pa.RecordBatch:
    """Returns a batch without the rows whose subject is null or blank: they say nothing of anybody."""
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    subject = pl.col("source_author").str.strip_chars() if part.by_author else pl.col("id")
    numbered = frame.with_columns(subject=subject, run=pl.lit(part.run, pl.Int64), n=n + pl.int_range(pl.len()))
    named = numbered.filter(pl.col("subject").is_not_null() & (pl.col("subject") != "") & pl.col("panel").is_not_null())
    table = named.select(STAGED_SCHEMA.names).to_arrow().cast(STAGED_SCHEMA).combine_chunks()
    return table.to_batches()[0] if len(table) else STAGED_SCHEMA.empty_table().to_batches()[0]


def _counted(batches: Iterable[pa.RecordBatch], total: int, progress: Progress | None) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        if progress:
            progress(len(batch), total)
