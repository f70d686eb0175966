"""Repeatable samples: the results with the smallest hash of (seed, id, model), per group and panel. How the table was
cut does not change a sample, and new rows only add to it."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from audience.labeling.distinct import hash_texts
from audience.tables.base import Target

SAMPLED = 20
"""Results kept per group and panel."""

Ticket = tuple[int, int, int]
"""(hash, partition, n): where a sampled result lies."""


@dataclass
class Sampler:
    """Keeps the smallest tickets of each (group, panel)."""

    seed: int
    size: int = SAMPLED
    tickets: dict[tuple[str, str], list[Ticket]] = field(default_factory=dict)

    def add(self, results: pl.DataFrame) -> None:
        """Adds results; columns id, model, group, panel, partition and n."""
        named = results.select(
            "group",
            "panel",
            "partition",
            "n",
            pl.concat_str(pl.lit(str(self.seed)), "id", "model", separator="\x1f").alias("key"),
        )
        hashed = named.with_columns(hash=pl.Series(hash_texts(named["key"])))
        smallest = hashed.sort("hash", "partition", "n").group_by("group", "panel").head(self.size)
        for group, panel, partition, n, _, ticket in smallest.iter_rows():
            self.tickets.setdefault((group, panel), []).append((ticket, partition, n))
        self._cut()

    def merge(self, others: Iterable["Sampler"]) -> "Sampler":
        for other in others:
            for key, tickets in other.tickets.items():
                self.tickets.setdefault(key, []).extend(tickets)
            self._cut()
        return self

    def _cut(self) -> None:
        self.tickets = {key: heapq.nsmallest(self.size, tickets) for key, tickets in self.tickets.items()}


def scan(target: Target, task: str, seed: int) -> Sampler:
    """Draws the sample of another seed than the run's: reads the keys of all results."""
    sampler = Sampler(seed)
    for batch in target.results(task, columns=("id", "model", "panel", "partition", "n")):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        sampler.add(frame)
    return sampler
