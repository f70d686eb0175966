"""Which result table a channel's rows go to: data, not code."""

import csv
import io
import re
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from audience.errors import BadInput, NotFound, Problem

NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
EVERYTHING = "all"
"""The group of a run that maps no channels."""

CHANNEL_HEADERS = {"s_id", "channel", "來源"}
GROUP_HEADERS = {"group", "群組"}


class GroupMap(BaseModel):
    """Channel -> group. A channel that is not here goes to `default`; without one its rows are counted, not labeled.
    Channels are compared exactly, with their case."""

    model_config = ConfigDict(frozen=True)

    channels: dict[str, str] = Field(default_factory=dict)
    default: str | None = None

    @classmethod
    def checked(cls, channels: dict[str, str], default: str | None, where: str = "groups") -> "GroupMap":
        """Every row into one group when nothing is mapped. Refuses names that cannot name a table."""
        if not channels and default is None:
            default = EVERYTHING
        group_map = cls(channels=channels, default=default)
        problems = tuple(Problem(where, reason) for reason in name_faults(group_map.names))
        if problems:
            raise BadInput("these group names cannot name tables:", problems)
        return group_map

    @property
    def names(self) -> tuple[str, ...]:
        names = dict.fromkeys(self.channels.values())
        return tuple(names if self.default is None else dict.fromkeys([*names, self.default]))

    def of(self, channels: pl.Series | None, n_rows: int) -> pl.Series:
        """The group of every row, null where there is none."""
        if channels is None or not self.channels:
            return pl.Series("group", [self.default], dtype=pl.String).new_from_index(0, n_rows)
        return channels.replace_strict(self.channels, default=self.default, return_dtype=pl.String).alias("group")


def name_faults(names: tuple[str, ...]) -> list[str]:
    faults = [f"{name!r}: use 1 to 40 of A-Z, a-z, 0-9 and _" for name in names if not NAME.fullmatch(name)]
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            faults.append(f"{name!r} and {other!r} differ only in case, and would be one table on some databases")
    return faults


def load_groups(path: Path, default: str | None = None) -> GroupMap:
    """From CSV with the columns `s_id` and `group`."""
    if not path.is_file():
        raise NotFound(f"there is no groups file {path}")
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not CSV in UTF-8: {error}") from None
    header = [title.strip().lower() for title in rows[0]] if rows else []
    channel_at, group_at = (_position(header, titles) for titles in (CHANNEL_HEADERS, GROUP_HEADERS))
    if channel_at is None or group_at is None:
        raise BadInput(f"{path.name}:1: the header needs the columns s_id and group; it has: {', '.join(header)}")
    return GroupMap.checked(_channels(rows, channel_at, group_at, path.name), default, path.name)


def _position(header: list[str], titles: set[str]) -> int | None:
    return next((i for i, title in enumerate(header) if title in titles), None)


def _channels(rows: list[list[str]], channel_at: int, group_at: int, name: str) -> dict[str, str]:
    channels: dict[str, str] = {}
    problems = []
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) <= max(channel_at, group_at):
            problems.append(Problem(f"{name}:{line}", "needs a channel and a group"))
            continue
        channel, group = row[channel_at].strip(), row[group_at].strip()
        if channels.setdefault(channel, group) != group:
            problems.append(Problem(f"{name}:{line}", f"{channel} is in the group {channels[channel]} already"))
    if problems:
        raise BadInput(f"{name} was not used:", tuple(problems))
    return channels
