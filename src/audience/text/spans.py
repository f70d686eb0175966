"""Converts byte offsets, in which the engines count, to code point offsets, in which users and Python count."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audience.text.folding import Lowered

__all__ = ["Ints", "code_point_offsets"]

Ints = NDArray[np.int64]

TEXT_BYTES_AT_ONCE = 2 << 20
BLOCK = 1 << 20
"""Bytes counted at a time: the temporary arrays of a block take six times as much."""


def code_point_offsets(texts: pl.Series | Lowered, rows: Ints, byte_offsets: Ints) -> Ints:
    """Returns the code points before each of `byte_offsets` (UTF-8, at code point limits) in the texts at `rows`.

    A row may occur any number of times, in any order; its text is not null. Takes linear time, and memory for two
    megabytes of text or the longest one, whichever is more."""
    result = np.asarray(byte_offsets, dtype=np.int64).copy()
    unique, place = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    if not len(unique):
        return result
    picked = texts.gather(unique)
    sizes = picked.str.len_bytes().to_numpy().astype(np.int64)
    wide = sizes != picked.str.len_chars().to_numpy()
    order = np.flatnonzero(wide[place])
    order = order[np.argsort(place[order], kind="stable")]
    for first, last in _slices(np.where(wide, sizes, 0)):
        low, high = np.searchsorted(place[order], [first, last])
        chosen = order[low:high]
        if len(chosen):
            result[chosen] = _counts(picked.slice(first, last - first), place[chosen] - first, result[chosen])
    return result


def _slices(sizes: Ints) -> list[tuple[int, int]]:
    """Returns runs of texts that together stay below the limit, or are one longer text alone."""
    if sizes.sum() <= TEXT_BYTES_AT_ONCE:
        return [(0, len(sizes))]
    limits, held = [0], 0
    for row in range(len(sizes)):
        held += int(sizes[row])
        if held > TEXT_BYTES_AT_ONCE and limits[-1] < row:
            limits.append(row)
            held = int(sizes[row])
    return list(zip(limits, [*limits[1:], len(sizes)], strict=True))


def _counts(texts: pl.Series, rows: Ints, byte_offsets: Ints) -> Ints:
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offset_buffer, data = array.buffers()
    starts = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset :][rows]
    before = _lead_bytes_before(np.frombuffer(data, dtype=np.uint8), np.concatenate((starts, starts + byte_offsets)))
    return before[len(rows) :] - before[: len(rows)]


def _lead_bytes_before(data: NDArray[np.uint8], positions: Ints) -> Ints:
    """Counts the code points that begin before each position of `data`."""
    order = np.argsort(positions, kind="stable")
    ascending = positions[order]
    counts = np.zeros(len(positions), dtype=np.int64)
    total = 0
    for start in range(0, len(data), BLOCK):
        block = np.concatenate(([0], np.cumsum((data[start : start + BLOCK] & 0xC0) != 0x80, dtype=np.int32)))
        low, high = np.searchsorted(ascending, [start, start + BLOCK])
        counts[order[low:high]] = total + block[ascending[low:high] - start]
        total += int(block[-1])
    counts[order[np.searchsorted(ascending, len(data)) :]] = total
    return counts
