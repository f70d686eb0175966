"""What publishers in databases share: names of tables, the row of `audience_publication`, and what follows from it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from audience.errors import Conflict
from audience.tables.publications import PublishedVersions, overtaken

PUBLICATIONS = "audience_publication"
COLUMNS = ("publication", "name", "fence", "state", "version", "former", "indexes", "begun")
"""Of `audience_publication`; MariaDB and MySQL keep the versions in tables of their own."""
FIRST = f"INSERT INTO {PUBLICATIONS} VALUES (%s, %s, 0, 'open', 0, 0, '[]', '[]') ON CONFLICT DO NOTHING"
ROWS = f"SELECT {', '.join(COLUMNS)} FROM {PUBLICATIONS}"
TURN = f"UPDATE {PUBLICATIONS} SET version = %s, former = %s, indexes = %s, begun = '[]' WHERE publication = %s"
AT_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
Moves = Sequence[tuple[str, str]]
"""Tables that are renamed, one after another: (name, new name)."""


def channel_of(row: str) -> str:
    """Returns SQL of the channel that `subject` is an author of; empty where it is a row. Authors of two channels may
    have one `subject`."""
    return f"CASE WHEN {row}.source_author IS NULL THEN '' ELSE coalesce({row}.field_content, '') END"


def same(one: str, other: str) -> str:
    """Returns SQL that holds for rows of one subject."""
    return f"{one}.subject = {other}.subject AND {channel_of(one)} = {channel_of(other)}"


@dataclass(frozen=True)
class Row:
    """A row of `audience_publication`. `state`: open or deleted; `indexes`: those that are or were published; `begun`:
    those with tables aside."""

    publication: str
    name: str
    fence: int
    state: str
    version: int = 0
    former: int = 0
    indexes: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()

    @classmethod
    def read(cls, found: Sequence[Any]) -> "Row":
        """Takes the values of `COLUMNS`."""
        return cls(*found[:6], *map(from_json, found[6:]))

    @property
    def versions(self) -> PublishedVersions:
        """Returns what is published; nothing of a publication that is deleted."""
        is_open = self.state == "open"
        return PublishedVersions(self.version, self.former, self.indexes) if is_open else PublishedVersions()

    def check_admits(self, fence: int, state: str = "open") -> None:
        """Refuses an attempt that is older than the newest known, and any at what is deleted; `state`: it may be in
        this one already."""
        if self.fence > fence or self.state not in ("open", state):
            raise overtaken()

    def check_newest(self, fence: int) -> None:
        """Refuses every attempt but the newest."""
        if (self.fence, self.state) != (fence, "open"):
            raise overtaken()

    def refuse_taken(self, others: Iterable["Row"], indexes: Sequence[str]) -> None:
        """Refuses indexes of other publications; names that differ in case only are one table on some systems."""
        for other in others:
            theirs = {index.lower() for index in (*other.indexes, *other.begun)} if other.state == "open" else ()
            if twice := [index for index in indexes if index.lower() in theirs]:
                raise taken(twice[0], other.name)


def present(index: str) -> str:
    """Returns the name of what is published."""
    return f"published_{index}"


def previous(index: str) -> str:
    """Returns the name of what was published before."""
    return f"published_{index}__former"


def following(index: str) -> str:
    """Returns the name of what is being made."""
    return f"published_{index}__next"


def incoming(index: str) -> str:
    """Returns the name of the new rows, before they are merged."""
    return f"published_{index}__new"


def swapped_in(index: str, made: str) -> Moves:
    """Returns how a new version takes its place; nothing has the name of the previous one any more."""
    return ((present(index), previous(index)), (made, present(index)))


def exchanged(index: str, aside: str) -> Moves:
    """Returns how the present version and the previous one change places."""
    return ((present(index), aside), (previous(index), present(index)), (aside, previous(index)))


def as_json(names: Iterable[str]) -> str:
    return json.dumps(list(names))


def from_json(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def taken(index: str, publication: str) -> Conflict:
    return Conflict(f"the index {index} is of the publication {publication!r} here: choose another name or target")
