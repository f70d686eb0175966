"""Which ends of lines are within quotes, and which quotes are broken; vectorised, chunk by chunk."""

import codecs
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NEWLINE, RETURN, QUOTE, BACKSLASH = 10, 13, 34, 92
FIRST_TRAIL_BYTE, FIRST_LEAD_BYTE = 0x30, 0x80
"""No encoding that is read has smaller ones within, or at the start of, a character of several bytes."""

Positions = npt.NDArray[np.int64]
Chunk = npt.NDArray[np.uint8]


class BrokenQuote(NamedTuple):
    """A quote that closes a value and is followed by neither a delimiter nor the end of a line."""

    position: int
    follows_backslash: bool


@dataclass
class Quotes:
    """Follows quotes from one chunk to the next: whether one is open, and the last byte."""

    delimiter: str
    encoding: str
    is_open: bool = False
    before: int = NEWLINE
    has_trail_bytes: bool = field(init=False)
    _ends: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self._ends = np.zeros(256, np.bool_)
        self._ends[[ord(self.delimiter), NEWLINE, RETURN]] = True
        self.has_trail_bytes = ord(self.delimiter) >= FIRST_TRAIL_BYTE and is_multibyte(self.encoding)

    def outside(self, data: bytes, chunk: Chunk, at: Positions) -> tuple[Positions, BrokenQuote | None]:
        """The positions that are not within quotes, up to the first broken quote, if there is one.

        Quotes come in runs. A run of even length changes nothing; an odd one at the start of a field opens or closes,
        and an odd one elsewhere closes or is plain text: both leave the state closed."""
        if b'"' not in data:
            return (at[:0] if self.is_open else at), None
        quotes = np.flatnonzero(chunk == QUOTE)
        first = np.flatnonzero(np.diff(quotes, prepend=-2) > 1)
        length = np.diff(first, append=len(quotes))
        is_odd = (length & 1).astype(np.bool_)
        runs = quotes[first]
        odd = runs[is_odd]
        inside = self._inside(data, chunk, odd)
        outside = at[~inside[np.searchsorted(odd, at)]]
        closing = inside[:-1]
        broken = self._followed(chunk, odd[closing], length[is_odd][closing])
        even = runs[~is_odd]
        begins = self._starts_field(data, chunk, even)
        if begins.any():  # opens and closes at once, where none is open
            even, size = even[begins], length[~is_odd][begins]
            alone = ~inside[np.searchsorted(odd, even)]
            broken = np.concatenate((broken, self._followed(chunk, even[alone], size[alone])))
        if broken.size:
            position = int(broken.min())
            found = BrokenQuote(position, position > 0 and bool(chunk[position - 1] == BACKSLASH))
            return outside[: np.searchsorted(outside, position)], found
        self.is_open = bool(inside[-1])
        return outside, None

    def _inside(self, data: bytes, chunk: Chunk, odd: Positions) -> npt.NDArray[np.bool_]:
        """Whether a quote is open before each odd run, and after the last."""
        is_open = int(self.is_open)
        alternating = (np.arange(is_open, len(odd) + 1 + is_open) & 1).astype(np.bool_)
        if self._starts_field(data, chunk, odd[~alternating[:-1]]).all():  # as in every file without stray quotes
            return alternating
        starts = self._starts_field(data, chunk, odd)
        opened = np.concatenate(([is_open], is_open + np.cumsum(starts)))
        closed_at = np.concatenate(([-1], np.where(starts, -1, np.arange(1, len(opened)))))
        last_closed = np.maximum.accumulate(closed_at)
        since = np.where(last_closed >= 0, opened[last_closed], 0)
        inside: npt.NDArray[np.bool_] = (opened - since) % 2 == 1
        return inside

    def _followed(self, chunk: Chunk, runs: Positions, length: Positions) -> Positions:
        """The runs after which a field should end, but does not."""
        stops = runs + length
        if stops.size and stops[-1] == len(chunk):
            stops = stops[:-1]
        followed: Positions = runs[: len(stops)][~self._ends[chunk[stops]]]
        return followed

    def _starts_field(self, data: bytes, chunk: Chunk, at: Positions) -> npt.NDArray[np.bool_]:
        """Whether a field begins at each of these positions."""
        before = chunk[at - 1]
        if at.size and at[0] == 0:
            before[0] = self.before
        starts: npt.NDArray[np.bool_] = self._ends[before]
        for i in np.flatnonzero(before == ord(self.delimiter)) if self.has_trail_bytes else ():
            end = int(at[i])
            if end > 1 and data[end - 2] >= FIRST_LEAD_BYTE:  # it may only look like a delimiter
                begin = 1 + max(data.rfind(sign, 0, end - 1) for sign in (b"\n", b'"', b","))
                starts[i] = data[begin:end].decode(self.encoding, "replace").endswith(self.delimiter)
        return starts


def plain_values(line: str, delimiter: str) -> list[str | None] | None:
    """The values of a line in which quotes may be plain text; None where it may be read in two ways."""
    values: list[str | None] = []
    at = 0
    while True:
        close = at
        if line.startswith('"', at):
            close = line.find('"', at + 1)
            while close >= 0 and line.startswith('"', close + 1):
                close = line.find('"', close + 2)
            if close < 0:
                return None
            if close + 1 == len(line) or line.startswith(delimiter, close + 1):
                values.append(line[at + 1 : close].replace('""', '"'))
                at = close + 1
            elif delimiter in line[at:close] or line[close - 1] == "\\":
                return None
        if at <= close:
            end = line.find(delimiter, close)
            end = len(line) if end < 0 else end
            values.append(line[at:end] or None)
            at = end
        if at == len(line):
            return values
        at += len(delimiter)


@cache
def is_multibyte(encoding: str) -> bool:
    """Whether characters of several bytes may hold one that is ASCII alone: Big5, GB18030, Shift JIS and the like."""
    if codecs.lookup(encoding).name in ("utf-8", "ascii"):
        return False
    trail = bytes([0x40, 0x5C, 0x61, 0x7C])
    leads = range(0x81, 0xFF)
    return any(len(bytes([lead, byte]).decode(encoding, "ignore")) == 1 for lead in leads for byte in trail)
