"""The numbers that are counted while rows flow, partition by partition, so that they add up whatever happens to
workers."""

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from audience.labeling.distinct import DistinctHashes, count_distinct
from audience.labeling.sampling import Sampler
from audience.tables.base import Selection, Target
from audience.tables.times import implausible

BAD_ROWS_LISTED = 100
KINDS_COUNTED = 200
OTHERS = "others"


def count_into(counter: Counter[str], values: pl.Series) -> None:
    """Adds up equal values; past `KINDS_COUNTED` different ones the rest count as others."""
    for value, n in values.value_counts(sort=True).iter_rows():
        counter[value if value in counter or len(counter) < KINDS_COUNTED else OTHERS] += n


@dataclass
class PartitionStatistics:
    """One partition's numbers. `received`, `results` and `authorless` are by group; `set_aside` by kind of reason;
    `model_errors` counts rows that a model failed on; `bad_rows` lists the first (id, reason) of those set aside;
    `span` has the first and the last time in the range, in microseconds since 1970: empty without any."""

    seed: int = 0
    read: int = 0
    outside: int = 0
    model_errors: int = 0
    seconds: float = 0.0
    received: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    authorless: Counter[str] = field(default_factory=Counter)
    bad_rows: list[tuple[str | None, str]] = field(default_factory=list)
    span: list[int] = field(default_factory=list)
    sampler: Sampler = field(init=False)
    authors: DistinctHashes = field(default_factory=DistinctHashes)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.seed)

    def timed(self, batches: Iterable[pa.RecordBatch], selection: Selection) -> Iterator[pa.RecordBatch]:
        """Yields batches, and widens the span by their times."""
        for batch in batches:
            if "post_time" in batch.schema.names:
                times = batch["post_time"]
                for bound, within in ((selection.start, pc.greater_equal), (selection.end, pc.less)):
                    times = times if bound is None else times.filter(within(times, pa.scalar(bound, times.type)))
                found = pc.min_max(times.cast(pa.int64())).as_py()
                self.span = widened(self.span, [us for us in found.values() if us is not None])
            yield batch

    def put_aside(self, rows: pl.DataFrame) -> None:
        """Counts rows that are set aside; columns id and reason. A reason is a kind, or `kind: detail`."""
        if len(rows):
            count_into(self.set_aside, rows["reason"].str.split(": ").list.first())
            self.bad_rows += rows.select("id", "reason").head(BAD_ROWS_LISTED - len(self.bad_rows)).rows()

    def to_json(self) -> str:
        tickets = [[group, panel, found] for (group, panel), found in sorted(self.sampler.tickets.items())]
        numbers = {**self.counts(), "bad_rows": self.bad_rows}
        return json.dumps({**numbers, "seed": self.seed, "tickets": tickets}, ensure_ascii=False)

    def counts(self) -> dict[str, Any]:
        """Returns the numbers that add up, and the span."""
        return {name: getattr(self, name) for name in (*SUMS, "span")}

    def packed_authors(self) -> bytes:
        return self.authors.packed()

    @classmethod
    def from_json(cls, text: str) -> "PartitionStatistics":
        numbers: dict[str, Any] = renamed(json.loads(text))
        statistics = cls(seed=numbers["seed"])
        for name in SUMS:
            value = numbers.get(name, 0)  # a mark of an earlier version may know fewer
            setattr(statistics, name, Counter(value) if isinstance(value, dict) else value)
        statistics.span = numbers.get("span", [])
        statistics.bad_rows = [(row_id, reason) for row_id, reason in numbers["bad_rows"]]
        for group, panel, found in numbers["tickets"]:
            statistics.sampler.tickets[(group, panel)] = [tuple(ticket) for ticket in found]
        return statistics


FORMER_NAMES = {"undigested": "model_errors"}
"""Names in marks of earlier versions, which stay in targets as they were written."""


def renamed(numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a mark under their present names."""
    return {FORMER_NAMES.get(name, name): value for name, value in numbers.items()}


SUMS = ("read", "outside", "model_errors", "seconds", "received", "unmapped", "set_aside", "results", "authorless")


@dataclass
class TaskStatistics:
    """The sum of a task's partitions. `authors` is by group, exact."""

    total: PartitionStatistics
    authors: dict[str, int]
    partitions: frozenset[int]

    @classmethod
    def of(cls, target: Target, task: str, seed: int) -> "TaskStatistics":
        """Sums the marks in the target: what is written is what counts."""
        total = PartitionStatistics(seed=seed)
        partitions = set()
        for mark in target.marks(task):
            part = PartitionStatistics.from_json(mark.statistics)
            for name in SUMS:
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.span = widened(total.span, part.span)
            total.bad_rows += part.bad_rows[: BAD_ROWS_LISTED - len(total.bad_rows)]
            total.sampler.merge([part.sampler])
            partitions.add(mark.partition)
        authors = count_distinct(lambda: (mark.authors for mark in target.marks(task)))
        return cls(total, authors, frozenset(partitions))


def widened(span: Sequence[int], other: Sequence[int]) -> list[int]:
    """Returns the span of both."""
    times = (*span, *other)
    return [min(times), max(times)] if times else []


def _times(span: Sequence[int]) -> dict[str, Any]:
    """Returns the first and the last time of rows, and what is odd about them."""
    if not span:
        return {"times": None, "warnings": []}
    first, last = (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us) for us in span)
    return {"times": [first.isoformat(), last.isoformat()], "warnings": list(implausible((first, last)))}


def sampled(target: Target, task: str, seed: int) -> Sampler:
    """Returns the sample of a task's finished partitions, from their marks."""
    parts = (PartitionStatistics.from_json(mark.statistics).sampler for mark in target.marks(task, authors=False))
    return Sampler(seed).merge(parts)


def rate_of_label(labelled: int, everyone: int) -> float | None:
    """Returns labelled authors of all authors, in per cent; null without authors."""
    return round(100 * labelled / everyone, 2) if everyone else None


def task_report(
    statistics: TaskStatistics, planned: int, set_aside: dict[str, int], groups: Sequence[str], *, by_author: bool
) -> dict[str, Any]:
    """Returns a task's numbers as they are shown and stored; `planned` rows, `set_aside` those that no partition could
    hold. `missing`: planned minus read, not zero when the source changed between planning and reading; `received` is
    before filters; `authors` are distinct, over all rows read."""
    total = statistics.total
    return {
        "planned": planned,
        "read": total.read,
        "missing": planned - total.read,
        "outside": total.outside,
        "received": total.received.total(),
        "set_aside": dict(total.set_aside + Counter(set_aside)),
        "bad_rows": total.bad_rows,
        "unmapped": dict(total.unmapped.most_common()),
        **_times(total.span),
        "by_author": by_author,
        "groups": {
            group: {
                "received": total.received[group],
                "results": total.results[group],
                "authors": statistics.authors.get(group, 0) if by_author else None,
                "authorless": total.authorless[group] if by_author else None,
            }
            for group in groups
            if total.received[group]
        },
    }


def so_far(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns the numbers of a task's finished partitions while it is at work. Distinct authors do not add up; they
    come with the report."""
    total = PartitionStatistics()
    for part in map(renamed, counts):
        for name in SUMS:
            value = part.get(name, 0)
            setattr(total, name, getattr(total, name) + (Counter(value) if isinstance(value, dict) else value))
        total.span = widened(total.span, part.get("span", ()))
    return {
        "read": total.read,
        "outside": total.outside,
        "received": total.received.total(),
        "set_aside": dict(total.set_aside),
        "unmapped": dict(total.unmapped.most_common()),
        **_times(total.span),
        "groups": {g: {"received": n, "results": total.results[g]} for g, n in total.received.items()},
    }
