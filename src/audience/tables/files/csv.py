"""CSV and TSV files: every value is text, an empty one is null, a quoted empty one is empty."""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from audience.errors import BadInput, Conflict
from audience.tables.base import Selection, SourceSpec
from audience.tables.files.base import Piece, Rows, placed
from audience.tables.files.lines import (
    Lines,
    RowRules,
    first_row_end,
    lines_of_rows,
    pieces_of_lines,
    read_lines,
    reason_of,
)
from audience.tables.files.quotes import plain_values

BOM = codecs.BOM_UTF8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
TAB_ENDINGS = (".tsv", ".tab")
HEADER_BYTES = 2**20
SAMPLE_BYTES = 2**18
SAMPLE_LINES = 1_000
ADVICE = "name the encoding of the file, such as utf-8, big5, cp950 or gb18030"
OTHER_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'", ",": "','"}
HALF_PAIR = re.compile("[\ud800-\udfff]")
NONCHARACTERS = [chr(code) for code in (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF)]
"""No text holds them; one stands for a byte that is not of the encoding until its row is set aside."""


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    quoting: bool
    encoding: str

    @property
    def rules(self) -> RowRules:
        return RowRules(self.quoting, self.delimiter, self.encoding)


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
        names = self._names(path)
        if self.spec.delimiter is None and self.spec.header is None and len(names) == 1:
            self._check_delimits(path, names[0])
        return dict.fromkeys(names, "text")

    def _check_delimits(self, path: Path, name: str) -> None:
        """Refuses a first line that another delimiter would cut, unless that is the name of a column that is used."""
        if name.lower().startswith("sep=") and len(name) <= len("sep=;"):
            raise BadInput(f"{path} begins with the line {name!r}: take it away, and give -o delimiter={name[4:]!r}")
        found = [sign for sign in OTHER_DELIMITERS if sign in name]
        if found and name not in self.spec.roles.values():
            raise BadInput(
                f"{path} has one column, called {name!r}: did you mean -o delimiter={OTHER_DELIMITERS[found[0]]}?"
            )

    def pieces(self, path: Path, selection: Selection, time_column: str | None) -> Iterator[Piece]:
        start, first_line = len(BOM) if self._has_bom(path) else 0, 1
        if self.spec.header is None:
            end = self._header_end(path, start)
            with path.open("rb") as file:
                head = file.read(end)
            start, first_line = end, 1 + head.count(b"\n") + head.count(b"\r") - head.count(b"\r\n")
        yield from pieces_of_lines(path, start, self._dialect(path).rules, selection.partition_rows, first_line)

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
        dialect = self._dialect(path)
        end = first_row_end(path, start, dialect.rules)
        if end is None and path.stat().st_size - start < HEADER_BYTES:
            raise BadInput(
                f"{path} is empty, or a quote in its first line never ends, or is followed by text where it should: "
                "the first line should name the columns"
            )
        if end is None or end - start > HEADER_BYTES:
            raise BadInput(f"{path}: the first line should name the columns, but it does not end")
        return end if dialect.quoting else self._before_lone_return(path, start, end)

    def _before_lone_return(self, path: Path, start: int, end: int) -> int:
        """Names of columns hold no carriage return: a first line that ends in one ends there, whatever others do."""
        with path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        _, lone, rest = line.lstrip(b"\r\n").partition(b"\r")
        if not lone or not rest.strip(b"\r\n"):
            return end
        if b"\n" not in line:
            raise BadInput(f"{path}: its lines end with a carriage return alone: convert them to newlines first")
        return end - len(rest)

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
    if lines.fault and lines.fault.kind == "apart":
        return _row_apart(lines, dialect, names, wanted)
    if lines.fault:
        nothing = {name: pa.nulls(lines.n_rows, pa.large_binary()) for name in wanted if name in names}
        reasons = pa.array([reason_of(lines.fault)] * lines.n_rows, pa.large_string())
        return Rows(lines.first_row, lines.n_rows, nothing, reasons)
    data, stand_in = _as_utf8(lines.data, dialect.encoding)
    columns, bad = _parsed(data, dialect, names, wanted)
    n_good = len(next(iter(columns.values()))) if columns else lines.n_rows - len(bad)
    if n_good + len(bad) != lines.n_rows:
        raise Conflict(f"{path} holds other rows than when it was planned (near row {lines.first_row}): plan again")
    faults: dict[int, str] = {}
    if stand_in:
        columns, faults = _without(columns, stand_in, dialect.encoding)
    rows = Rows(lines.first_row, lines.n_rows, columns)
    return _with_bad_rows(rows, bad, faults, len(names), lines, dialect) if bad or faults else rows


def _row_apart(lines: Lines, dialect: _Dialect, names: Sequence[str], wanted: Sequence[str]) -> Rows:
    """A row with a quote that is followed by text where it should close a value, all in one line: if there is no
    delimiter before that quote, the quotes of this value are plain text. Otherwise nobody knows where it ends."""
    assert lines.fault is not None
    place = f"row {lines.first_row} (line {lines.fault.first})"
    error = reason_of(lines.fault)
    values: list[str | None] | None = None
    if fault := _undecodable(lines.data, dialect.encoding):
        error = placed(fault, place)
    else:
        values = plain_values(lines.data.decode(dialect.encoding).strip("\r\n"), dialect.delimiter)
    if values is not None and len(values) != len(names):
        error, values = f"a row should have {len(names)} values: {place} has {len(values)}", None
    found = dict(zip(names, values or [None] * len(names), strict=True))
    columns = {name: pa.array([found[name]], pa.large_string()) for name in wanted if name in names}
    return Rows(lines.first_row, 1, columns, None if values is not None else pa.array([error], pa.large_string()))


def _as_utf8(data: bytes, encoding: str) -> tuple[bytes, str]:
    """The rows in UTF-8; and the character that stands in them for bytes that are not of the encoding, if there are.
    Only so are delimiters found for sure: their byte may be the second one of a character."""
    try:
        if encoding != "utf-8":
            return data.decode(encoding).encode(), ""
        if _is_utf8(data):
            return data, ""
    except UnicodeError:  # also of half a pair that an encoding may decode to
        pass
    codecs.register_error("audience.half_pair", _half_pair)
    text = data.decode(encoding, "audience.half_pair")
    stand_in = next(character for character in NONCHARACTERS if character not in text)
    return HALF_PAIR.sub(stand_in, text).encode(), stand_in


def _half_pair(error: UnicodeError) -> tuple[str, int]:
    """One for one byte, so that a delimiter after it is still found."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.start + 1


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
    lines = [line.rstrip(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
    rows = [line.split(delimiter) for line in lines if line]
    bad = [_Bad(i, len(row)) for i, row in enumerate(rows) if len(row) != len(names)]
    good = [row for row in rows if len(row) == len(names)]
    at = {name: names.index(name) for name in kept or names[:1]}
    return {name: pa.array([row[i] or None for row in good], pa.large_binary()) for name, i in at.items()}, bad


def _without(columns: dict[str, pa.Array], stand_in: str, encoding: str) -> tuple[dict[str, pa.Array], dict[int, str]]:
    """Columns with null for values that hold the stand-in, and what is wrong with them, by good row."""
    faults: dict[int, str] = {}
    clean = {}
    for name, column in columns.items():
        texts = column.cast(pa.large_string())
        is_bad = pc.match_substring(texts, stand_in).fill_null(False)
        for i in np.flatnonzero(is_bad.to_numpy(zero_copy_only=False)):
            at = len(texts[int(i)].as_py().partition(stand_in)[0].encode(encoding, "replace"))
            faults.setdefault(int(i), f"text is not {encoding}: {name}, at byte {at}")
        clean[name] = pc.if_else(is_bad, pa.scalar(None, texts.type), texts)
    return clean, faults


def _with_bad_rows(
    rows: Rows, bad: Sequence[_Bad], faults: dict[int, str], n_names: int, lines: Lines, dialect: _Dialect
) -> Rows:
    """The good rows with the bad ones, all null, where they were."""
    is_bad = np.zeros(rows.n_rows, bool)
    is_bad[[row.index for row in bad]] = True
    good_at = np.flatnonzero(~is_bad)
    line_of = lines_of_rows(lines.data, dialect.rules) + lines.first_line
    errors: list[str | None] = [None] * rows.n_rows

    def place(index: int) -> str:
        return f"row {rows.first_row + index} (line {line_of[index]})"

    for row in bad:
        errors[row.index] = f"a row should have {n_names} values: {place(row.index)} has {row.found}"
    for i, fault in faults.items():
        errors[int(good_at[i])] = placed(fault, place(int(good_at[i])))
    take = pa.array(np.cumsum(~is_bad) - 1, mask=is_bad)
    columns = {name: column.take(take) for name, column in rows.columns.items()}
    return Rows(rows.first_row, rows.n_rows, columns, pa.array(errors, pa.large_string()))
