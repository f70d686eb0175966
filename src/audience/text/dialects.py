"""Write a pattern's tree for the two engines: `fast` (polars: Rust's `regex`, linear) and `slow` (`regex`).

Code points are spelled out, so neither engine's own tables, flags or syntax extensions ever matter.

What the linear engine cannot say is left out of the fast form, which then accepts more texts, never fewer.
Assertions at an edge of the pattern can be said, though: it has no look-around, but as nothing precedes a
leading assertion and nothing follows a trailing one, the text that they look at may be consumed instead. That
text is captured, and cut off the match again: see `Fast`.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from audience.text.charsets import Ranges, mask_of, ranges_of, word
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
    least_width,
)

__all__ = ["Fast", "slow_form"]

INSIDE_MATCHES_EMPTY_TEXT = re.search(r"\B", "") is not None
"""Python 3.14 changed whether `\\B` matches in an empty text; we do what the running one does."""

ANY_TEXT = "(?s:.)*"
FAST_AT = {
    "start": r"\A",
    "line_start": "(?m:^)",
    "end": r"\z",
    "line_end": "(?m:$)",
}
SLOW_AT = {
    "start": r"\A",
    "line_start": r"(?<![^\n])",
    "end": r"\Z",
    "line_end": r"(?![^\n])",
    "last_line_end": r"(?=\n?\Z)",
}
QUANTIFIER_SUFFIX = {"greedy": "", "lazy": "?", "possessive": ""}


class Fast:
    """The fast form of one pattern, and how far it is to be trusted.

    `text`: the form. Its first group, if `lead`, holds text before the match; its other `tails` groups hold
    text after the match, and at most one of them is not empty. `reasons`: what had to be left out (nothing:
    the form accepts exactly the texts that `re` does). `exact_span`: and matches them in the same place.
    """

    def __init__(self, tree: Node, *, edges: bool = True, counts: bool = True) -> None:
        """`edges`: consume what edge assertions look at; `counts`: keep the bounds of repeats (else: 0, 1, any)."""
        self.edges = edges
        self.counts = counts
        self.reasons: set[str] = set()
        self.same_span = True
        self.capturing = True
        self.tails = 0
        lead, rest = self._split_lead(tree)
        self.lead = lead is not None
        self.text = (f"({lead})" if lead is not None else "") + self._emit(rest, True)

    @property
    def exact_span(self) -> bool:
        return self.same_span and not self.reasons

    def _split_lead(self, tree: Node) -> tuple[str | None, Node]:
        items = tree.items if isinstance(tree, Seq) else (tree,)
        if not self.edges or not items or not isinstance(items[0], At | Look):
            return None, tree
        rest = Seq(items[1:])
        lead = self._before(items[0], rest)
        return (None, tree) if lead is None else (lead, rest)

    def _before(self, node: At | Look, rest: Node) -> str | None:
        """Returns what to consume before `rest` to make the assertion `node` sure."""
        if isinstance(node, At):
            return _neighbour(node, ends(rest, True, node.ascii_only), r"\A|")
        if node.ahead:
            return None
        if node.positive:
            return self._looked_at(node.body, False)
        return rf"\A|{fast_class(_other(node.body.ranges))}" if isinstance(node.body, Chars) else None

    def _after(self, node: At | Look, before: Node) -> str | None:
        """Returns what to consume after `before`, at the end of the pattern, to make the assertion `node` sure."""
        if isinstance(node, At):
            if node.kind == "last_line_end":
                return r"\n?\z"
            return _neighbour(node, ends(before, False, node.ascii_only), r"\z|") if self.edges else None
        if not node.ahead or not self.edges:
            return None
        if node.positive:
            return self._looked_at(node.body, True)
        return rf"\z|{fast_class(_other(node.body.ranges))}" if isinstance(node.body, Chars) else None

    def _looked_at(self, body: Node, tail: bool) -> str:
        capturing, self.capturing = self.capturing, False
        text = self._emit(body, tail)
        self.capturing = capturing
        return text

    def _emit(self, node: Node, tail: bool) -> str:
        """Returns the node as text. `tail`: nothing follows the node in the pattern."""
        match node:
            case Chars(ranges):
                return fast_class(ranges)
            case Seq(items):
                return self._sequence(items, tail)
            case Alt(branches):
                return _either(self._emit(branch, tail) for branch in branches)
            case Group(_, body):
                return f"(?:{self._emit(body, tail)})"
            case Repeat():
                return self._repeat(node, tail)
            case At() | Look():
                return self._assertion(node, Seq(()), tail)
        return self._inexact(node)

    def _sequence(self, items: tuple[Node, ...], tail: bool) -> str:
        parts = []
        for place, item in enumerate(items):
            last = tail and place == len(items) - 1
            if isinstance(item, At | Look):
                parts.append(self._assertion(item, Seq(items[:place]), last))
            else:
                parts.append(self._emit(item, last))
        return "".join(parts)

    def _repeat(self, node: Repeat, tail: bool) -> str:
        if node.most == 0:
            return "(?:)"
        once = node.most == 1
        if node.kind == "possessive":
            self.reasons.add("possessive repeat")
        if not once and least_width(node.body) == 0:
            self.same_span = False
        counted = node if self.counts or once else Repeat(node.body, min(node.least, 1), None, node.kind)
        if counted is not node:
            self.reasons.add("many counted repeats")
        return f"(?:{self._emit(node.body, tail and once)}){_quantifier(counted)}"

    def _assertion(self, node: At | Look, before: Node, tail: bool) -> str:
        if isinstance(node, At) and node.kind in FAST_AT:
            return FAST_AT[node.kind]
        consumed = self._after(node, before) if tail else None
        if consumed is not None:
            self.tails += self.capturing
            return f"({consumed})" if self.capturing else f"(?:{consumed})"
        if node == At("edge", ascii_only=True):
            return r"(?-u:\b)"
        self.reasons.add(_describe(node))
        return "(?:)"

    def _inexact(self, node: Node) -> str:
        self.reasons.add(_describe(node))
        if isinstance(node, Ref):
            return ANY_TEXT
        # No tail inside: an atomic group or a condition chooses between its ways in another manner.
        return _either(self._emit(child, False) for child in children(node))


def ends(node: Node, first: bool, ascii_only: bool) -> frozenset[str]:
    """Returns what the first (or last) code point of a match can be: some of "word", "other" and "empty" (none)."""
    match node:
        case Chars(ranges):
            return _kinds(ranges, ascii_only)
        case Seq(items):
            return _sequence_ends(items if first else items[::-1], first, ascii_only)
        case Ref():
            return frozenset(("word", "other", "empty"))
        case Look() | At():
            return frozenset(("empty",))
    inner = frozenset[str]().union(*(ends(child, first, ascii_only) for child in children(node)))
    return inner | {"empty"} if isinstance(node, Repeat) and node.least == 0 else inner


def _sequence_ends(items: tuple[Node, ...], first: bool, ascii_only: bool) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    for item in items:
        kinds = ends(item, first, ascii_only)
        found |= kinds - {"empty"}
        if "empty" not in kinds:
            return found
    return found | {"empty"}


@lru_cache(maxsize=1024)
def _kinds(ranges: Ranges, ascii_only: bool) -> frozenset[str]:
    inside = mask_of(word(ascii_only))[mask_of(ranges)]
    return frozenset(kind for kind, there in (("word", inside.any()), ("other", not inside.all())) if there)


def _neighbour(node: At, kinds: frozenset[str], limit: str) -> str | None:
    """Returns the code point (or, with `limit` first, the text's end) across a word edge from one of `kinds`."""
    if node.kind not in ("edge", "inside") or kinds not in ({"word"}, {"other"}):
        return None
    to_word = ("word" in kinds) == (node.kind == "inside")
    letters = word(node.ascii_only)
    return fast_class(letters) if to_word else limit + fast_class(_other(letters))


def _describe(node: Node) -> str:
    match node:
        case Look(ahead):
            return "look-ahead" if ahead else "look-behind"
        case At("last_line_end"):
            return "$ before the end of the pattern"
        case At():
            return "word boundary inside the pattern"
        case Ref():
            return "back-reference"
        case Atomic():
            return "atomic group"
    return "condition"


def _quantifier(node: Repeat) -> str:
    most = "" if node.most is None else str(node.most)
    return f"{{{node.least},{most}}}{QUANTIFIER_SUFFIX[node.kind]}"


def _either(branches: Iterable[str]) -> str:
    return f"(?:{'|'.join(branches)})"


@lru_cache(maxsize=1024)
def _other(ranges: Ranges) -> Ranges:
    return ranges_of(~mask_of(ranges))


@lru_cache(maxsize=4096)
def fast_class(ranges: Ranges) -> str:
    return _class(ranges, "\\x{{{:X}}}", r"[^\x{0}-\x{10FFFF}]")


@lru_cache(maxsize=4096)
def slow_class(ranges: Ranges) -> str:
    return _class(ranges, r"\U{:08X}", "(?!)")


def _class(ranges: Ranges, escape: str, nothing: str) -> str:
    if not ranges:
        return nothing
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _letter(ranges[0][0], escape)
    return f"[{''.join(_range(first, last, escape) for first, last in ranges)}]"


def _range(first: int, last: int, escape: str) -> str:
    text = _letter(first, escape)
    return text if first == last else f"{text}-{_letter(last, escape)}"


def _letter(point: int, escape: str) -> str:
    letter = chr(point)
    return letter if not letter.isascii() or letter.isalnum() else escape.format(point)


def slow_form(node: Node) -> str:
    """Returns the same meaning in the syntax of the `regex` package (version 0 behaviour, no flags)."""
    match node:
        case Chars(ranges):
            return slow_class(ranges)
        case Seq(items):
            return "".join(map(slow_form, items))
        case Alt(branches):
            return _either(map(slow_form, branches))
        case Group(number, body):
            return f"(?P<g{number}>{slow_form(body)})"
        case Repeat():
            return _slow_repeat(node)
        case Atomic(body):
            return f"(?>{slow_form(body)})"
        case Look(ahead, positive, body):
            return f"(?{'' if ahead else '<'}{'=' if positive else '!'}{slow_form(body)})"
        case At():
            return _slow_at(node)
        case Ref() | Cond():
            return _slow_reference(node)


def _slow_reference(node: Ref | Cond) -> str:
    if isinstance(node, Ref):
        return f"(?P=g{node.number})"
    return f"(?:(?(g{node.number}){slow_form(node.yes)}|{slow_form(node.no)}))"


def _slow_repeat(node: Repeat) -> str:
    body = slow_form(node.body)
    if node.kind == "possessive":
        # In `re`, a possessive repeat never goes back into a round that is over: not only the whole is atomic.
        return f"(?>(?>{body}){_quantifier(node)})"
    if node.most == 1 or isinstance(node.body, Ref):
        return _slow_options(node, body)
    return f"(?:{body}){_quantifier(node)}"


def _slow_options(node: Repeat, body: str) -> str:
    """Alternations: `regex` takes an optional back-reference that failed once for one that always fails."""
    if node.most is None or node.least == node.most:
        return f"(?:{body}){_quantifier(node)}"
    options = ""
    for _ in range(node.most - node.least):
        options = _either((body + options, "") if node.kind == "greedy" else ("", body + options))
    return f"(?:{body}){{{node.least}}}{options}"


def _slow_at(node: At) -> str:
    if node.kind in SLOW_AT:
        return SLOW_AT[node.kind]
    letter = slow_class(word(node.ascii_only))
    if node.kind == "edge":
        return f"(?:(?<={letter})(?!{letter})|(?<!{letter})(?={letter}))"
    somewhere = "" if INSIDE_MATCHES_EMPTY_TEXT else r"(?!\A\Z)"
    return f"(?:{somewhere}(?:(?<={letter})(?={letter})|(?<!{letter})(?!{letter})))"
