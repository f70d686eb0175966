"""What every format of file promises to the source that reads files of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from audience.tables.base import Selection, SourceSpec


@dataclass(frozen=True)
class Piece:
    """A run of rows of one file. `slice` is JSON that only the format that cut it reads."""

    slice: dict[str, Any]
    n_rows: int


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a file. Row 1 is its first; `columns` has the columns asked for that the file has, by their
    names in it; `errors` says why a row cannot be used (null: it can; None: all can), and its values are null then."""

    first_row: int
    n_rows: int
    columns: dict[str, pa.Array]
    errors: pa.Array | None = None


class FileFormat(Protocol):
    """Reads files of one format as `spec` says. Holds no state between calls."""

    def __init__(self, spec: SourceSpec) -> None: ...

    def columns(self, path: Path) -> dict[str, str]:
        """The columns of a file and their types. BadInput where it is not such a file."""

    def pieces(self, path: Path, selection: Selection, time_column: str | None) -> Iterator[Piece]:
        """The file cut into runs of about `selection.partition_rows` rows, in order, with exact counts. Pieces that
        surely hold no row of the range may be left out."""

    def read(self, path: Path, piece: dict[str, Any], columns: Sequence[str]) -> Iterator[Rows]:
        """The rows of a piece in order, a few megabytes at a time."""


def placed(fault: str, place: str) -> str:
    """A fault, `kind` or `kind: detail`, with its place; the kind stays first, because faults are counted by it."""
    kind, _, detail = fault.partition(": ")
    return f"{kind}: {place}, {detail}" if detail else f"{kind}: {place}"
