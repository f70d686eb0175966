"""Where the rows of a text file begin: one vectorised pass over its bytes, in chunks."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from audience.errors import BadInput, Conflict
from audience.tables.files.base import Piece
from audience.tables.files.quotes import BrokenQuote, Quotes

CHUNK_BYTES = 4 * 2**20
HEAD_BYTES = 2**15
AGAIN_BYTES = 2**16
"""Looked at first after a broken quote: where there are many of them, most of a chunk would be looked at in vain."""
UNCLOSED_BYTES = 2**20
"""What a quote that never ends well may take with it; beyond that the file would lose too much."""
MAX_ROW_BYTES = 16 * 2**20
"""Larger rows are set aside unread: reading one takes many times its size."""
MAX_BROKEN = 10_000
BROKEN_SHARE = 10
"""More broken quotes than the first, and more than a row in so many: then the option is wrong, not the rows."""
NEWLINE, RETURN = 10, 13

Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowRules:
    """How rows end: with a newline; where `quoting`, only outside quotes, and a lone carriage return is one too.
    `encoding`: whose characters may hold the byte of the delimiter."""

    quoting: bool = False
    delimiter: str = ","
    encoding: str = "utf-8"


class Fault(NamedTuple):
    """Why the rows of a block are not read as others are. `kind`: `unclosed` or `broken` quote, `long`; `apart`: one
    line whose broken quotes may be plain text. The file's lines from `first` to `last`; `detail`: whether a backslash
    stands before the quote, or the size of the row."""

    kind: str
    first: int
    last: int
    detail: int = 0


@dataclass(frozen=True)
class Block:
    """Rows that lie in the bytes before `end`, after the block before. Blank lines count as lines, not as rows."""

    start: int
    end: int
    n_rows: int
    n_lines: int
    fault: Fault | None = None


class _Found(NamedTuple):
    """Of one chunk: positions in the file after each end of a row, whether that row holds anything, how many bytes;
    positions after each end of a line, also within quotes; the first broken quote, before which all this holds."""

    ends: Positions
    filled: Flags
    sizes: Positions
    lines: Positions
    broken: BrokenQuote | None = None


@dataclass
class _Scanner:
    """Finds ends of rows in one chunk after another."""

    rules: RowRules
    row_start: int = 0
    quotes: Quotes = field(init=False)

    def __post_init__(self) -> None:
        self.quotes = Quotes(self.rules.delimiter, self.rules.encoding)

    @property
    def in_quotes(self) -> bool:
        return self.quotes.is_open

    @property
    def before(self) -> int:
        return self.quotes.before

    def scan(self, data: bytes, offset: int) -> _Found:
        chunk = np.frombuffer(data, np.uint8)
        lines = at = np.flatnonzero(chunk == NEWLINE)
        broken = None
        if self.rules.quoting:
            lines = _with_lone_returns(data, chunk, at)
            at, broken = self.quotes.outside(data, chunk, lines)
        if len(data):
            self.quotes.before = data[-1]
        starts = np.concatenate(([self.row_start - offset], at[:-1] + 1)) if len(at) else at
        sizes = at - starts
        if len(at):
            self.row_start = int(at[-1]) + 1 + offset
        if broken is not None:
            broken = broken._replace(position=broken.position + offset)
        filled = sizes - _returns(chunk, at) > 0 if b"\r" in data else sizes > 0
        ends = at + (1 + offset)
        return _Found(ends, filled, sizes, ends if lines is at else lines + (1 + offset), broken)


def _returns(chunk: npt.NDArray[np.uint8], at: Positions) -> Positions:
    """How many carriage returns stand before each newline; a file that was converted twice has several."""
    is_newline = chunk[at] == NEWLINE
    found: Positions = ((chunk[np.maximum(at - 1, 0)] == RETURN) & is_newline & (at > 0)).astype(np.int64)
    n = 1
    while (more := (found == n) & (chunk[np.maximum(at - n - 1, 0)] == RETURN) & (at > n)).any():
        found[more] += 1
        n += 1
    return found


def _with_lone_returns(data: bytes, chunk: npt.NDArray[np.uint8], newlines: Positions) -> Positions:
    if b"\r" not in data:
        return newlines
    returns = np.flatnonzero(chunk == RETURN)
    following = chunk[np.minimum(returns + 1, len(chunk) - 1)]
    return np.sort(np.concatenate((newlines, returns[following != NEWLINE])))


@dataclass
class _Cutter:
    """Makes blocks of the rows that are found. A block ends where a piece of `rows_per_piece` rows does. `n_lines`
    counts the lines before `at`, where the next block begins; `lines_seen` those that were looked at."""

    rows_per_piece: int
    at: int
    n_rows: int = 0
    n_lines: int = 0
    lines_seen: int = 0

    def blocks(self, found: _Found) -> Iterator[Block]:
        """The rows of a chunk. One that is too long is a block of its own."""
        rows = self.n_rows + np.cumsum(found.filled)
        cuts = np.flatnonzero(found.filled & (rows % self.rows_per_piece == 0))
        long = np.flatnonzero(found.sizes > MAX_ROW_BYTES)
        wanted = np.unique(np.concatenate((cuts, long, long[long > 0] - 1, [len(found.ends) - 1])))
        for cut in wanted if len(found.ends) else ():
            end = int(found.ends[cut])
            seen = self.lines_seen + int(np.searchsorted(found.lines, end, side="right"))
            if rows[cut] > self.n_rows:
                n = int(rows[cut]) - self.n_rows
                fault = Fault("long", seen, seen, int(found.sizes[cut])) if cut in long else None
                yield self.block(end, n, seen - self.n_lines, fault)
        self.lines_seen += len(found.lines)

    def block(self, end: int, n_rows: int, n_lines: int, fault: Fault | None = None) -> Block:
        block = Block(self.at, end, n_rows, n_lines, fault)
        self.at, self.n_rows, self.n_lines = end, self.n_rows + n_rows, self.n_lines + n_lines
        return block

    def broken(self, ends: Positions, filled: Flags, fault: Fault) -> Iterator[Block]:
        """Lines of which a broken quote leaves none that could be read for sure: each is a row to be set aside."""
        begun = 0
        rows = self.n_rows + np.cumsum(filled)
        cuts = np.flatnonzero(filled & (rows % self.rows_per_piece == 0))
        for cut in np.unique(np.append(cuts, len(ends) - 1)):
            yield self.block(int(ends[cut]), int(filled[begun : cut + 1].sum()), int(cut) + 1 - begun, fault)
            begun = int(cut) + 1
        self.lines_seen = self.n_lines


def scan_blocks(path: Path, start: int, rules: RowRules, rows_per_piece: int, first_line: int = 1) -> Iterator[Block]:
    """The file from `start`, which is in line `first_line`, on in blocks of about a chunk."""
    cutter = _Cutter(rows_per_piece, start, n_lines=first_line - 1, lines_seen=first_line - 1)
    sizes: Iterable[int] = itertools.repeat(CHUNK_BYTES)
    for n_broken in itertools.count(1):
        scanner = _Scanner(rules, row_start=cutter.at)
        offset = cutter.at
        broken = None
        for data in _chunks(path, offset, sizes, whole_lines=scanner.quotes.has_trail_bytes):
            found = scanner.scan(data, offset)
            offset += len(data)
            yield from cutter.blocks(found)
            if (broken := found.broken) is not None:
                break
        if broken is None:
            if offset > scanner.row_start:
                yield from _last_block(path, cutter, scanner, offset)
            return
        if n_broken > MAX_BROKEN and n_broken * BROKEN_SHARE > cutter.n_rows:
            raise BadInput(
                f"{path}: {n_broken:,} of its first {cutter.n_rows + 1:,} rows have a quote that is followed by text "
                f"where it should close a value; {HINTS[broken.follows_backslash]}"
            )
        yield from _broken_lines(path, cutter, scanner.row_start, broken)
        sizes = _growing()


HINTS = {
    False: "if quotes are plain text in this file, turn quoting off (-o quoting=false)",
    True: r'it writes a quote as \", where CSV writes ""; write it again with doubled quotes (in Spark '
    "option('escape', '\"'), in MySQL ESCAPED BY '')",
}


def _growing() -> Iterator[int]:
    size = min(AGAIN_BYTES, CHUNK_BYTES)
    while True:
        yield size
        size = min(size * 2, CHUNK_BYTES)


def _broken_lines(path: Path, cutter: _Cutter, row_start: int, broken: BrokenQuote) -> Iterator[Block]:
    """The lines from where the row began to the one with the quote that should close it; with the next, rows begin."""
    if broken.position - row_start > UNCLOSED_BYTES:
        raise BadInput(
            f"{path}: a quote that opens in row {cutter.n_rows + 1} is followed by text where it ends, "
            f"{broken.position - row_start:,} bytes later: mend it; {HINTS[broken.follows_backslash]}"
        )
    data, end = b"", broken.position
    with path.open("rb") as file:
        file.seek(cutter.at)
        while fresh := file.read(AGAIN_BYTES):
            data += fresh
            if any(data.find(sign, end - cutter.at) >= 0 for sign in (b"\n", b"\r")):
                break
    chunk = np.frombuffer(data, np.uint8)
    at = _with_lone_returns(data, chunk, np.flatnonzero(chunk == NEWLINE))
    last = int(np.searchsorted(at, end - cutter.at))
    at = np.append(at, len(data) - 1)[: last + 1] if last == len(at) else at[: last + 1]
    starts = np.concatenate(([0], at[:-1] + 1))
    filled = at - starts - _returns(chunk, at) + (chunk[at] != NEWLINE) * (chunk[at] != RETURN) > 0
    blank = int(np.searchsorted(starts, row_start - cutter.at))
    filled[:blank] = False
    first_line = cutter.n_lines + 1 + blank
    kind = "apart" if len(at) == blank + 1 and not broken.follows_backslash else "broken"
    fault = Fault(kind, first_line, cutter.n_lines + len(at), int(broken.follows_backslash))
    yield from cutter.broken(at + 1 + cutter.at, filled, fault)


def _last_block(path: Path, cutter: _Cutter, scanner: _Scanner, end: int) -> Iterator[Block]:
    """The row that ends with the file instead of a newline."""
    size = end - scanner.row_start
    if scanner.in_quotes and size > UNCLOSED_BYTES:
        raise BadInput(
            f"{path}: a quote that opens in row {cutter.n_rows + 1} never ends, so the last {size:,} bytes would be "
            "one row; mend it, or turn quoting off if quotes are plain text there"
        )
    if size > 1 or scanner.before != RETURN:
        first = cutter.n_lines + 1
        last = max(first, cutter.lines_seen + (scanner.before not in (NEWLINE, RETURN)))
        fault = Fault("unclosed", first, last) if scanner.in_quotes else None
        if size > MAX_ROW_BYTES:
            fault = Fault("long", first, last, size)
        yield cutter.block(end, 1, last + 1 - first, fault)


def first_row_end(path: Path, start: int, rules: RowRules) -> int | None:
    """Where the first row that is not blank ends; None where there is none, or where its quotes are broken."""
    scanner = _Scanner(rules, row_start=start)
    offset = start
    for data in _chunks(path, start, itertools.repeat(HEAD_BYTES), whole_lines=False):
        found = scanner.scan(data, offset)
        offset += len(data)
        if found.filled.any():
            return int(found.ends[found.filled.argmax()])
        if found.broken is not None:
            return None
    return offset if offset > scanner.row_start and not scanner.in_quotes else None


def _chunks(path: Path, start: int, sizes: Iterable[int], *, whole_lines: bool) -> Iterator[bytes]:
    """Chunks that end neither within a run of quotes nor between the two bytes of a line's end; `whole_lines`: nor
    within a line, as far as lines are shorter."""
    with path.open("rb") as file:
        file.seek(start)
        carried = b""
        for size in sizes:
            fresh = file.read(size)
            if not fresh:
                break
            data = carried + fresh
            kept = len(data.rstrip(b'"\r'))
            if whole_lines and (newline := data.rfind(b"\n")) >= 0:
                kept = newline + 1
            carried = data[kept:]
            if kept:
                yield data[:kept]
        if carried:
            yield carried


def pieces_of_lines(
    path: Path, start: int, rules: RowRules, rows_per_piece: int, first_line: int = 1
) -> Iterator[Piece]:
    """Blocks gathered into pieces of `rows_per_piece` rows. The slice holds the end, rows and lines of each block, so
    that reading does not scan again, and the fault of those that are not read."""
    slice_: dict[str, Any] = {}
    n_rows, n_lines = 0, first_line - 1
    for block in scan_blocks(path, start, rules, rows_per_piece, first_line):
        if n_rows % rows_per_piece == 0 and block.n_rows:
            if slice_:
                yield _piece(slice_)
            slice_ = {"start": block.start, "first_row": n_rows + 1, "first_line": n_lines + 1, "blocks": []}
        if slice_:
            told = [block.end, block.n_rows, block.n_lines]
            slice_["blocks"].append([*told, list(block.fault)] if block.fault else told)
            slice_["end"] = block.end
        n_rows, n_lines = n_rows + block.n_rows, n_lines + block.n_lines
    if slice_:
        yield _piece(slice_)


def _piece(slice_: dict[str, Any]) -> Piece:
    return Piece(slice_, sum(block[1] for block in slice_["blocks"]))


@dataclass(frozen=True)
class Lines:
    """The bytes of one block; none where none of its rows can be used."""

    data: bytes
    first_row: int
    first_line: int
    n_rows: int
    fault: Fault | None = None


def read_lines(path: Path, piece: dict[str, Any]) -> Iterator[Lines]:
    first_row, first_line, start = piece["first_row"], piece["first_line"], piece["start"]
    with path.open("rb") as file:
        for end, n_rows, n_lines, *fault in piece["blocks"]:
            known = Fault(*fault[0]) if fault else None
            data = b""
            if known is None or known.kind == "apart":
                file.seek(start)
                data = file.read(end - start)
                if len(data) != end - start:
                    raise Conflict(f"{path} became shorter while it was read: plan again")
            yield Lines(data, first_row, first_line, n_rows, known)
            first_row, first_line, start = first_row + n_rows, first_line + n_lines, end


def reason_of(fault: Fault) -> str:
    """Why rows are set aside, the kind first, because reasons are counted by it."""
    place = f"line {fault.first}" if fault.first == fault.last else f"lines {fault.first} to {fault.last}"
    if fault.kind == "long":
        return f"a row has more than {MAX_ROW_BYTES >> 20} MiB: {place}, {fault.detail:,} bytes"
    if fault.kind == "unclosed":
        return (
            f"the quote that opens in this row never ends: {place}; if quotes are plain text in this file, "
            "turn quoting off (-o quoting=false)"
        )
    return f"a quote is followed by text where it should close a value: {place}; {HINTS[bool(fault.detail)]}"


def lines_of_rows(data: bytes, rules: RowRules) -> Positions:
    """How many lines stand before each row of a block."""
    found = _Scanner(rules).scan(data, 0)
    starts = np.concatenate(([0], found.ends))[: len(found.ends) + 1]
    filled = np.append(found.filled, len(data) > (int(found.ends[-1]) if len(found.ends) else 0))
    before: Positions = np.searchsorted(found.lines, starts[filled], side="right").astype(np.int64)
    return before
