"""A folder of Parquet files as a target: one file per partition, and its mark is the metadata of that same file.

    results/<task>/part-00000.parquet                  rows of all groups and the mark, linked into place
    results/<task>/.writing-<fence>/                   unfinished files of the writers that are admitted
    production/<task>/production_<group>.parquet
    tasks/<task>.json                                  {"task", "state"}

The unfinished file of a writer that was killed stays until the fence is raised or the task deleted. To delete a task,
its folder is renamed away first: the unfinished file of a late writer is in it and goes too."""

import base64
import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audience.errors import BadInput, Conflict, NotFound
from audience.tables.base import (
    DEFAULT_LAYOUT,
    PRODUCTION_COLUMNS,
    RESULT_SCHEMA,
    ConflictRules,
    Mark,
    ResultLayout,
    Statistics,
)
from audience.tables.batches import rebatched
from audience.tables.folder.fence import present_fence, published, raise_fence, remove, writing_folder
from audience.tables.folder.parquet import batches_of, mapped_errors, metadata_of, temporary_name, to_disk
from audience.tables.folder.production import produced
from audience.tables.production import NARROW
from audience.tables.result_rows import STORED, with_time_texts

MARK, STATISTICS, AUTHORS = "audience.mark", "audience.statistics", "audience.authors"
PRODUCTION_MARK = {"audience.production": "1"}
PRODUCTION_SCHEMA = pa.schema(
    [pa.field(n, pa.int64()) if n == "posts" else RESULT_SCHEMA.field(n) for n in PRODUCTION_COLUMNS]
)
PART = re.compile(r"part-(\d+)\.parquet")
TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
GROUP = re.compile(r"[A-Za-z0-9_]{1,40}")


class FolderTarget:
    """Result and production files in a folder, beside whatever else lives there."""

    unstorable = ""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path
        if path.exists() and not path.is_dir():
            raise BadInput(f"{path} is a file: name a folder for the results, or a file that ends in .db")
        if not path.parent.is_dir():
            raise BadInput(f"there is no folder {path.parent} for the results: create it, or write elsewhere")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise BadInput(f"{path} is read-only here: write elsewhere, or make the folder writable")

    def prepare(self, task: str, fence: int, groups: Sequence[str], layout: ResultLayout = DEFAULT_LAYOUT) -> None:
        for group in groups:
            _check(group, GROUP, "group")
        with mapped_errors(self.path):
            self._open(task)
            self._refuse_deleted(task)
            try:
                present = self._make_folders(task, fence)
            finally:
                self._refuse_deleted(task)  # it may be, since: nothing would remove what was just made
        if present != fence:
            raise Conflict(f"task {task} was taken over: fence {fence} is older than {present}")

    def _make_folders(self, task: str, fence: int) -> int:
        for kind in ("results", "production"):
            self._folder(kind, task).mkdir(parents=True, exist_ok=True)
        return raise_fence(self._folder("results", task), fence)

    def bar(self, task: str, fence: int) -> None:
        with mapped_errors(self.path):
            if self._state(task) == "open":
                with contextlib.suppress(FileNotFoundError):  # not made yet, or deleted meanwhile
                    raise_fence(self._folder("results", task), fence)

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        final = self._folder("results", task) / f"part-{partition:05d}.parquet"
        with temporary_name(writing_folder(final.parent, fence) / final.name) as temporary:
            with mapped_errors(final):
                file = pa.OSFile(str(temporary), "wb")
            with file:
                self._check_fence(task, fence)  # not before the file is there: see folder_fence
                if final.exists():
                    return False
                _Part({"task": task, "partition": partition, "fence": fence}).write(file, final, rows, statistics)
            with mapped_errors(final):
                return published(temporary, final)

    def check(self) -> None:
        """Has nothing to do: the folder was looked at when it was opened."""

    def exists(self) -> bool:
        return self.path.exists()

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        yield from (_mark(path, authors) for path in self._parts(task))

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        names = [name for name in columns or STORED if name != "group"]
        counts = {path: _rows_of_groups(path) for path in self._parts(task)}
        for each in [group] if group else sorted({g for groups in counts.values() for g in groups}):
            for path in (path for path, groups in counts.items() if each in groups):
                for batch in batches_of(path, RESULT_SCHEMA, [*names, "group"]):
                    found = batch.filter(pc.equal(batch["group"], each))
                    if len(found):
                        yield found

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        found: dict[tuple[str, int, int], dict[str, Any]] = {}
        for path in self._parts(task):
            partition = _number(path)
            wanted = [n for _, p, n in keys if p == partition]
            if wanted:
                frame = pl.scan_parquet(path, glob=False, hive_partitioning=False).filter(pl.col("n").is_in(wanted))
                texts = with_time_texts(frame.collect())
                rows = texts.select(*STORED, "group").iter_rows(named=True)
                found |= {(row["group"], partition, row["n"]): row for row in rows}
        return [dict(found[key]) for key in map(tuple, keys) if key in found]

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        final = self._production_file(task, group)
        if final.exists():
            _check_is_ours(final)
        unfinished = writing_folder(self._folder("results", task), fence) / final.name
        with temporary_name(unfinished) as temporary, mapped_errors(final):
            temporary.touch()
            self._check_fence(task, fence)  # not before the file is there: see folder_fence
            narrow = self.results(task, group, NARROW)
            production = produced(self._parts(task), narrow, rules)
            production.frame.sink_parquet(temporary, compression="zstd", metadata=PRODUCTION_MARK)
            to_disk(temporary)
            temporary.replace(final)
        return production.n_rows, production.n_subjects

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        path = self._production_file(task, group)
        if path.exists():
            _check_is_ours(path)
            for batch in batches_of(path, PRODUCTION_SCHEMA, PRODUCTION_COLUMNS):
                yield batch.append_column("group", pa.array([group] * len(batch), pa.large_string()))

    def delete(self, task: str) -> None:
        with mapped_errors(self.path):
            if (self.path / "tasks").is_dir():
                with self._state_file(task, "deleted") as (temporary, final):
                    temporary.replace(final)
            self._remove(task)

    def _remove(self, task: str) -> None:
        for kind in ("results", "production"):
            remove(self._folder(kind, task))

    def where(self, group: str, production: bool = False) -> str:
        if production:
            return f"{self.path}, files production/*/production_{group}.parquet"
        return f"{self.path}, files results/*/part-*.parquet, rows of the group {group}"

    def _folder(self, kind: str, task: str) -> Path:
        return self.path / kind / _check(task, TASK, "task")

    def _production_file(self, task: str, group: str) -> Path:
        return self._folder("production", task) / f"production_{_check(group, GROUP, 'group')}.parquet"

    def _parts(self, task: str) -> list[Path]:
        folder = self._folder("results", task)
        names = [path for path in folder.iterdir() if PART.fullmatch(path.name)] if folder.is_dir() else []
        return sorted(names, key=_number)

    def _state(self, task: str) -> str | None:
        path = self.path / "tasks" / f"{_check(task, TASK, 'task')}.json"
        try:
            return str(json.loads(path.read_text("utf-8"))["state"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Conflict(f"{path} is there already and is not Audience's: move it away") from None

    @contextlib.contextmanager
    def _state_file(self, task: str, state: str) -> Iterator[tuple[Path, Path]]:
        """Yields the state in a temporary file, and the name it should get."""
        final = self.path / "tasks" / f"{task}.json"
        with temporary_name(final) as temporary:
            temporary.write_text(json.dumps({"task": task, "state": state}), "utf-8")
            to_disk(temporary)
            yield temporary, final

    def _open(self, task: str) -> None:
        """Makes a task known; one that is known, or deleted, stays as it is."""
        if self._state(task) is None:
            (self.path / "tasks").mkdir(parents=True, exist_ok=True)
            with self._state_file(task, "open") as (temporary, final):
                published(temporary, final)

    def _refuse_deleted(self, task: str) -> None:
        if self._state(task) == "deleted":
            self._remove(task)
            raise Conflict(f"task {task} was deleted here: run it under a new id")

    def _check_fence(self, task: str, fence: int) -> None:
        with mapped_errors(self.path):
            folder = self._folder("results", task)
            if not self.path.is_dir():
                raise NotFound(f"there is no folder {self.path}: it was there before")
            present = present_fence(folder) if folder.is_dir() else None
        if present != fence or self._state(task) != "open":
            raise Conflict(f"task {task} was taken over or deleted; nothing is written")


@dataclass
class _Part:
    """The rows of one partition on their way into a file."""

    mark: dict[str, Any]
    rows_of_groups: dict[str, int] = field(default_factory=dict)
    last_of_groups: dict[str, int] = field(default_factory=dict)

    def write(self, file: pa.OSFile, final: Path, rows: Iterable[pa.RecordBatch], statistics: Statistics) -> None:
        with mapped_errors(final):
            writer = pq.ParquetWriter(file, RESULT_SCHEMA, compression="zstd")
        try:
            for batch in rebatched(rows):
                self._count(batch)
                with mapped_errors(final):
                    writer.write_batch(batch.select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA))
            writer.add_key_value_metadata(self._metadata(statistics))
        except BaseException:
            with contextlib.suppress(OSError, pa.ArrowException):
                writer.close()
            raise
        with mapped_errors(final):
            writer.close()
            os.fsync(file.fileno())

    def _count(self, batch: pa.RecordBatch) -> None:
        """Rows by group; the order that readers rely on is checked here."""
        frame = pl.DataFrame({"group": pl.Series(batch["group"]), "n": pl.Series(batch["n"])})
        for (name,), part in frame.group_by("group", maintain_order=True):
            group = _check(name, GROUP, "group")
            numbers = part["n"]
            if numbers[0] <= self.last_of_groups.get(group, -1) or (numbers.diff(null_behavior="drop") <= 0).any():
                raise BadInput(f"the results of partition {self.mark['partition']} are not in the order of their n")
            self.last_of_groups[group] = numbers[-1]
            self.rows_of_groups[group] = self.rows_of_groups.get(group, 0) + len(part)

    def _metadata(self, statistics: Statistics) -> dict[str, str]:
        mark = {**self.mark, "rows": sum(self.rows_of_groups.values()), "groups": self.rows_of_groups}
        authors = base64.b64encode(statistics.packed_authors()).decode()
        return {MARK: json.dumps(mark), STATISTICS: statistics.to_json(), AUTHORS: authors}


def _check(name: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise BadInput(f"the {what} {name!r} cannot name a file: letters, digits and _ can")
    return name


def _number(part: Path) -> int:
    match = PART.fullmatch(part.name)
    return int(match[1]) if match else -1


def _mark(path: Path, authors: bool) -> Mark:
    found = metadata_of(path, MARK)
    mark = json.loads(found[MARK])
    packed = base64.b64decode(found[AUTHORS]) if authors else b""
    return Mark(mark["partition"], mark["rows"], found[STATISTICS].decode(), packed)


def _rows_of_groups(path: Path) -> dict[str, int]:
    groups: dict[str, int] = json.loads(metadata_of(path, MARK)[MARK])["groups"]
    return groups


def _check_is_ours(production: Path) -> None:
    metadata_of(production, *PRODUCTION_MARK)
