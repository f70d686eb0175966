"""A regular expression as a tree: read from the one that Python's `re` makes, with every flag resolved.

This is the only place that looks inside `re` (its parser is private, but it is what defines the meaning).
Flags are gone from the tree: sets of code points are spelled out and assertions say which kind they are.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from re import ASCII, DOTALL, IGNORECASE, MULTILINE, UNICODE
from typing import Any

from audience.errors import BadInput
from audience.text.charsets import ANYTHING, Category, Item, Ranges, Span, contains, members

__all__ = ["Alt", "At", "Atomic", "Chars", "Cond", "Group", "Look", "Node", "Ref", "Repeat", "Seq"]
__all__ += ["children", "largest_repeat", "least_width", "parse"]

_parser: Any = importlib.import_module("re._parser")


@dataclass(frozen=True)
class Chars:
    """One code point of a set; the empty set never matches."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    items: tuple["Node", ...]


@dataclass(frozen=True)
class Alt:
    branches: tuple["Node", ...]


@dataclass(frozen=True)
class Group:
    """A group that something refers to; all others are dissolved."""

    number: int
    body: "Node"


@dataclass(frozen=True)
class Repeat:
    """`most` is None without an upper bound; `kind` is greedy, lazy or possessive."""

    body: "Node"
    least: int
    most: int | None
    kind: str


@dataclass(frozen=True)
class Atomic:
    body: "Node"


@dataclass(frozen=True)
class Look:
    ahead: bool
    positive: bool
    body: "Node"


@dataclass(frozen=True)
class At:
    """`kind`: start, line_start, end, last_line_end (`$`), line_end, edge (`\\b`) or inside (`\\B`)."""

    kind: str
    ascii_only: bool = False


@dataclass(frozen=True)
class Ref:
    """`fold`: how letters are compared: "" as they are, else lowered as "ascii" or "unicode"."""

    number: int
    fold: str


@dataclass(frozen=True)
class Cond:
    number: int
    yes: "Node"
    no: "Node"


Node = Chars | Seq | Alt | Group | Repeat | Atomic | Look | At | Ref | Cond

EMPTY = Seq(())
NO_NEWLINE: Ranges = ((0, 9), (11, 0xD7FF), (0xE000, 0x10FFFF))
TYPE_FLAGS = ASCII | UNICODE
AT_KINDS = {
    "AT_BEGINNING_STRING": "start",
    "AT_END_STRING": "end",
    "AT_BOUNDARY": "edge",
    "AT_NON_BOUNDARY": "inside",
}
CATEGORIES = {
    "CATEGORY_DIGIT": "d",
    "CATEGORY_NOT_DIGIT": "D",
    "CATEGORY_SPACE": "s",
    "CATEGORY_NOT_SPACE": "S",
    "CATEGORY_WORD": "w",
    "CATEGORY_NOT_WORD": "W",
}
REPEATS = {"MAX_REPEAT": "greedy", "MIN_REPEAT": "lazy", "POSSESSIVE_REPEAT": "possessive"}


def parse(source: str, flags: int) -> Node:
    """Returns the tree of a pattern that `re.compile` accepts; raises BadInput where `re` itself is mistaken
    (`_Reader.charset`)."""
    tree = _parser.parse(source, flags)
    reader = _Reader(source, frozenset(_referenced(tree)), bool(tree.state.flags & ASCII))
    return reader.sequence(tree, tree.state.flags)


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Seq(parts) | Alt(parts):
            return parts
        case Group(_, body) | Repeat(body) | Atomic(body) | Look(_, _, body):
            return (body,)
        case Cond(_, yes, no):
            return (yes, no)
    return ()


def least_width(node: Node) -> int:
    """Returns a number of code points below which no match is; back-references count as empty."""
    match node:
        case Chars():
            return 1
        case Alt() | Cond():
            return min(map(least_width, children(node)))
        case Repeat(body, least):
            return least * least_width(body)
        case Look():
            return 0
    return sum(map(least_width, children(node)))


def largest_repeat(node: Node) -> int:
    """Returns the product of the bounds of nested repeats, where it is largest."""
    inner = max(map(largest_repeat, children(node)), default=1)
    if isinstance(node, Repeat):
        return inner * max(1, node.least if node.most is None else node.most)
    return inner


def sequence_of(items: list[Node]) -> Node:
    flat = [part for item in items for part in (item.items if isinstance(item, Seq) else (item,))]
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def _referenced(tree: Any) -> Iterator[int]:
    for name, value in tree:
        if name.name == "GROUPREF":
            yield value
        elif name.name == "GROUPREF_EXISTS":
            yield value[0]
        yield from _referenced_below(value)


def _referenced_below(value: Any) -> Iterator[int]:
    if isinstance(value, _parser.SubPattern):
        yield from _referenced(value)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _referenced_below(part)


class _Reader:
    """Turns nodes of `re` (pairs of a named code and a value) into ours, under the flags in force."""

    def __init__(self, source: str, referenced: frozenset[int], ascii_only: bool) -> None:
        """`ascii_only`: the flag of the whole pattern."""
        self.source = source
        self.referenced = referenced
        self.ascii_only = ascii_only
        self.readers: dict[str, Callable[[Any, int], Node]] = {
            "ANY": lambda _, flags: Chars(ANYTHING if flags & DOTALL else NO_NEWLINE),
            "LITERAL": lambda value, flags: _chars((Span(value, value),), False, flags),
            "NOT_LITERAL": lambda value, flags: _chars((Span(value, value),), True, flags),
            "IN": self.charset,
            "AT": _at,
            "FAILURE": lambda *_: Chars(()),
            "GROUPREF": lambda value, flags: Ref(value, _fold(flags)),
            "BRANCH": self.branch,
            "SUBPATTERN": self.group,
            "ATOMIC_GROUP": lambda value, flags: Atomic(self.sequence(value, flags)),
            "ASSERT": lambda value, flags: Look(value[0] > 0, True, self.sequence(value[1], flags)),
            "ASSERT_NOT": lambda value, flags: Look(value[0] > 0, False, self.sequence(value[1], flags)),
            "GROUPREF_EXISTS": self.conditional,
        }

    def sequence(self, tree: Any, flags: int) -> Node:
        return sequence_of([self.node(name.name, value, flags) for name, value in tree])

    def node(self, name: str, value: Any, flags: int) -> Node:
        if name in REPEATS:
            return self.repeat(REPEATS[name], value, flags)
        return self.readers[name](value, flags)

    def charset(self, value: Any, flags: int) -> Node:
        """`re.search` looks for a first character under the flags of the whole pattern, not those of the class.

        So it never tries a character that only the class in its scope allows, though `re.match` accepts it.
        """
        found = _class(value, flags)
        if bool(flags & ASCII) != self.ascii_only and not contains(_class(value, flags ^ ASCII).ranges, found.ranges):
            reason = "a class that (?a:...) or (?u:...) widens is not found reliably by Python"
            raise BadInput(f"{reason}: set the flag for the whole pattern: {self.source!r}")
        return found

    def branch(self, value: Any, flags: int) -> Node:
        return Alt(tuple(self.sequence(branch, flags) for branch in value[1]))

    def group(self, value: Any, flags: int) -> Node:
        number, added, removed, tree = value
        kept = flags & ~TYPE_FLAGS if added & TYPE_FLAGS else flags
        body = self.sequence(tree, (kept | added) & ~removed)
        return Group(number, body) if number in self.referenced else body

    def repeat(self, kind: str, value: Any, flags: int) -> Node:
        least, most, tree = value
        return Repeat(self.sequence(tree, flags), least, None if most == _parser.MAXREPEAT else most, kind)

    def conditional(self, value: Any, flags: int) -> Node:
        number, yes, no = value
        return Cond(number, self.sequence(yes, flags), EMPTY if no is None else self.sequence(no, flags))


def _chars(items: tuple[Item, ...], negated: bool, flags: int) -> Chars:
    ignore_case, ascii_only = bool(flags & IGNORECASE), bool(flags & ASCII)
    return Chars(members(items, negated=negated, ignore_case=ignore_case, ascii_only=ascii_only))


def _class(value: Any, flags: int) -> Chars:
    negated = value[0][0].name == "NEGATE"
    return _chars(tuple(_item(name.name, what) for name, what in value[negated:]), negated, flags)


def _item(name: str, value: Any) -> Item:
    if name == "CATEGORY":
        return Category(CATEGORIES[value.name])
    return Span(*value) if name == "RANGE" else Span(value, value)


def _at(value: Any, flags: int) -> At:
    if value.name == "AT_BEGINNING":
        return At("line_start" if flags & MULTILINE else "start")
    if value.name == "AT_END":
        return At("line_end" if flags & MULTILINE else "last_line_end")
    return At(AT_KINDS[value.name], bool(flags & ASCII))


def _fold(flags: int) -> str:
    if not flags & IGNORECASE:
        return ""
    return "ascii" if flags & ASCII else "unicode"
