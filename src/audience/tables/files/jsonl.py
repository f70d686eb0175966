"""JSON lines: one object a line. Values that are not text become their text; missing keys are null."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import pyarrow as pa

from audience.errors import BadInput
from audience.tables.base import Selection, SourceSpec
from audience.tables.files.base import Piece, Rows, placed
from audience.tables.files.lines import (
    CHUNK_BYTES,
    MAX_ROW_BYTES,
    Lines,
    RowRules,
    pieces_of_lines,
    read_lines,
    reason_of,
)

BOM = codecs.BOM_UTF8
KEYS_LINES = 1_000
LONG_LINES = 16
"""At most, among the first lines that are looked at for keys."""
ESCAPED_BACKSLASH = r"\\\\"
SURROGATE = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
SURROGATE_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
NESTED = r'"\s*:\s*[\[{]'

COLON, QUOTE, BACKSLASH = b':"\\'

Faults = dict[int, str]
"""Why a line cannot be used, by its index among the filled lines of a block."""


class JsonlFormat:
    """Lines that are not a JSON object, or that hold half of a surrogate pair, come with an error."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    def columns(self, path: Path) -> dict[str, str]:
        """The keys of the first lines, and the columns that the spec names: a key may appear late."""
        keys: dict[str, str] = {}
        values = [_object_or_fault(line) for line in _first_lines(path)]
        for value in values:
            keys.update(dict.fromkeys(value if isinstance(value, dict) else (), "text"))
        n_bad = sum(isinstance(value, str) for value in values)
        if n_bad * 2 > len(values):
            raise BadInput(f"{path} is not JSON lines: {n_bad} of its first {len(values)} lines are not a JSON object")
        return keys | dict.fromkeys(self.spec.roles.values(), "text")

    def pieces(self, path: Path, selection: Selection, time_column: str | None) -> Iterator[Piece]:
        return pieces_of_lines(path, _start(path), RowRules(), selection.partition_rows)

    def read(self, path: Path, piece: dict[str, Any], columns: Sequence[str]) -> Iterator[Rows]:
        for lines in read_lines(path, piece):
            if lines.fault:
                nothing = {name: pa.nulls(lines.n_rows, pa.large_string()) for name in columns}
                reasons = pa.array([reason_of(lines.fault)] * lines.n_rows, pa.large_string())
                yield Rows(lines.first_row, lines.n_rows, nothing, reasons)
                continue
            frame = _fast(lines.data, lines.n_rows, columns)
            faults: Faults = {}
            if frame is None or _may_hold_half_pairs(lines.data) or _may_hold_a_key_twice(lines.data, frame):
                frame, faults = _slow(_filled(lines.data), columns)
            if any(_looks_nested(frame)):
                frame = _with_nested_texts(frame, _filled(lines.data))
            values = {name: frame[name].to_arrow().cast(pa.large_string()) for name in columns}
            yield Rows(lines.first_row, len(frame), values, _errors(faults, lines) if faults else None)


def _start(path: Path) -> int:
    with path.open("rb") as file:
        return len(BOM) if file.read(len(BOM)) == BOM else 0


def _first_lines(path: Path) -> Iterator[bytes]:
    size = n = 0
    with path.open("rb") as file:
        file.seek(_start(path))
        while size < CHUNK_BYTES and n < KEYS_LINES and (line := file.readline(MAX_ROW_BYTES + 1)):
            size, n = size + min(len(line), CHUNK_BYTES // LONG_LINES), n + 1
            if len(line) > MAX_ROW_BYTES:  # set aside when rows are read
                while not line.endswith(b"\n") and (line := file.readline(MAX_ROW_BYTES)):
                    pass
            elif line.strip(b"\r\n"):
                yield line


def _filled(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line and line != b"\r"]


def _fast(data: bytes, n_rows: int, columns: Sequence[str]) -> pl.DataFrame | None:
    """The columns of lines that are all good; None where one is not."""
    try:
        frame = pl.read_ndjson(data, schema=dict.fromkeys(columns, pl.String))
    except pl.exceptions.PolarsError:
        return None
    return frame if len(frame) == n_rows else None


def _may_hold_half_pairs(data: bytes) -> bool:
    r"""Whether a line holds an escape such as \ud83d that is not one of a pair: polars reads it as something else."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return False
    plain = pl.Series(data.decode().split("\n")).str.replace_all(ESCAPED_BACKSLASH, "")
    return bool((plain.str.count_matches(SURROGATE) != 2 * plain.str.count_matches(SURROGATE_PAIR)).any())


def _may_hold_a_key_twice(data: bytes, frame: pl.DataFrame) -> bool:
    """Whether a line may name a column twice, of which polars drops one. A name in quotes with a colon is a key."""
    first = _object_or_fault(data[: data.find(b"\n") + 1] or data)
    if isinstance(first, dict) and _count_keys(data) == len(first) * len(frame):
        return False
    for name in frame.columns:
        key = json.dumps(name, ensure_ascii=False).encode()
        if data.count(key) > len(frame) - frame[name].null_count():
            pattern = re.escape(key.decode()) + r"\s*:"
            if (pl.Series(data.decode().split("\n")).str.count_matches(pattern) > 1).any():
                return True
    return False


def _count_keys(data: bytes) -> int:
    """How often a quote that no backslash takes away stands before a colon: once a key in flat objects without spaces
    there. Several times faster than looking for names."""
    chunk = np.frombuffer(data, np.uint8)
    found, other = np.empty((2, max(len(chunk) - 2, 0)), np.bool_)
    np.equal(chunk[2:], COLON, out=found)
    for part, sign, compare in ((chunk[1:-1], QUOTE, np.equal), (chunk[:-2], BACKSLASH, np.not_equal)):
        compare(part, sign, out=other)
        np.logical_and(found, other, out=found)
    return int(np.count_nonzero(found))


def _slow(lines: Sequence[bytes], columns: Sequence[str]) -> tuple[pl.DataFrame, Faults]:
    """Every line on its own trial; the good ones are still read at once."""
    faults = {i: fault for i, line in enumerate(lines) if isinstance(fault := _object_or_fault(line), str)}
    good = [line for i, line in enumerate(lines) if i not in faults]
    frame, unread = _halved(good, columns)
    at = np.delete(np.arange(len(lines)), list(faults))
    faults |= {int(at[i]): "not JSON that can be read here" for i in unread}
    take: list[int | None] = [None] * len(lines)
    for i, line in enumerate(at):
        take[line] = i
    return frame[pl.Series(take, dtype=pl.UInt32)] if len(frame) else _nulls(len(lines), columns), faults


def _nulls(n_rows: int, columns: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series([None] * n_rows, dtype=pl.String) for name in columns})


def _halved(lines: Sequence[bytes], columns: Sequence[str]) -> tuple[pl.DataFrame, list[int]]:
    """The columns, and the lines that polars refuses although they are JSON, found by halving."""
    frame = _fast(b"\n".join(lines), len(lines), columns)
    if frame is not None:
        return frame, []
    if len(lines) == 1:
        return _nulls(1, columns), [0]
    middle = len(lines) // 2
    left, refused = _halved(lines[:middle], columns)
    right, more = _halved(lines[middle:], columns)
    return pl.concat([left, right]), [*refused, *(middle + i for i in more)]


def _object_or_fault(line: bytes) -> dict[str, Any] | str:
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_each_key_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    except UnicodeDecodeError as error:
        return f"not UTF-8: at byte {error.start}"
    except _Twice as error:
        return f"a key stands twice: {error}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return f"not JSON that can be read here: {error}"
    return value if isinstance(value, dict) else "not a JSON object, as {...} is"


class _Twice(Exception):
    """A key that stands twice in one object."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(next(name for name in names if names.count(name) > 1)))
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _errors(faults: Faults, lines: Lines) -> pa.Array:
    numbers = [lines.first_line + i for i, line in enumerate(lines.data.split(b"\n")) if line and line != b"\r"]
    texts: list[str | None] = [None] * lines.n_rows
    for i, fault in faults.items():
        texts[i] = placed(fault, f"line {numbers[i]}")
    return pa.array(texts, pa.large_string())


def _looks_nested(frame: pl.DataFrame) -> pl.Series:
    looks = frame.select(pl.any_horizontal(pl.all().str.contains(r"^[\[{]")))
    return looks.to_series().fill_null(False)


def _with_nested_texts(frame: pl.DataFrame, lines: Sequence[bytes]) -> pl.DataFrame:
    """Nested values as JSON: polars leaves a backslash in them as it is, which is not."""
    texts = pl.Series([line.decode(errors="replace") for line in lines])
    at = (_looks_nested(frame) & texts.str.contains(NESTED)).arg_true()
    nested = [_nested_texts(lines[i]) for i in at]
    for name in frame.columns:
        pairs = zip(frame[name].gather(at), nested, strict=True)
        texts = pl.Series([found.get(name, text) for text, found in pairs], dtype=pl.String)
        frame = frame.with_columns(frame[name].scatter(at, texts))
    return frame


def _nested_texts(line: bytes) -> dict[str, str]:
    value = _object_or_fault(line)
    if isinstance(value, str):
        return {}
    nested = {name: inner for name, inner in value.items() if isinstance(inner, dict | list)}
    try:
        return {name: json.dumps(inner, ensure_ascii=False) for name, inner in nested.items()}
    except RecursionError:
        return {}
