"""One regular expression of a user, ready to be matched: it means what Python's `re` means by it.

`compile_pattern` has `re` judge and parse the pattern, and writes it for two engines (see `dialects`).
"""

import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import polars as pl
import regex

from audience.errors import BadInput
from audience.text import folding
from audience.text.charsets import Mask, Ranges, is_closed, lower_table, mask_of, ranges_of, word
from audience.text.dialects import Fast, slow_form
from audience.text.needles import backtracks_little, needles, repeats_endlessly
from audience.text.syntax import (
    Alt,
    At,
    Atomic,
    Chars,
    Cond,
    Group,
    Look,
    Node,
    Ref,
    Repeat,
    Seq,
    children,
    largest_repeat,
    least_width,
    parse,
)

__all__ = ["LARGEST_REPEAT", "LONGEST_SOURCE", "Pattern", "compile_pattern", "unlowered_form", "upper_case_literals"]

LONGEST_SOURCE = 1_000
LARGEST_REPEAT = 10_000
QUICK_CHARACTERS = 2_000
MOST_OPTIONS = 50
"""Between the bounds of a repeated back-reference: each becomes a nested alternation."""

AT_FRONT = (At("start"), At("line_start"))
AT_BACK = (At("end"), At("last_line_end"), At("line_end"))


@dataclass(frozen=True)
class Pattern:
    """A pattern in the syntaxes of both engines."""

    source: str
    """As the user wrote it."""
    ignore_case: bool
    fast: str | None
    """For polars. Every text that matches also matches this; None: nothing useful can be said."""
    exact: bool
    """And no other text matches `fast`."""
    exact_span: bool
    """And in the same place, once what the groups of `fast` captured is cut off."""
    lead: bool
    """The first group of `fast` captures text before the match."""
    tails: int
    """So many further groups of `fast` capture text after the match; at most one is not empty."""
    loose: str | None
    """For polars, without groups: accepts what `fast` does and perhaps more, but is quicker. None: not useful."""
    slow: str
    """For the `regex` package, version 0 behaviour, no flags: exact."""
    needles: tuple[str, ...]
    """Every match contains at least one of these; empty: nothing is known."""
    quick_in_re: int
    """`re` itself is quick on texts of up to so many characters."""
    fold: str
    """Lower the text for `slow` first, letter by letter: "ascii", "unicode" or "" (leave it)."""
    warnings: tuple[str, ...]


@lru_cache(maxsize=4096)
def compile_pattern(source: str, *, ignore_case: bool = False) -> Pattern:
    """Compiles a pattern for both engines. Raises BadInput if `re` refuses it, it is beyond the limits, or no engine
    can do what `re` does."""
    tree = _read(source, ignore_case)
    _check_references(source, tree)
    fold = _fold(source, tree)
    fast, text = _fast_form(tree)
    exact = text is not None and not fast.reasons
    pattern = Pattern(
        source=source,
        ignore_case=ignore_case,
        fast=text,
        exact=exact,
        exact_span=exact and fast.exact_span,
        lead=fast.lead,
        tails=fast.tails,
        loose=_loose_form(tree, text),
        slow=slow_form(tree),
        needles=needles(tree),
        quick_in_re=_quick_in_re(tree),
        fold=fold,
        warnings=tuple(_warnings(tree, fast, exact)),
    )
    _check_slow(pattern)
    return pattern


def _quick_in_re(tree: Node) -> int:
    """Returns up to how many characters `re` is quick: an endless repeat may be tried from every place of a text, which
    takes the square of its length."""
    if not backtracks_little(tree):
        return 0
    return QUICK_CHARACTERS if repeats_endlessly(tree) else sys.maxsize


def upper_case_literals(source: str, *, ignore_case: bool = False) -> bool:
    """Returns whether every match needs an upper-case letter, so that nothing in a lower-cased text can match."""
    return _needs_upper(_read(source, ignore_case))


@lru_cache(maxsize=256)
def _read(source: str, ignore_case: bool) -> Node:
    if len(source) > LONGEST_SOURCE:
        raise BadInput(f"a pattern of {len(source):,} characters is too long: at most {LONGEST_SOURCE:,}")
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(source, flags)
            tree = parse(source, flags)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise BadInput(f"not a regular expression: {error.msg}{place}: {source!r}") from None
    except (OverflowError, ValueError) as error:
        raise BadInput(f"not a regular expression: {error}: {source!r}") from None
    except RecursionError:
        raise BadInput(f"a pattern nested too deeply: {source!r}") from None
    _check_repeats(source, tree)
    return tree


def _check_repeats(source: str, tree: Node) -> None:
    repeats = largest_repeat(tree)
    if repeats > LARGEST_REPEAT:
        limit = f"nested repeats may multiply to at most {LARGEST_REPEAT:,}"
        raise BadInput(f"the pattern repeats something up to {repeats:,} times; {limit}: {source!r}")


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in children(node):
        yield from _nodes(child)


def _check_references(source: str, tree: Node) -> None:
    """Refuses what has no sure meaning: `re` and `regex` both err, each in its own way, about what a group holds
    after a failed attempt, once something longer than one character is repeated."""
    nodes = list(_nodes(tree))
    if not any(isinstance(node, Ref | Cond) for node in nodes):
        return
    if any(isinstance(node, Repeat) and node.most != 1 and not isinstance(node.body, Chars | Ref) for node in nodes):
        reason = "a pattern with a back-reference or a condition can repeat only single characters, classes and"
        raise BadInput(f"{reason} back-references (or make a group optional with ?): {source!r}")
    if any(isinstance(node, Repeat) and isinstance(node.body, Ref) and _options(node) > MOST_OPTIONS for node in nodes):
        raise BadInput(f"{{m,n}} after a back-reference may span at most {MOST_OPTIONS}: {source!r}")
    for group in nodes:
        if isinstance(group, Group) and any(isinstance(it, Cond) and it.number == group.number for it in _nodes(group)):
            raise BadInput(f"a condition on group {group.number} cannot stand inside that group: {source!r}")


def _options(node: Repeat) -> int:
    return 0 if node.most is None else node.most - node.least


def _fold(source: str, tree: Node) -> str:
    """How the text must be lowered for a back-reference that ignores case to mean what it does in `re`.

    The `regex` package compares by full case folding, `re` by simple lowering. So the text is lowered and then
    compared as it is, which is the same unless another part of the pattern tells upper from lower case.
    """
    folds = {node.fold for node in _nodes(tree) if isinstance(node, Ref)}
    if folds <= {""}:
        return ""
    sets = {node.ranges for node in _nodes(tree) if isinstance(node, Chars)}
    sets |= {word(node.ascii_only) for node in _nodes(tree) if isinstance(node, At) and node.kind in ("edge", "inside")}
    ascii_only = folds == {"ascii"}
    if len(folds) > 1 or not all(is_closed(ranges, ascii_only=ascii_only) for ranges in sets):
        reason = "a back-reference that ignores case cannot be combined with parts that do not"
        raise BadInput(f"{reason}: let the whole pattern ignore case, or nothing: {source!r}")
    return folds.pop()


def _fast_form(tree: Node) -> tuple[Fast, str | None]:
    """Returns the first form that polars takes and that does not simply accept every text."""
    for counts in (True, False):
        fast = Fast(tree, counts=counts)
        accepts_empty = _accepts_empty(fast.text)
        if accepts_empty is not None:
            return fast, fast.text if not fast.reasons or not accepts_empty else None
    fast.reasons.add("too large")
    return fast, None


def _loose_form(tree: Node, fast: str | None) -> str | None:
    loose = Fast(tree, edges=False).text
    return loose if fast is not None and _accepts_empty(loose) is False else fast


@lru_cache(maxsize=4096)
def unlowered_form(pattern: Pattern) -> str | None:
    """Returns, for polars, what `loose` accepts of a lowered text as a form for the text before it is lowered. None:
    not useful."""
    form = Fast(_unlowered(_read(pattern.source, pattern.ignore_case)), edges=False).text
    return form if _accepts_empty(form) is False else None


def _unlowered(node: Node) -> Node:
    """Returns the same tree over the letters that are lowered to those of its sets."""
    match node:
        case Chars(ranges):
            return Chars(_lowered_into(ranges))
        case Seq(items):
            return Seq(tuple(map(_unlowered, items)))
        case Alt(branches):
            return Alt(tuple(map(_unlowered, branches)))
        case Group() | Repeat() | Atomic() | Look():
            return replace(node, body=_unlowered(node.body))
        case Cond(_, yes, no):
            return replace(node, yes=_unlowered(yes), no=_unlowered(no))
    return node


@lru_cache(maxsize=4096)
def _lowered_into(ranges: Ranges) -> Ranges:
    return ranges_of(mask_of(ranges)[folding.lower_table()])


def _accepts_empty(form: str) -> bool | None:
    """Returns whether polars finds `form` in an empty text; None: it cannot compile it."""
    try:
        return bool(pl.Series([""]).str.contains(form, strict=True)[0])
    except pl.exceptions.ComputeError:
        return None


def _check_slow(pattern: Pattern) -> None:
    if pattern.exact_span:
        return
    try:
        regex.compile(pattern.slow, regex.V0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadInput(f"no engine takes this pattern ({error}): {pattern.source!r}") from None


def _warnings(tree: Node, fast: Fast, exact: bool) -> Iterator[str]:
    if not exact:
        yield f"cannot use the fast engine: {', '.join(sorted(fast.reasons))}"
    places = [node for node in _nodes(tree) if isinstance(node, At | Look | Ref | Cond | Atomic)]
    if least_width(tree) == 0 and (all(at in AT_FRONT for at in places) or all(at in AT_BACK for at in places)):
        yield "matches every text"


@cache
def _upper_letters() -> Mask:
    return mask_of(tuple((letter, letter) for letter in sorted(lower_table(False))))


@lru_cache(maxsize=65_536)
def _are_upper(ranges: Ranges) -> bool:
    return all(bool(_upper_letters()[first : last + 1].all()) for first, last in ranges)


def _needs_upper(node: Node) -> bool:
    match node:
        case Chars(ranges):
            return _are_upper(ranges)
        case Seq(items):
            return any(map(_needs_upper, items))
        case Alt(branches):
            return all(map(_needs_upper, branches))
        case Group(_, body) | Atomic(body) | Look(_, True, body):
            return _needs_upper(body)
        case Repeat(body, least):
            return least > 0 and _needs_upper(body)
        case Cond(_, yes, no):
            return _needs_upper(yes) and _needs_upper(no)
    return False
