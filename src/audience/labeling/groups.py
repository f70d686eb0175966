"""Which result table a channel's rows go to: data, not code."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from audience.errors import BadInput, NotFound, Problem
from audience.text.documents import decoded, numbered_rows

NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
EVERYTHING = "all"
"""The group of a run that maps no channels."""

CHANNEL_HEADERS = {"s_id", "channel", "來源"}
GROUP_HEADERS = {"group", "群組"}
TABLE_HEADERS = {"table", "資料表"}


class GroupMap(BaseModel):
    """Channel -> group. A channel that is not here goes to `default`; without one its rows are counted, not labeled.
    Channels are compared exactly, with their case. `tables`: group -> what names its tables, of groups whose own names
    cannot; everywhere else a group is called by that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: dict[str, str] = Field(default_factory=dict)
    default: str | None = None
    tables: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        channels: dict[str, str],
        default: str | None,
        where: str = "groups",
        tables: Mapping[str, str] = MappingProxyType({}),
    ) -> "GroupMap":
        """Every row into one group when nothing is mapped. Refuses names that cannot name a table."""
        if not channels and default is None:
            default = EVERYTHING
        group_map = cls(channels=channels, default=default, tables=dict(tables))
        problems = tuple(Problem(where, reason) for reason in (*name_faults(group_map.names), *group_map._faults()))
        if problems:
            raise BadInput(
                "these group names cannot name tables; say what their tables are to be called, in a column `table` of "
                "the file, or in `tables` over HTTP:",
                problems,
            )
        return group_map

    def _faults(self) -> Iterator[str]:
        groups = dict.fromkeys([*self.channels.values(), *filter(None, [self.default])])
        yield from (f"`tables` names {group[:40]!r}, which is no group" for group in self.tables if group not in groups)
        seen: dict[str, str] = {}
        for group in groups:
            other = seen.setdefault(self._table(group), group)
            if other != group:
                yield f"{other!r} and {group!r} would both be the table {self._table(group)}"

    def _table(self, group: str) -> str:
        return self.tables.get(group, group)

    @property
    def names(self) -> tuple[str, ...]:
        """What names tables."""
        names = dict.fromkeys(self.channels.values())
        groups = names if self.default is None else dict.fromkeys([*names, self.default])
        return tuple(dict.fromkeys(map(self._table, groups)))

    def of(self, channels: pl.Series | None, n_rows: int) -> pl.Series:
        """The group of every row, as its tables are named, null where there is none."""
        default = None if self.default is None else self._table(self.default)
        if channels is None or not self.channels:
            return pl.Series("group", [default], dtype=pl.String).new_from_index(0, n_rows)
        tables = {channel: self._table(group) for channel, group in self.channels.items()}
        return channels.replace_strict(tables, default=default, return_dtype=pl.String).alias("group")


def name_faults(names: tuple[str, ...]) -> list[str]:
    faults = [f"{name!r}: use 1 to 40 of A-Z, a-z, 0-9 and _" for name in names if not NAME.fullmatch(name)]
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            faults.append(f"{name!r} and {other!r} differ only in case, and would be one table on some databases")
    return faults


def load_groups(path: Path, default: str | None = None, encoding: str | None = None) -> GroupMap:
    """From CSV with the columns `s_id`, `group` and, where groups have other names than their tables, `table`; in UTF-8
    unless `encoding` says otherwise."""
    if not path.is_file():
        raise NotFound(f"there is no groups file {path}")
    text, warnings = decoded(path.read_bytes(), path.name, encoding)
    if warnings:
        raise BadInput(f"{warnings[0].partition(';')[0]}: save it as UTF-8, or say --encoding NAME")
    problems: list[Problem] = []
    rows = numbered_rows(text, ",", path.name, problems)
    line, header = next(rows, (1, []))
    titles = [title.strip().lower() for title in header]
    at = [_position(titles, known) for known in (CHANNEL_HEADERS, GROUP_HEADERS, TABLE_HEADERS)]
    if not problems and None in at[:2]:
        hint = "; separate its columns by commas" if len(header) == 1 and ";" in header[0] else ""
        shown = ", ".join(header)
        raise BadInput(f"{path.name}:{line}: the header needs the columns s_id and group; it has: {shown}{hint}")
    channels, tables = _channels(rows, (at[0] or 0, at[1] or 0, at[2]), len(header), path.name, problems)
    if problems:
        problems.sort(key=lambda problem: int(problem.where.rpartition(":")[2]))
        raise BadInput(f"{path.name} was not used:", tuple(problems))
    return GroupMap.checked(channels, default, path.name, tables)


def _position(header: list[str], titles: set[str]) -> int | None:
    return next((i for i, title in enumerate(header) if title in titles), None)


def _channels(
    rows: Iterable[tuple[int, list[str]]],
    at: tuple[int, int, int | None],
    n_columns: int,
    name: str,
    problems: list[Problem],
) -> tuple[dict[str, str], dict[str, str]]:
    """Channel -> group, and group -> table; `at`: their columns. What cannot be mapped goes to `problems`."""
    channels: dict[str, str] = {}
    tables: dict[str, str] = {}
    channel_at, group_at, table_at = at
    for line, row in rows:
        if len(row) <= max(channel_at, group_at):
            problems.append(Problem(f"{name}:{line}", "needs a channel and a group"))
            continue
        if len(row) > n_columns:
            problems.append(Problem(f"{name}:{line}", f"{len(row)} columns where the header has {n_columns}"))
            continue
        channel, group = row[channel_at].strip(), row[group_at].strip()
        if channels.setdefault(channel, group) != group:
            problems.append(Problem(f"{name}:{line}", f"{channel} is in the group {channels[channel]} already"))
        table = row[table_at].strip() if table_at is not None and len(row) > table_at else ""
        if table and tables.setdefault(group, table) != table:
            problems.append(Problem(f"{name}:{line}", f"the table of {group} is {tables[group]} already"))
    return channels, tables
