"""Folding makes texts equal that a comparison should not tell apart. Every fold keeps the number of code points, so
that a position in folded text is the same position in the original."""

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

WIDE = [chr(c) for c in range(0xFF01, 0xFF5F)] + ["\u3000"]
NARROW = [chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)] + [" "]

MOST_SPELLINGS = 16


def fold(texts: pl.Series, *, lower: bool, width: bool) -> pl.Series:
    """Lowers one code point at a time (Unicode's simple mapping), and turns full-width ASCII into ASCII; null stays
    null."""
    if width:
        texts = texts.str.replace_many(WIDE, NARROW)
    if not lower:
        return texts
    # The full mapping turns İ into two code points, and a final Σ into ς.
    if texts.str.contains("[İΣ]").any():
        texts = texts.str.replace_many(["İ", "Σ"], ["i", "σ"])
    return texts.str.to_lowercase()


def fold_all(texts: Sequence[str], *, lower: bool, width: bool) -> list[str]:
    """Folds a list of texts."""
    return fold(pl.Series(texts, dtype=pl.String), lower=lower, width=width).to_list()


class Lowered:
    """A column in lower case, which lowers only the rows that are looked at: most never are."""

    def __init__(self, raw: pl.Series, *, lowers: bool) -> None:
        self.raw = raw
        self.lowers = lowers
        self._n_gathered = 0

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def all(self) -> pl.Series:
        return fold(self.raw, lower=self.lowers, width=False)

    def gather(self, rows: pl.Series | NDArray[np.int64]) -> pl.Series:
        self._n_gathered += len(rows)
        if self._n_gathered > len(self.raw):  # asked for again and again: all of it once costs less
            return self.all.gather(rows)
        return fold(self.raw.gather(rows), lower=self.lowers, width=False)


@cache
def lower_table() -> NDArray[np.uint32]:
    """Returns code point -> the code point that `fold` makes of it; surrogates stay."""
    table = np.arange(0x110000, dtype=np.uint32)
    for part in (slice(0, 0xD800), slice(0xE000, 0x110000)):
        every_letter = table[part].tobytes().decode("utf-32-le")
        [lowered] = fold_all([every_letter], lower=True, width=False)
        table[part] = np.frombuffer(lowered.encode("utf-32-le"), dtype=np.uint32)
    return table


@cache
def _rare_capitals() -> dict[str, tuple[str, ...]]:
    """Returns letter -> what is lowered to it, beside itself and ASCII letters."""
    table = lower_table()
    capitals = np.flatnonzero(table != np.arange(len(table)))
    found: dict[str, tuple[str, ...]] = {}
    for capital in capitals[capitals > 127].tolist():
        letter = chr(table[capital])
        found[letter] = (*found.get(letter, ()), chr(capital))
    return found


def spellings(lowered: str) -> list[str] | None:
    """Returns what is lowered to this text, but for the case of ASCII letters; None: too many."""
    choices = [(c, *_rare_capitals().get(c, ())) for c in lowered]
    if np.prod([len(c) for c in choices]) > MOST_SPELLINGS:
        return None
    return ["".join(letters) for letters in product(*choices)]
