"""Publications in a folder of Parquet files, merged in polars; the same rows as the SQL of the databases gives.

    published/<name>/publication.json                        which version is published, and which was before
    published/<name>/version-<number>/published_<index>.parquet
    published/<name>/.writing-<fence>/                       the next version, of the newest attempt; see folder_fence

The folder of an attempt is renamed to its version when it is whole, which no older attempt can do; then the new
`publication.json` is renamed into place. Where a process died in between, the next attempt finds the version there.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from audience.errors import Conflict
from audience.tables.files.parquet import opened, rows_per_batch
from audience.tables.folder.fence import present_fence, raise_fence, removed, writing_folder
from audience.tables.folder.parquet import batches_of, mapped_errors, temporary_name, to_disk
from audience.tables.publications import (
    PUBLISHED_SCHEMA,
    STAGED_SCHEMA,
    Change,
    PublishedVersions,
    Publishing,
    never_published,
    overtaken,
)

PAIR = ["subject", "panel"]
VERSION = re.compile(r"version-(\d{6,})")


@dataclass(frozen=True)
class Pointer:
    """What `publication.json` holds."""

    publication: str
    fence: int = 0
    state: str = "open"
    version: int = 0
    former: int = 0
    indexes: tuple[str, ...] = ()


class FolderPublisher:
    """One publication's files."""

    def __init__(self, folder: Path, publication: str, name: str) -> None:
        self.folder = folder / "published" / name
        self.publication = publication

    def versions(self) -> PublishedVersions:
        pointer = self._pointer()
        mine = pointer is not None and pointer.publication == self.publication and pointer.state == "open"
        return (
            PublishedVersions(pointer.version, pointer.former, pointer.indexes)
            if pointer and mine
            else PublishedVersions()
        )

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        with mapped_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        pointer = self._admit(publishing.fence)
        return PublishedVersions(pointer.version, pointer.former, pointer.indexes)

    def merge(self, publishing: Publishing, index: str, rows: Iterable[pa.RecordBatch]) -> list[Change]:
        aside = self._aside(publishing.fence)
        new, following = aside / f"new_{index}.parquet", aside / f"published_{index}.parquet"
        self._stage(new, rows)
        merge = Merge(self._file(self._known(publishing.fence).version, index), new, publishing)
        with mapped_errors(following), temporary_name(following) as temporary:
            changes = merge.write(temporary)
            to_disk(temporary)
            temporary.replace(following)
            new.unlink()
        return [replace(change, index=index) for change in changes]

    def _stage(self, new: Path, rows: Iterable[pa.RecordBatch]) -> None:
        with mapped_errors(new):
            file = pa.OSFile(str(new), "wb")
        with file, pq.ParquetWriter(file, STAGED_SCHEMA, compression="zstd") as writer:
            for batch in rows:
                with mapped_errors(new):
                    writer.write_batch(batch.cast(STAGED_SCHEMA))

    def swap(self, publishing: Publishing) -> None:
        pointer = self._known(publishing.fence)
        if pointer.version == publishing.version:
            return
        aside, final = self._aside(publishing.fence), self._version(publishing.version)
        with mapped_errors(self.folder):
            if not final.exists():
                aside.rename(final)
            removed(aside)
            made = {path.stem.removeprefix("published_") for path in final.glob("published_*.parquet")}
            indexes = sorted({*pointer.indexes, *made})
        turned = replace(pointer, version=publishing.version, former=pointer.version, indexes=tuple(indexes))
        self._write(turned)
        self._remove_but(turned.version, turned.former)

    def discard(self, fence: int) -> None:
        if (pointer := self._pointer()) and pointer.publication == self.publication:
            self._admit(fence)
            removed(self._aside(fence))

    def roll_back(self, fence: int, version: int) -> None:
        if self._pointer() is None:
            raise never_published(0)
        pointer = self._admit(fence)
        if pointer.version == version:
            return
        if pointer.former != version:
            raise never_published(pointer.former)
        self._write(replace(pointer, version=version, former=pointer.version))
        removed(self._aside(fence))

    def published(self, index: str) -> Iterator[pa.RecordBatch]:
        file = self._file(self.versions().version, index)
        if file.exists():
            yield from batches_of(file, PUBLISHED_SCHEMA, PUBLISHED_SCHEMA.names)

    def remove(self, fence: int) -> None:
        pointer = self._pointer()
        if pointer is not None and (pointer.publication, pointer.state) == (self.publication, "open"):
            self._write(replace(self._admit(fence), state="deleted", version=0, former=0, indexes=()))
            removed(self._aside(fence))
            self._remove_but()

    def where(self, index: str) -> str:
        return f"{self.folder}, file version-*/published_{index}.parquet; publication.json says which version"

    def _admit(self, fence: int) -> Pointer:
        """What is published; from now on older fences are refused, and what they left is gone."""
        present = self._pointer() or self._first()
        if present.publication != self.publication and present.state == "deleted":
            present = Pointer(self.publication)
        if present.publication != self.publication:
            raise Conflict(f"{self.folder} is of another publication of this name: choose another name or target")
        if present.state != "open" or present.fence > fence:
            raise overtaken()
        with mapped_errors(self.folder):
            aside = present_fence(self.folder)
            if aside == fence:
                removed(self._aside(fence))
            if raise_fence(self.folder, fence) != fence:
                raise overtaken()
            for unfinished in self.folder.glob(".publication.json.*.tmp"):
                unfinished.unlink(missing_ok=True)
        self._write(replace(present, fence=fence))
        return replace(present, fence=fence)

    def _first(self) -> Pointer:
        if self.folder.exists() and any(VERSION.fullmatch(path.name) for path in self.folder.iterdir()):
            raise Conflict(f"{self.folder} is there already and is not Audience's: move it away")
        return Pointer(self.publication)

    def _known(self, fence: int) -> Pointer:
        pointer = self._pointer()
        if pointer is None or (pointer.publication, pointer.fence, pointer.state) != (self.publication, fence, "open"):
            raise overtaken()
        return pointer

    def _pointer(self) -> Pointer | None:
        path = self.folder / "publication.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            return Pointer(**{**found, "indexes": tuple(found["indexes"])})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Conflict(f"{path} is there already and is not Audience's: move it away") from None

    def _write(self, pointer: Pointer) -> None:
        final = self.folder / "publication.json"
        with mapped_errors(final), temporary_name(final) as temporary:
            temporary.write_text(json.dumps(asdict(pointer)), "utf-8")
            to_disk(temporary)
            temporary.replace(final)

    def _remove_but(self, *kept: int) -> None:
        """Removes versions that nobody can ask for any more."""
        with mapped_errors(self.folder):
            for path in self.folder.iterdir():
                match = VERSION.fullmatch(path.name)
                if match and int(match[1]) not in kept:
                    removed(path)

    def _aside(self, fence: int) -> Path:
        return writing_folder(self.folder, fence)

    def _version(self, version: int) -> Path:
        return self.folder / f"version-{version:06d}"

    def _file(self, version: int, index: str) -> Path:
        return self._version(version) / f"published_{index}.parquet"


@dataclass(frozen=True)
class Merge:
    """New rows and old ones. Keys alone decide which stay, and are all that is in memory; the rows pass by in batches.
    Whatever has the column `row` says by it where a row is in its file."""

    old_file: Path
    new_file: Path
    publishing: Publishing

    def write(self, following: Path) -> list[Change]:
        """Writes the next version; what changes, without the name of the index."""
        before = self._keys(self.old_file).select("row", *PAIR, "conflict").collect()
        old = before.clear() if self.publishing.replace else before
        winners = self._winners()
        staying = _unopposed(old, winners)
        with pq.ParquetWriter(following, PUBLISHED_SCHEMA, compression="zstd") as writer:
            for batch in self._new_rows(winners, old):
                writer.write_batch(batch)
            for frame in _picked(self.old_file, staying.select("row")):
                writer.write_batch(_published(frame))
        return _changes(before, old, pl.concat([winners, staying], how="diagonal"))

    def _keys(self, path: Path) -> pl.LazyFrame:
        """With the conflict group of the panel, null where it is in none."""
        if not path.exists():
            nothing = pl.from_arrow(PUBLISHED_SCHEMA.empty_table())
            assert isinstance(nothing, pl.DataFrame)
            return nothing.with_row_index("row").with_columns(conflict=pl.lit(None, pl.String)).lazy()
        conflict, groups = pl.lit(None, pl.String), self.publishing.conflicts
        if groups:
            conflict = pl.col("panel").replace_strict(groups, default=None, return_dtype=pl.String)
        return _scan(path).with_columns(conflict=conflict)

    def _winners(self) -> pl.DataFrame:
        """The new rows that count, in their order."""
        newest = pl.col("n") == pl.col("n").max().over(PAIR)
        last = pl.col("run") == pl.col("run").max().over("subject", "conflict")
        keys = self._keys(self.new_file).select("row", *PAIR, "conflict", "run", "n")
        winners = keys.filter(newest & (pl.col("conflict").is_null() | last))
        return winners.select("row", *PAIR, "conflict").sort("row").collect()

    def _new_rows(self, winners: pl.DataFrame, old: pl.DataFrame) -> Iterator[pa.RecordBatch]:
        p = self.publishing
        kept = winners.lazy().select("row", *PAIR)
        if len(old):
            kept = kept.join(_scan(self.old_file).select(*PAIR, "published_at"), on=PAIR, how="left")
        else:
            kept = kept.with_columns(published_at=pl.lit(None, pl.Datetime("us")))
        times = kept.select("row", pl.col("published_at").fill_null(pl.lit(p.at, pl.Datetime("us")))).sort("row")
        for frame in _picked(self.new_file, times.collect()):
            yield _published(frame.with_columns(version=pl.lit(p.version, pl.Int64)))


def _unopposed(old: pl.DataFrame, winners: pl.DataFrame) -> pl.DataFrame:
    """Old rows that no new one stands against, in their order."""
    contested = winners.filter(pl.col("conflict").is_not_null()).select("subject", "conflict").unique()
    staying = old.join(winners.select(PAIR), on=PAIR, how="anti")
    return staying.join(contested, on=["subject", "conflict"], how="anti").sort("row")


def _changes(before: pl.DataFrame, old: pl.DataFrame, after: pl.DataFrame) -> list[Change]:
    """`old`: what of `before` may be kept."""
    fresh = after.join(old, on=PAIR, how="anti")
    contested = old.filter(pl.col("conflict").is_not_null()).select("subject", "conflict").unique()
    parts = {
        "added": fresh.join(contested, on=["subject", "conflict"], how="anti"),
        "changed": fresh.join(contested, on=["subject", "conflict"], how="semi"),
        "kept": after.join(old, on=PAIR, how="semi"),
        "dropped": before if len(old) < len(before) else before.join(after, on=PAIR, how="anti"),
    }
    fates = pl.concat([part.select("panel", fate=pl.lit(fate)) for fate, part in parts.items()])
    counts = [(pl.col("fate") == fate).sum().cast(pl.Int64) for fate in parts]
    counted = fates.group_by("panel").agg(**dict(zip(parts, counts, strict=True))).sort("panel")
    return [Change("", **row) for row in counted.iter_rows(named=True)]


def _picked(path: Path, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows of a file that `rows`, sorted, names, with its other columns; batch by batch."""
    if not len(rows):
        return
    start = 0
    with opened(path) as file:
        size = rows_per_batch(file.metadata, range(file.num_row_groups), file.schema_arrow.names)
        for batch in file.iter_batches(size):
            first, end = (int(rows["row"].search_sorted(place)) for place in (start, start + len(batch)))
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            chosen = rows[first:end]
            yield frame[(chosen["row"] - start).cast(pl.Int64)].with_columns(chosen.drop("row"))
            start += len(batch)


def _published(frame: pl.DataFrame) -> pa.RecordBatch:
    table = frame.select(PUBLISHED_SCHEMA.names).to_arrow().cast(PUBLISHED_SCHEMA).combine_chunks()
    return next(iter(table.to_batches()), pa.RecordBatch.from_pylist([], PUBLISHED_SCHEMA))


def _scan(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name="row")
