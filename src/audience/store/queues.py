"""Queues: each run is in one, and each worker says which it serves."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from audience.errors import BadInput
from audience.store import schema

DEFAULT = "default"
WORKS = ("label", "manage")
"""The partitions of a run; everything else: plan, report, produce, abort, delete."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
LONGEST = 400


@dataclass(frozen=True, order=True)
class Share:
    """One kind of work of one queue."""

    queue: str
    work: str

    def __str__(self) -> str:
        return f"{self.queue}.{self.work}"


def share_of(queue: str, kind: str) -> Share:
    """Where a job of this kind belongs."""
    return Share(queue, "label" if kind == "partition" else "manage")


def check_queue(name: str) -> str:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a queue: use up to 40 letters, digits, _ and -")
    return name


def shares(names: Iterable[str]) -> tuple[Share, ...]:
    """What is served by one that was told `NAME` (both kinds of work), `NAME.label` or `NAME.manage`."""
    found: set[Share] = set()
    for name in names:
        queue, dot, work = name.partition(".")
        if dot and work not in WORKS:
            raise BadInput(f"{name!r} names no queue to serve: write {queue}, {queue}.label or {queue}.manage")
        found |= {Share(check_queue(queue), each) for each in ([work] if dot else WORKS)}
    if len(text_of(found)) > LONGEST:
        raise BadInput(f"{len(found)} queues are too many for one worker: {LONGEST} characters in all")
    return tuple(sorted(found))


def text_of(served: Iterable[Share]) -> str:
    """Short: a queue of which everything is served is its name alone; `shares` reads it back."""
    by_queue: dict[str, list[str]] = {}
    for share in sorted(served):
        by_queue.setdefault(share.queue, []).append(str(share))
    return ",".join(queue if len(each) == len(WORKS) else each[0] for queue, each in by_queue.items())


def within(served: Sequence[Share]) -> sa.ColumnElement[bool]:
    """Of a job joined with its run: whether it belongs to what is served."""
    labels = schema.job.c.kind == "partition"
    parts = [(schema.run.c.queue == s.queue) & (labels if s.work == "label" else ~labels) for s in served]
    return sa.or_(sa.false(), *parts)
