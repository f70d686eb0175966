"""Files as a source: one CSV, TSV, JSONL or Parquet file, a folder of them, or a glob."""

import glob
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from audience.errors import BadInput, Conflict, NotFound, Transient
from audience.tables.base import (
    NO_BOUNDS,
    Description,
    Partition,
    Plan,
    Selection,
    SourceSpec,
    columns_to_read,
    likely_roles,
    resolve_roles,
)
from audience.tables.batches import canonical_batch, rebatched
from audience.tables.files.base import FileFormat, Piece, Rows
from audience.tables.files.csv import CsvFormat
from audience.tables.files.jsonl import JsonlFormat
from audience.tables.files.parquet import ParquetFormat
from audience.tables.times import check_timezone, implausible

FORMATS: dict[str, type[FileFormat]] = {
    "CSV": CsvFormat,
    "TSV": CsvFormat,
    "JSON lines": JsonlFormat,
    "Parquet": ParquetFormat,
}
ENDINGS = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".tab": "TSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
    ".pq": "Parquet",
}
COMPRESSED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".7z")
PREVIEW_ROWS = 5
TIME_SAMPLE_ROWS = 1_000


class FilesSource:
    """Rows of one or more files of one format, in the order of the files' names."""

    bounds = NO_BOUNDS

    def __init__(self, spec: SourceSpec, where: str | Path) -> None:
        check_timezone(spec.timezone)
        if spec.table is not None:
            raise BadInput(f"files have no tables: leave out the table {spec.table!r}")
        self.spec = spec
        self._interrupted = threading.Event()
        self.folder, self.names = find_files(str(where))
        for name in self.names if spec.within else ():
            check_link(self.folder / name, spec.within)
        kind = kind_of_files(self.names, self.folder)
        self.format = FORMATS[kind](spec)
        self.where = self.names[0] if len(self.names) == 1 else f"{len(self.names)} files in {self.folder}"
        self._columns_of = {name: self._columns(name) for name in self.names}
        self.columns = {column: kind for found in self._columns_of.values() for column, kind in found.items()}
        if not self.columns:
            raise BadInput(f"{self.where}: there is nothing in it; a source needs at least the names of its columns")
        self.roles: Mapping[str, str] = resolve_roles(spec, list(self.columns), self.where)
        if kind in ("CSV", "TSV"):
            self._check_every_file_has_the_columns()
        if "post_time" in self.roles:
            self._check_times(self.roles["post_time"])

    def _columns(self, name: str) -> dict[str, str]:
        try:
            return self.format.columns(self.folder / name)
        except OSError as error:
            raise BadInput(f"{self.folder / name} cannot be read: {error.strerror}") from None

    def _check_every_file_has_the_columns(self) -> None:
        """A text file that lacks a column has lost its header, more likely than its column."""
        for name, found in self._columns_of.items():
            for role, column in self.roles.items():
                if column not in found:
                    raise BadInput(
                        f"{self.folder / name} has no column {column!r} for the role {role!r}, "
                        f"which other files have; its first line is: {', '.join(found)}"
                    )

    def _check_times(self, column: str) -> None:
        """Refuses a column that holds no times at all."""
        for rows in self._first_rows([column]):
            values = rows.columns.get(column)
            if values is None or not len(values.drop_null()):
                continue
            sample = values.drop_null()[:TIME_SAMPLE_ROWS]
            ids = pa.array([""] * len(sample), pa.large_string())
            times = canonical_batch({"id": ids, "post_time": sample}, self.spec)
            if times["post_time"].null_count == len(sample):
                raise BadInput(
                    f"{self.where}: column {column!r} should hold times, but {times['error'][0].as_py()}: "
                    "name another column with --role post_time=COLUMN, or give --option time_format=FORMAT"
                )
            return

    def _first_rows(self, columns: Sequence[str]) -> Iterator[Rows]:
        """The beginning of each file in turn."""
        for name in self.names:
            piece = next(self._pieces(name, Selection(partition_rows=TIME_SAMPLE_ROWS)), None)
            if piece:
                yield from self._rows(piece.slice, columns)

    # planning

    def _pieces(self, name: str, selection: Selection) -> Iterator[Piece]:
        path = self.folder / name
        state = _state(path)
        for piece in self.format.pieces(path, selection, self.roles.get("post_time")):
            if self._interrupted.is_set():
                raise Transient(f"{self.where}: planning was interrupted")
            yield Piece({"file": name, **piece.slice, **state}, piece.n_rows)

    def interrupt(self) -> None:
        self._interrupted.set()

    def plan(self, selection: Selection) -> Plan:
        columns_to_read(self.roles, selection)
        if (selection.start or selection.end) and "post_time" not in self.roles:
            raise BadInput(f"{self.where} has no time to select by: add --role post_time=COLUMN")
        return Plan(tuple(self._partitions(selection)))

    def _partitions(self, selection: Selection) -> Iterator[Partition]:
        """One after another as they are found, so that whoever takes them may stop in between."""
        numbers = itertools.count()
        waiting: list[Piece] = []
        for piece in (piece for name in self.names for piece in self._pieces(name, selection)):
            if waiting and sum(p.n_rows for p in waiting) + piece.n_rows > selection.partition_rows:
                yield _partition(next(numbers), waiting)
                waiting = []
            waiting.append(piece)
        if waiting:
            yield _partition(next(numbers), waiting)

    # reading

    def read(self, partition: Partition, selection: Selection) -> Iterator[pa.RecordBatch]:
        names = columns_to_read(self.roles, selection)
        columns = list(dict.fromkeys(self.roles[name] for name in names if name in self.roles))
        pieces = partition.slice["pieces"]
        yield from rebatched(
            self._batch(piece["file"], rows, names) for piece in pieces for rows in self._rows(piece, columns)
        )

    def _rows(self, piece: dict[str, Any], columns: Sequence[str]) -> Iterator[Rows]:
        path = self.folder / piece["file"]
        self._check_unchanged(path, piece)
        try:
            yield from self.format.read(path, piece, columns)
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
        self._check_unchanged(path, piece)

    def _check_unchanged(self, path: Path, piece: dict[str, Any]) -> None:
        planned = {"size": piece["size"], "mtime_ns": piece["mtime_ns"]}
        if _state(path) != planned:
            raise Conflict(f"{path} changed since the run was planned: start a new run on the file as it is now")

    def _batch(self, file: str, rows: Rows, names: Sequence[str]) -> pa.RecordBatch:
        def column(name: str) -> pa.Array:
            found = rows.columns.get(self.roles.get(name, ""))
            return pa.nulls(rows.n_rows, pa.large_string()) if found is None else found

        columns = {name: column(name) for name in names}
        if "id" not in self.roles:
            columns["id"] = _row_ids(file, rows)
        if rows.errors is None:
            return canonical_batch(columns, self.spec)
        columns["id"] = pc.if_else(rows.errors.is_valid(), _row_ids(file, rows), _as_text(columns["id"]))
        batch = canonical_batch(columns, self.spec)
        return batch.set_column(batch.num_columns - 1, "error", pc.coalesce(rows.errors, batch["error"]))

    # describing

    def describe(self) -> Description:
        keys = [role for role in ("id", "post_time") if role in self.roles]
        n_rows = 0
        nulls = dict.fromkeys(keys, 0)
        times: list[Any] = []
        for name in self.names:
            for piece in self._pieces(name, Selection()):
                n_rows += piece.n_rows
                for rows in self._rows(piece.slice, [self.roles[role] for role in keys]) if keys else ():
                    for role in keys:
                        nulls[role] += _null_count(rows, self.roles[role])
                    if "post_time" in keys:
                        times = _widened(times, self._batch(name, rows, ("id", "post_time"))["post_time"])
        span = (str(times[0]), str(times[1])) if times else None
        advice = (*likely_roles(self.roles, self.columns), *implausible((times[0], times[1]) if times else None))
        return Description(dict(self.columns), dict(self.roles), n_rows, span, None, nulls, self._preview(), advice)

    def _preview(self) -> list[dict[str, str | None]]:
        shown: list[dict[str, str | None]] = []
        for rows in self._first_rows(list(self.columns)):
            columns = {c: _shown(rows.columns[c], PREVIEW_ROWS) for c in self.columns if c in rows.columns}
            for_each = range(min(rows.n_rows, PREVIEW_ROWS - len(shown)))
            shown += [{c: columns[c][i] if c in columns else None for c in self.columns} for i in for_each]
            if len(shown) == PREVIEW_ROWS:
                break
        return shown


def _partition(number: int, pieces: Sequence[Piece]) -> Partition:
    return Partition(number, {"pieces": [p.slice for p in pieces]}, sum(p.n_rows for p in pieces))


def _state(path: Path) -> dict[str, int]:
    try:
        stat = path.stat()
    except OSError as error:
        reason = error.strerror
        raise Conflict(f"{path} is gone or cannot be reached ({reason}): bring it back, or plan again") from None
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _row_ids(file: str, rows: Rows) -> pa.Array:
    numbers = pl.int_range(rows.first_row, rows.first_row + rows.n_rows, eager=True).cast(pl.String)
    return (f"{file}#" + numbers).to_arrow().cast(pa.large_string())


def _as_text(column: pa.Array) -> pa.Array:
    return column.cast(pa.large_string())


def _null_count(rows: Rows, column: str) -> int:
    """Nulls of a column among the rows that can be used."""
    values = rows.columns.get(column)
    nulls = pa.array([True] * rows.n_rows) if values is None else values.is_null()
    usable = nulls if rows.errors is None else pc.and_(nulls, rows.errors.is_null())
    return int(pc.sum(usable).as_py() or 0)


def _widened(span: list[Any], times: pa.Array) -> list[Any]:
    """The first and the last of the times seen so far; nothing while all are null."""
    found = pc.min_max(times).as_py()
    seen = [*span, *(time for time in found.values() if time is not None)]
    return [min(seen), max(seen)] if seen else []


def _shown(column: pa.Array, n_rows: int) -> list[str | None]:
    values = column[:n_rows].to_pylist()
    texts = (v.decode(errors="replace") if isinstance(v, bytes) else v for v in values)
    return [None if v is None else str(v) for v in texts]


def find_files(where: str) -> tuple[Path, list[str]]:
    """A folder, and the files in it that `where` means, by name. Hidden files and those beginning with _ are none."""
    path = Path(where)
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if p.is_file())
    elif path.exists():
        if not path.is_file():
            raise BadInput(f"{where} is a pipe, a socket or a device: save what comes from it as a file first")
        return path.parent, [path.name]
    elif glob.has_magic(where):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        path = Path(*parts[:fixed])
        names = sorted(p.relative_to(path).as_posix() for p in path.glob("/".join(parts[fixed:])) if p.is_file())
    else:
        raise NotFound(f"there is no file or folder {where}")
    names = [name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))]
    if not names:
        raise NotFound(f"there is no file to read in {where}")
    return path, names


def check_link(path: Path, folders: Sequence[str]) -> None:
    """Refuses a file that leads out of the folders; a wildcard may have found a link."""
    if not any(path.resolve().is_relative_to(Path(folder).resolve()) for folder in folders):
        raise BadInput(f"{path} leads to a file outside the folders that may be used: {', '.join(folders)}")


def kind_of_files(names: Sequence[str], folder: Path) -> str:
    """The one format that all the files have, by their endings."""
    kinds: dict[str, str] = {}
    for name in names:
        ending = Path(name).suffix.lower()
        if ending in COMPRESSED:
            raise BadInput(f"{folder / name} is compressed: unpack it first")
        if ending not in ENDINGS:
            raise BadInput(
                f"{folder / name} ends in {ending or 'nothing'}; files that can be read end in {', '.join(ENDINGS)} "
                "(to leave a file of a folder out, name the others with a glob such as folder/*.csv)"
            )
        kinds.setdefault(ENDINGS[ending], name)
    if len(kinds) > 1:
        found = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise BadInput(f"{folder} holds several formats: {found}; name the files of one with a glob, such as *.csv")
    return next(iter(kinds))
