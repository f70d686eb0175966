"""Which code points a character class of Python's `re` holds: found by asking `re` itself.

Unicode tables differ between engines and between versions of one engine, so the other engines are never
asked what a word character is or which letters differ only in case: they get code points spelled out.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANYTHING", "Category", "Mask", "Ranges", "Span", "is_closed", "lower_table", "mask_of", "members"]
__all__ += ["contains", "ranges_of", "word"]

COUNT = 0x110000
SURROGATES = slice(0xD800, 0xE000)

Mask = NDArray[np.bool_]
Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of code points, ascending, not touching, without surrogates (no text holds one)."""

ANYTHING: Ranges = ((0, 0xD7FF), (0xE000, COUNT - 1))


class Span(NamedTuple):
    """The code points from `first` to `last`, both included."""

    first: int
    last: int


class Category(NamedTuple):
    """A class such as `\\w`; `escape` is the letter as `re` writes it: d, D, s, S, w or W."""

    escape: str


Item = Span | Category


@lru_cache(maxsize=4096)
def members(
    items: tuple[Item, ...], *, negated: bool = False, ignore_case: bool = False, ascii_only: bool = False
) -> Ranges:
    """Returns the code points that `re` matches with a class of these items."""
    plain = items[0]
    if not negated and len(items) == 1 and _is_plain(plain, ignore_case):
        return ((plain.first, plain.last),)
    mask = np.zeros(COUNT, dtype=np.bool_)
    for item in items:
        if isinstance(item, Category):
            mask |= _category(item.escape, ascii_only)
        else:
            mask[item.first : item.last + 1] = True
    if negated:
        mask = ~mask
    if ignore_case:
        _ask_about_case(mask, items, negated, ascii_only)
    return ranges_of(mask)


def _is_plain(item: Item, ignore_case: bool) -> TypeGuard[Span]:
    if isinstance(item, Category) or (item.first < SURROGATES.stop and item.last >= SURROGATES.start):
        return False
    return not ignore_case or (item.first == item.last and chr(item.first) not in cased())


@cache
def word(ascii_only: bool) -> Ranges:
    """Returns what `\\b` and `\\w` take for a word character."""
    return members((Category("w"),), ascii_only=ascii_only)


def mask_of(ranges: Ranges) -> Mask:
    mask = np.zeros(COUNT, dtype=np.bool_)
    for first, last in ranges:
        mask[first : last + 1] = True
    return mask


def contains(outer: Ranges, inner: Ranges) -> bool:
    return bool(mask_of(outer)[mask_of(inner)].all())


def ranges_of(mask: Mask) -> Ranges:
    mask[SURROGATES] = False
    padded = np.concatenate(([False], mask, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return tuple((int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True))


@cache
def lower_table(ascii_only: bool) -> dict[int, int]:
    """Returns upper-case code point -> the lower-case one that `re` compares in its place; one to one, so offsets
    stay."""
    letters = map(chr, range(128)) if ascii_only else cased()
    return {ord(letter): ord(letter.lower()[0]) for letter in letters if letter.lower() != letter}


def is_closed(ranges: Ranges, *, ascii_only: bool) -> bool:
    """Returns whether lowering a text (`lower_table`) changes nothing for this class."""
    table = lower_table(ascii_only)
    mask = mask_of(ranges)
    return bool((mask[list(table.keys())] == mask[list(table.values())]).all())


@cache
def cased() -> str:
    """Returns every code point that some change of case alters: `re.IGNORECASE` can matter for these only."""
    blocks = (_block(start) for start in range(0, COUNT, 256))
    return "".join(letter for block in blocks if _alters(block) for letter in block if _alters(letter))


def _block(start: int) -> str:
    return "".join(map(chr, range(start, start + 256)))


def _alters(text: str) -> bool:
    return not text == text.lower() == text.upper() == text.casefold()


@cache
def _category(escape: str, ascii_only: bool) -> Mask:
    found = re.finditer(rf"\{escape}+", _block_of_all(), re.ASCII if ascii_only else 0)
    mask = np.zeros(COUNT, dtype=np.bool_)
    for run in found:
        mask[run.start() : run.end()] = True
    return mask


def _block_of_all() -> str:
    return "".join(map(chr, range(COUNT)))


def _ask_about_case(mask: Mask, items: Iterable[Item], negated: bool, ascii_only: bool) -> None:
    source = "".join(_source(item) for item in items)
    flags = re.IGNORECASE | (re.ASCII if ascii_only else 0)
    found = re.findall(f"[{'^' * negated}{source}]", cased(), flags)
    mask[[ord(letter) for letter in cased()]] = False
    mask[[ord(letter) for letter in found]] = True


def _source(item: Item) -> str:
    if isinstance(item, Category):
        return f"\\{item.escape}"
    return f"\\U{item.first:08x}-\\U{item.last:08x}"
