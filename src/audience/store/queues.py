"""Queues and lanes: each operation is in a queue, each job in a lane, and each worker says which it serves."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from audience.errors import BadInput
from audience.store import schema

DEFAULT = "default"
WORKS = ("label", "manage")
"""The lanes of every queue. `label`: partitions of runs; `manage`: everything else."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
LONGEST = 400


@dataclass(frozen=True, order=True)
class Lane:
    """One lane of one queue. Lanes keep kinds of work out of each other's way."""

    queue: str
    work: str

    def __str__(self) -> str:
        return f"{self.queue}.{self.work}"


def check_queue(name: str) -> str:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a queue: use up to 40 letters, digits, _ and -")
    return name


def parse_lanes(names: Iterable[str]) -> tuple[Lane, ...]:
    """Returns the lanes that these names mean: `NAME` (both lanes), `NAME.label` or `NAME.manage`."""
    found: set[Lane] = set()
    for name in names:
        queue, dot, work = name.partition(".")
        if dot and work not in WORKS:
            raise BadInput(f"{name!r} names no queue to serve: write {queue}, {queue}.label or {queue}.manage")
        found |= {Lane(check_queue(queue), each) for each in ([work] if dot else WORKS)}
    if len(text_of(found)) > LONGEST:
        raise BadInput(f"{len(found)} queues are too many for one worker: {LONGEST} characters in all")
    return tuple(sorted(found))


def text_of(lanes: Iterable[Lane]) -> str:
    """Returns lanes as text that `parse_lanes` reads back; a queue with both lanes is its name alone."""
    by_queue: dict[str, list[str]] = {}
    for lane in sorted(lanes):
        by_queue.setdefault(lane.queue, []).append(str(lane))
    return ",".join(queue if len(each) == len(WORKS) else each[0] for queue, each in by_queue.items())


def within(lanes: Sequence[Lane]) -> sa.ColumnElement[bool]:
    """Selects jobs, joined with their operations, that belong to one of these lanes."""
    operation, job = schema.operation.c, schema.job.c
    return sa.or_(sa.false(), *((operation.queue == lane.queue) & (job.lane == lane.work) for lane in lanes))
