"""Publications in a folder of Parquet files, merged in polars; the same rows as the SQL of the databases gives.

    published/<name>/publication.json                        which version is published, and which was before
    published/<name>/version-<number>/published_<index>.parquet
    published/<name>/.writing-<fence>/                       the next version, of the newest attempt; see `fence`

The folder of an attempt is renamed to its version when it is whole, which no older attempt can do; then the new
`publication.json` is renamed into place. Where a process died in between, the next attempt finds the version there.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from audience.errors import Conflict
from audience.tables.folder.fence import present_fence, raise_fence, removed, writing_folder
from audience.tables.folder.merge import Merge
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

    @property
    def versions(self) -> PublishedVersions:
        return PublishedVersions(self.version, self.former, self.indexes)

    def turned_to(self, versions: PublishedVersions) -> "Pointer":
        return replace(self, version=versions.version, former=versions.previous, indexes=versions.indexes)


class FolderPublisher:
    """One publication's files."""

    def __init__(self, folder: Path, publication: str, name: str) -> None:
        self.folder = folder / "published" / name
        self.publication = publication

    def versions(self) -> PublishedVersions:
        pointer = self._pointer()
        mine = pointer is not None and pointer.publication == self.publication and pointer.state == "open"
        return pointer.versions if pointer and mine else PublishedVersions()

    def begin(self, publishing: Publishing, indexes: Sequence[str]) -> PublishedVersions:
        with mapped_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        pointer = self._admit(publishing.fence)
        return pointer.versions

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
        if versions := pointer.versions.rolled_back(version):
            self._write(pointer.turned_to(versions))
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
        """Returns what is published. From now on older fences are refused, and what they left is gone."""
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
