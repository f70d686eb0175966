"""Production, whatever kind of target makes it: which result rows stand for their pairs of subject and label.

A subject is an author of a channel, or a row where a source has no authors. Its rows pass through here by their narrow
columns alone, in slices of bounded size; a target then copies whole rows by (partition, n)."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import polars as pl
import pyarrow as pa

from audience.errors import Transient
from audience.tables.base import ConflictRules

NARROW = ("source_author", "field_content", "panel", "id", "create_time", "partition", "n")
"""What decides. `field_content` is the channel: the author `amy` of `car_talk` and `talk_amy` of `car` have one
`source_author`, and are two."""
NEWEST = ("create_time", "id", "partition", "n")
"""Of two rows of one pair the one that is later by these stands; texts by code point."""
IN_MEMORY_BYTES = 48 * 2**20
N_SLICES = 128
TIMELESS = -(2**63)
"""The `at` of a row without a time: before all others, in every database."""


def subject_of(rules: ConflictRules) -> list[str]:
    """Returns the columns that tell who or what a label describes."""
    return ["source_author", "field_content"] if rules.by_author else ["id"]


def standing_rows(batches: Iterable[pa.RecordBatch], rules: ConflictRules) -> Iterator[tuple[pl.DataFrame, int]]:
    """Yields, slice by slice, the rows that stand for their pairs, as `partition`, `n`, `posts` (distinct rows that
    carry the label) and `at` (microseconds since 1970); with the number of subjects, which no other slice has."""
    with contextlib.closing(Slices(subject_of(rules)[0])) as slices:
        for batch in batches:
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            slices.add(frame.select(NARROW).drop_nulls([subject_of(rules)[0], "panel"]))
        for rows in slices:
            standing = _resolved(rows, rules)
            at = pl.col("create_time").cast(pl.Int64).fill_null(TIMELESS)
            yield standing.select("partition", "n", "posts", at=at), standing.select(subject_of(rules)).n_unique()


def _resolved(rows: pl.DataFrame, rules: ConflictRules) -> pl.DataFrame:
    pair = [*subject_of(rules), "panel"]
    newest = rows.sort(NEWEST, descending=True, nulls_last=True).unique(pair, keep="first", maintain_order=True)
    return newest.join(_kept(rows, pair, rules), on=pair, nulls_equal=True)


def _kept(rows: pl.DataFrame, pair: Sequence[str], rules: ConflictRules) -> pl.DataFrame:
    """Returns each pair that stays, with its `posts`; inside a conflict group only the strict majority."""
    posts = pl.col("id").drop_nulls().n_unique().cast(pl.Int64) if rules.by_author else pl.lit(1, pl.Int64)
    counted = rows.group_by(pair).agg(posts=posts)
    if not rules.conflicts:
        return counted
    conflict = pl.col("panel").replace_strict(rules.conflicts, default=None, return_dtype=pl.String)
    all_posts = pl.col("posts").sum().over(*pair[:-1], "conflict")
    judged = counted.with_columns(conflict=conflict).with_columns(all_posts=all_posts)
    majority = 2 * pl.col("posts") > pl.col("all_posts")
    return judged.filter(pl.col("conflict").is_null() | majority).select(*pair, "posts")


class Slices:
    """Gathers rows and hands them out in slices, all rows with one value of `column` in the same. What does not fit
    into `IN_MEMORY_BYTES` goes to a file without a name: the system takes it back when this process dies, too."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._waiting: list[pl.DataFrame] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(N_SLICES)]

    def add(self, rows: pl.DataFrame) -> None:
        self._waiting.append(rows)
        self._size += int(rows.estimated_size())
        if self._size > IN_MEMORY_BYTES:
            self._put_away()

    def _put_away(self) -> None:
        """Writes all rows in memory to the file, a block a slice."""
        if not self._waiting:
            return
        number = (pl.col(self.column).hash(0) % N_SLICES).alias("slice")
        rows = pl.concat(self._waiting).with_columns(number)
        self._waiting, self._size = [], 0
        parts = rows.partition_by("slice", as_dict=True, include_key=False)
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
            for (i,), part in parts.items():
                block = io.BytesIO()
                part.write_ipc(block, compression="lz4")
                self._places[int(i)].append((self._file.tell(), len(block.getbuffer())))
                self._file.write(block.getbuffer())
            self._file.flush()
        except OSError as error:
            where = tempfile.gettempdir()
            raise Transient(f"{where} cannot be written ({error.strerror}): free some space and try again") from error

    def __iter__(self) -> Iterator[pl.DataFrame]:
        if self._file is None:
            yield from [pl.concat(self._waiting)] if self._waiting else []
            return
        self._put_away()
        for places in self._places:
            if places:
                yield pl.concat(self._block(self._file, *place) for place in places)

    @staticmethod
    def _block(file: IO[bytes], start: int, size: int) -> pl.DataFrame:
        return pl.read_ipc(os.pread(file.fileno(), size, start))

    def close(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # of what is buffered still; it is not wanted any more
                self._file.close()
