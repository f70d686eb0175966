"""CSV and TSV files: every value is text, an empty one is null, a quoted empty one is empty."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from audience.errors import BadInput, Conflict
from audience.tables.base import Selection, SourceSpec
from audience.tables.files.base import Piece, Rows, placed
from audience.tables.files.lines import Lines, RowRules, first_row_end, pieces_of_lines, read_lines

BOM = codecs.BOM_UTF8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
TAB_ENDINGS = (".tsv", ".tab")
HEADER_BYTES = 2**20
SAMPLE_BYTES = 2**18
SAMPLE_LINES = 1_000
ADVICE = "name the encoding of the file, such as utf-8, big5, cp950 or gb18030"
UNCLOSED = "the quote that opens in this row never ends; if quotes are plain text in this file, turn quoting off"


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    quoting: bool
    encoding: str

    @property
    def rules(self) -> RowRules:
        return RowRules(self.quoting, self.delimiter)


@dataclass(frozen=True)
class _Bad:
    """A row with the wrong number of values; `index` counts from the first row of the block."""

    index: int
    found: int


class CsvFormat:
    """Rows with the wrong number of values, or with bytes that are not of the encoding, come with an error."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.encoding = _known_encoding(spec.encoding)
        if spec.header is not None:
            _check_names(spec.header, "header")
        if spec.delimiter is not None:
            _check_delimiter(spec.delimiter)

    def columns(self, path: Path) -> dict[str, str]:
        _check_encoding(path, self.encoding)
        return dict.fromkeys(self._names(path), "text")

    def pieces(self, path: Path, selection: Selection, time_column: str | None) -> Iterator[Piece]:
        start = len(BOM) if self._has_bom(path) else 0
        if self.spec.header is None:
            start = self._header_end(path, start)
        yield from pieces_of_lines(path, start, self._dialect(path).rules, selection.partition_rows)

    def read(self, path: Path, piece: dict[str, Any], columns: Sequence[str]) -> Iterator[Rows]:
        names = self._names(path)
        for lines in read_lines(path, piece):
            yield _rows_of(path, lines, self._dialect(path), names, columns)

    def _dialect(self, path: Path) -> _Dialect:
        tabs = path.suffix.lower() in TAB_ENDINGS
        quoting = not tabs if self.spec.quoting is None else self.spec.quoting
        return _Dialect(self.spec.delimiter or ("\t" if tabs else ","), quoting, self.encoding)

    def _has_bom(self, path: Path) -> bool:
        with path.open("rb") as file:
            return self.encoding == "utf-8" and file.read(len(BOM)) == BOM

    def _header_end(self, path: Path, start: int) -> int:
        end = first_row_end(path, start, self._dialect(path).rules)
        if end is None and path.stat().st_size - start < HEADER_BYTES:
            raise BadInput(f"{path} is empty or its first quote never ends: the first line should name the columns")
        if end is None or end - start > HEADER_BYTES:
            raise BadInput(f"{path}: the first line should name the columns, but it does not end")
        return end

    def _names(self, path: Path) -> list[str]:
        if self.spec.header is not None:
            return list(self.spec.header)
        start = len(BOM) if self._has_bom(path) else 0
        end = self._header_end(path, start)
        with path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            text = line.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: its first line is not {self.encoding} at byte {error.start}: {ADVICE}") from None
        names = _split_header(text, self._dialect(path))
        _check_names(names, str(path))
        return names


def _known_encoding(name: str) -> str:
    """The codec's own name. Only encodings in which ASCII bytes mean ASCII, so that lines can be found in bytes."""
    ascii_bytes = bytes(range(1, 127))
    try:
        found = codecs.lookup(name).name
        if ascii_bytes.decode(found) != ascii_bytes.decode("ascii"):
            raise BadInput(f"files in {name} cannot be read as they are: convert them to utf-8 first")
    except (LookupError, UnicodeError, ValueError):
        raise BadInput(f"no encoding is called {name!r}; known are utf-8, big5, cp950, gb18030 and more") from None
    return "utf-8" if found == "utf-8-sig" else found


def _check_delimiter(delimiter: str) -> None:
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise BadInput(f"the delimiter {delimiter!r} should be one ASCII character, such as a comma, ; | or a tab")


def _check_names(names: Sequence[str], where: str) -> None:
    for i, name in enumerate(names):
        if not name:
            raise BadInput(f"{where}: column {i + 1} has no name: name it in the first line")
        if name in names[:i]:
            raise BadInput(f"{where}: two columns are called {name!r}: rename one in the first line")


def _check_encoding(path: Path, encoding: str) -> None:
    """Refuses a file most of whose first lines are not in the encoding; single bad lines are set aside later."""
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    if sample.startswith(UTF16_MARKS):
        raise BadInput(f"{path} is in utf-16: convert it to utf-8 first")
    lines = sample.split(b"\n")[: -1 if len(sample) == SAMPLE_BYTES else None][:SAMPLE_LINES]
    filled = [line for line in lines if line.strip()]
    n_bad = sum(_undecodable(line, encoding) is not None for line in filled)
    if n_bad * 2 > len(filled):
        found = f"{n_bad} of its first {len(filled)} lines cannot be decoded"
        raise BadInput(f"{path} is not {encoding}: {found}; {ADVICE}")


def _undecodable(value: bytes, encoding: str) -> str | None:
    try:
        value.decode(encoding)
    except UnicodeDecodeError as error:
        return f"text is not {encoding}: at byte {error.start}"
    return None


def _split_header(text: str, dialect: _Dialect) -> list[str]:
    data = text.encode()
    most = data.count(dialect.delimiter.encode()) + 1
    for n in range(most, 0, -1):
        table, bad = _parsed(data, _Dialect(dialect.delimiter, dialect.quoting, "utf-8"), [str(i) for i in range(n)])
        if not bad:
            return [(column[0].as_py() or b"").decode() for column in table.values()]
    return []


def _rows_of(path: Path, lines: Lines, dialect: _Dialect, names: Sequence[str], wanted: Sequence[str]) -> Rows:
    if lines.unclosed:
        nothing = {name: pa.nulls(lines.n_rows, pa.large_binary()) for name in wanted if name in names}
        return Rows(lines.first_row, lines.n_rows, nothing, pa.array([UNCLOSED], pa.large_string()))
    try:
        data = lines.data if dialect.encoding == "utf-8" else lines.data.decode(dialect.encoding).encode()
        clean = _is_utf8(data)
    except UnicodeDecodeError:
        clean = False
    faults: dict[int, str] = {}
    if clean:
        columns, bad = _parsed(data, dialect, names, wanted)
    else:
        columns, bad = _parsed(lines.data.decode("latin-1").encode(), dialect, names, wanted)
        columns, faults = _decoded(columns, dialect.encoding)
    n_good = len(next(iter(columns.values()))) if columns else lines.n_rows - len(bad)
    if n_good + len(bad) != lines.n_rows:
        raise Conflict(f"{path} holds other rows than when it was planned (near row {lines.first_row}): plan again")
    return _with_bad_rows(Rows(lines.first_row, lines.n_rows, columns), bad, faults, len(names))


def _is_utf8(data: bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)]).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _parsed(
    data: bytes, dialect: _Dialect, names: Sequence[str], wanted: Sequence[str] | None = None
) -> tuple[dict[str, pa.Array], list[_Bad]]:
    """The good rows of valid UTF-8 as columns, and the bad ones."""
    kept = [name for name in (names if wanted is None else wanted) if name in names]
    if not dialect.quoting and b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        return _split(data, dialect.delimiter.encode(), names, kept)
    bad: list[_Bad] = []

    def note(row: csv.InvalidRow) -> str:
        bad.append(_Bad(row.number - 1, row.actual_columns))
        return "skip"

    if data.startswith(BOM):  # Arrow would drop it; here it is text
        data = b"\n" + data
    table = csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
        csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoting else False,
            newlines_in_values=True,
            invalid_row_handler=note,
        ),
        csv.ConvertOptions(
            include_columns=kept or [names[0]],
            column_types=dict.fromkeys(names, pa.large_binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    return {name: table[name].combine_chunks() for name in table.column_names}, bad


def _split(
    data: bytes, delimiter: bytes, names: Sequence[str], kept: Sequence[str]
) -> tuple[dict[str, pa.Array], list[_Bad]]:
    """Rows without quoting some of which hold a carriage return, which Arrow would take for the end of a row."""
    lines = [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
    rows = [line.split(delimiter) for line in lines if line]
    bad = [_Bad(i, len(row)) for i, row in enumerate(rows) if len(row) != len(names)]
    good = [row for row in rows if len(row) == len(names)]
    at = {name: names.index(name) for name in kept or names[:1]}
    return {name: pa.array([row[i] or None for row in good], pa.large_binary()) for name, i in at.items()}, bad


def _decoded(columns: dict[str, pa.Array], encoding: str) -> tuple[dict[str, pa.Array], dict[int, str]]:
    """Columns whose every byte was carried as one Latin-1 character, as text; and what is wrong, by good row."""
    faults: dict[int, str] = {}
    texts: dict[str, list[str | None]] = {name: [] for name in columns}
    for name, column in columns.items():
        for i, value in enumerate(column.to_pylist()):
            raw = None if value is None else value.decode().encode("latin-1")
            fault = None if raw is None else _undecodable(raw, encoding)
            if fault:
                faults.setdefault(i, placed(fault, name))
            texts[name].append(None if raw is None or fault else raw.decode(encoding))
    return {name: pa.array(values, pa.large_string()) for name, values in texts.items()}, faults


def _with_bad_rows(rows: Rows, bad: Sequence[_Bad], faults: dict[int, str], n_names: int) -> Rows:
    """The good rows with the bad ones, all null, where they were."""
    if not bad and not faults:
        return rows
    is_bad = np.zeros(rows.n_rows, bool)
    is_bad[[row.index for row in bad]] = True
    good_at = np.flatnonzero(~is_bad)
    errors: list[str | None] = [None] * rows.n_rows
    for row in bad:
        place = f"row {rows.first_row + row.index} has {row.found}"
        errors[row.index] = f"a row should have {n_names} values: {place}"
    for i, fault in faults.items():
        errors[int(good_at[i])] = placed(fault, f"row {rows.first_row + int(good_at[i])}")
    take = pa.array(np.cumsum(~is_bad) - 1, mask=is_bad)
    columns = {name: column.take(take) for name, column in rows.columns.items()}
    return Rows(rows.first_row, rows.n_rows, columns, pa.array(errors, pa.large_string()))
