"""What every kind of target promises to those who publish: production rows of several runs, merged with what was
published before, swapped in at once. Nothing else knows how a kind does that.

The rows of an index, one for each (subject, panel):

    new         the latest row stands for its pair; inside a conflict group only labels of the latest run that has any
    with old    a new pair that was there keeps its `published_at`; an old pair that is not new stays, unless its
                subject has a new label of the same conflict group
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from audience.errors import Conflict
from audience.tables.base import PRODUCTION_COLUMNS, RESULT_SCHEMA

CONTENT = pa.schema(
    [
        pa.field(name, pa.int64()) if name == "posts" else RESULT_SCHEMA.field(name)
        for name in PRODUCTION_COLUMNS
        if name != "panel"
    ]
)
PUBLISHED_SCHEMA = pa.schema(
    [
        ("subject", pa.large_string()),
        ("panel", pa.large_string()),
        ("published_at", pa.timestamp("us")),
        ("version", pa.int64()),
        *CONTENT,
    ]
)
"""What is published, one row a (subject, panel). `subject` is the author, or the id where a run has no authors;
`published_at` (UTC) when this pair was published first, and has been without a break; `version` brought the row."""

STAGED_SCHEMA = pa.schema(
    [("subject", pa.large_string()), ("panel", pa.large_string()), *CONTENT, ("run", pa.int64()), ("n", pa.int64())]
)
"""New rows. `run` counts the chosen runs, later ones higher; `n` counts all rows of an index, later ones higher."""


@dataclass(frozen=True)
class Publishing:
    """One attempt at a version. `version` is a number that was never used before in this publication, and the same
    for every attempt at it; `fence` is counted up with every attempt. `conflicts` maps a panel to its conflict group.
    `at` (UTC) is the time of what is new. `replace`: what was published before is dropped."""

    fence: int
    version: int
    at: dt.datetime
    conflicts: dict[str, str]
    replace: bool = False


@dataclass(frozen=True)
class Change:
    """How many rows of a panel a version has changed. `added`: new pairs; `changed`: new pairs whose subject had
    another label of the same conflict group; `kept`: pairs that were there and still are; `dropped`: those that are no
    more. Rows now: added + changed + kept; rows before: kept + dropped."""

    index: str
    panel: str
    added: int
    changed: int
    kept: int
    dropped: int


@dataclass(frozen=True)
class PublishedVersions:
    """What is published: `version`, and `previous`, which can be brought back; 0 where there is none. `indexes` are
    those that have ever had rows."""

    version: int = 0
    previous: int = 0
    indexes: tuple[str, ...] = ()

    def followed_by(self, version: int, begun: Iterable[str] = ()) -> "PublishedVersions":
        """Returns what is published after a version of the indexes `begun` was swapped in."""
        return PublishedVersions(version, self.version, tuple(dict.fromkeys([*self.indexes, *begun])))

    def rolled_back(self, version: int) -> "PublishedVersions | None":
        """Returns what is published after this version was brought back; None where it is there already: a second
        attempt must not exchange the two again. Raises Conflict for any version but the former one."""
        if self.version == version:
            return None
        if self.previous != version or not version:
            raise never_published(self.previous)
        return self.followed_by(version)


class Publisher(Protocol):
    """The tables of one publication in its target: of each index what is published, and what was before. The truth of
    which version that is, and who may change it, is here.

    Whoever changes something gives a fence; one that is older than the newest known is refused with Conflict, also in
    the middle of its work. A process may die anywhere: the next attempt begins anew, or finds it done. Readers see a
    whole version, the old one or the new one."""

    def versions(self) -> PublishedVersions:
        """Returns what is published now. Creates nothing."""

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        """Admits this attempt, refuses older ones from now on, and removes what they left. Tables of somebody else, or
        of another publication, with the names of these indexes: Conflict."""

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        """Makes the index's next version, aside, from `rows` (of STAGED_SCHEMA, in the order of `n`) and what is
        published; the changes by panel. Bounded in memory."""

    def swap(self, publishing: Publishing) -> None:
        """Makes the next version of every index that was begun the present one, and the present one the former, all at
        once. Twice: the same."""

    def discard(self, fence: int) -> None:
        """Removes what is not published, and refuses older attempts."""

    def roll_back(self, fence: int, version: int) -> None:
        """Exchanges the former version, which must be this one, and the present one. Twice: the same."""

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        """Yields the rows of one index, of one version from first to last, in no particular order, bounded in
        memory."""

    def remove(self, fence: int) -> None:
        """Drops all tables of the publication, and refuses everybody for good."""

    def where(self, index: str) -> str:
        """Returns a name a person can look up."""


def overtaken() -> Conflict:
    return Conflict("the publication was taken over or deleted meanwhile; nothing more is written")


def never_published(previous: int) -> Conflict:
    known = f"only version {previous} can be brought back" if previous else "there is none before the present one"
    return Conflict(f"that version cannot be brought back: {known}")
