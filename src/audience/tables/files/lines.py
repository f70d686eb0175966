"""Where the rows of a text file begin: one vectorised pass over its bytes, in chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audience.errors import BadInput, Conflict
from audience.tables.files.base import Piece

CHUNK_BYTES = 4 * 2**20
HEAD_BYTES = 2**15
UNCLOSED_BYTES = 2**20
"""A quote that never ends is one bad row up to this size; beyond it the file would lose too much."""
NEWLINE, RETURN, QUOTE = 10, 13, 34

Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowRules:
    """How rows end: with a newline; where `quoting`, only outside quotes, and a lone carriage return is one too."""

    quoting: bool = False
    delimiter: str = ","


@dataclass(frozen=True)
class Block:
    """Rows that lie in the bytes `start <= position < end`. Blank lines count as lines, not as rows."""

    start: int
    end: int
    n_rows: int
    n_lines: int
    unclosed: bool = False


@dataclass
class _Scanner:
    """Finds ends of rows in one chunk after another."""

    rules: RowRules
    before: int = NEWLINE
    in_quotes: bool = False
    row_start: int = field(default=0)

    def scan(self, data: bytes, offset: int) -> tuple[Positions, Flags]:
        """Positions in the file after each end of a row, and whether that row holds anything."""
        chunk = np.frombuffer(data, np.uint8)
        at = np.flatnonzero(chunk == NEWLINE)
        if self.rules.quoting:
            at = self._outside_quotes(data, chunk, _with_lone_returns(data, chunk, at))
        starts = np.concatenate(([self.row_start], at[:-1] + 1 + offset)) if len(at) else at
        length = at + offset - starts
        ends_in_return = (chunk[np.maximum(at - 1, 0)] == RETURN) & (chunk[at] == NEWLINE) & (at > 0)
        if len(data):
            self.before = data[-1]
        if len(at):
            self.row_start = int(at[-1]) + 1 + offset
        return at + 1 + offset, length - ends_in_return > 0

    def _outside_quotes(self, data: bytes, chunk: npt.NDArray[np.uint8], at: Positions) -> Positions:
        """Quotes come in runs. A run of even length changes nothing; an odd one at the start of a field opens or
        closes, and an odd one elsewhere closes or is plain text: both leave the state closed."""
        if b'"' not in data:
            return at[:0] if self.in_quotes else at
        quotes = np.flatnonzero(chunk == QUOTE)
        first = np.flatnonzero(np.diff(quotes, prepend=-2) > 1)
        odd = np.diff(first, append=len(quotes)) % 2 == 1
        runs = quotes[first[odd]]
        before = np.where(runs > 0, chunk[np.maximum(runs - 1, 0)], self.before)
        starts_field = np.isin(before, (NEWLINE, RETURN, ord(self.rules.delimiter)))
        opened = np.concatenate(([int(self.in_quotes)], int(self.in_quotes) + np.cumsum(starts_field)))
        closed_at = np.concatenate(([-1], np.where(starts_field, -1, np.arange(1, len(opened)))))
        last_closed = np.maximum.accumulate(closed_at)
        since = np.where(last_closed >= 0, opened[last_closed], 0)
        inside = (opened - since) % 2 == 1
        self.in_quotes = bool(inside[-1])
        outside: Positions = at[~inside[np.searchsorted(runs, at)]]
        return outside


def _with_lone_returns(data: bytes, chunk: npt.NDArray[np.uint8], newlines: Positions) -> Positions:
    if b"\r" not in data:
        return newlines
    returns = np.flatnonzero(chunk == RETURN)
    following = chunk[np.minimum(returns + 1, len(chunk) - 1)]
    return np.sort(np.concatenate((newlines, returns[following != NEWLINE])))


def scan_blocks(path: Path, start: int, rules: RowRules, rows_per_piece: int) -> Iterator[Block]:
    """The file from `start` on in blocks of about a chunk. A block ends where a piece of `rows_per_piece` rows does."""
    scanner = _Scanner(rules, row_start=start)
    block_start, n_rows, n_lines = start, 0, 0
    offset = start
    for data in _chunks(path, start, CHUNK_BYTES):
        ends, filled = scanner.scan(data, offset)
        offset += len(data)
        rows = n_rows + np.cumsum(filled)
        cuts = np.flatnonzero(filled & (rows % rows_per_piece == 0))
        done = 0
        for cut in np.unique(np.append(cuts, len(ends) - 1)) if len(ends) else ():
            n_lines += int(cut) + 1 - done
            done = int(cut) + 1
            if rows[cut] > n_rows:
                yield Block(block_start, int(ends[cut]), int(rows[cut]) - n_rows, n_lines)
                block_start, n_rows, n_lines = int(ends[cut]), int(rows[cut]), 0
    if offset > scanner.row_start:
        yield from _last_block(path, Block(block_start, offset, 1, n_lines + 1, scanner.in_quotes), scanner, n_rows)


def _last_block(path: Path, block: Block, scanner: _Scanner, n_rows: int) -> Iterator[Block]:
    """The row that ends with the file instead of a newline."""
    size = block.end - scanner.row_start
    if block.unclosed and size > UNCLOSED_BYTES:
        raise BadInput(
            f"{path}: a quote that opens in row {n_rows + 1} never ends, so the last {size:,} bytes would be one row; "
            "mend it, or turn quoting off if quotes are plain text there"
        )
    if size > 1 or scanner.before != RETURN:
        yield block


def first_row_end(path: Path, start: int, rules: RowRules) -> int | None:
    """Where the first row that is not blank ends; None where there is none, or where its quote never ends."""
    scanner = _Scanner(rules, row_start=start)
    offset = start
    for data in _chunks(path, start, HEAD_BYTES):
        ends, filled = scanner.scan(data, offset)
        offset += len(data)
        if filled.any():
            return int(ends[filled.argmax()])
    return offset if offset > scanner.row_start and not scanner.in_quotes else None


def _chunks(path: Path, start: int, size: int) -> Iterator[bytes]:
    """Chunks that end neither within a run of quotes nor between the two bytes of a line's end."""
    with path.open("rb") as file:
        file.seek(start)
        carried = b""
        while fresh := file.read(size):
            data = carried + fresh
            kept = len(data.rstrip(b'"\r'))
            carried = data[kept:]
            if kept:
                yield data[:kept]
        if carried:
            yield carried


def pieces_of_lines(path: Path, start: int, rules: RowRules, rows_per_piece: int) -> Iterator[Piece]:
    """Blocks gathered into pieces of `rows_per_piece` rows. The slice holds the end, rows and lines of each block, so
    that reading does not scan again."""
    slice_: dict[str, Any] = {}
    n_rows = n_lines = 0
    for block in scan_blocks(path, start, rules, rows_per_piece):
        if n_rows % rows_per_piece == 0:
            if slice_:
                yield _piece(slice_)
            slice_ = {"start": block.start, "first_row": n_rows + 1, "first_line": n_lines + 1, "blocks": []}
        slice_["blocks"].append([block.end, block.n_rows, block.n_lines])
        slice_["end"] = block.end
        if block.unclosed:
            slice_["unclosed"] = True
        n_rows, n_lines = n_rows + block.n_rows, n_lines + block.n_lines
    if slice_:
        yield _piece(slice_)


def _piece(slice_: dict[str, Any]) -> Piece:
    return Piece(slice_, sum(n for _, n, _ in slice_["blocks"]))


@dataclass(frozen=True)
class Lines:
    """The bytes of one block."""

    data: bytes
    first_row: int
    first_line: int
    n_rows: int
    unclosed: bool = False


def read_lines(path: Path, piece: dict[str, Any]) -> Iterator[Lines]:
    first_row, first_line, start = piece["first_row"], piece["first_line"], piece["start"]
    with path.open("rb") as file:
        for i, (end, n_rows, n_lines) in enumerate(piece["blocks"]):
            file.seek(start)
            data = file.read(end - start)
            if len(data) != end - start:
                raise Conflict(f"{path} became shorter while it was read: plan again")
            unclosed = bool(piece.get("unclosed")) and i == len(piece["blocks"]) - 1
            yield Lines(data, first_row, first_line, n_rows, unclosed)
            first_row, first_line, start = first_row + n_rows, first_line + n_lines, end
