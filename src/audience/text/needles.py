"""What a pattern tells before it is matched: strings that a match must contain, and whether backtracking over it stays
short. Both make matching cheap: one pass finds the strings of all patterns, and few texts remain."""

from collections.abc import Iterable
from itertools import product

from audience.text.syntax import Alt, At, Atomic, Chars, Group, Look, Node, Repeat, Seq, children

__all__ = ["backtracks_little", "needles", "repeats_endlessly"]

Strings = frozenset[str]

FEW_LETTERS = 4
FEW_STRINGS = 16
MOST_STRINGS = 64
SHORTEST_BYTES = 4
"""A single Chinese character takes three: too many texts hold it."""
MOST_PATHS = 100


def needles(tree: Node) -> tuple[str, ...]:
    """Returns strings of which every match contains at least one; empty when there is no small set of telling ones."""
    best = _needles(tree)
    return tuple(sorted(best)) if best and _rarity(best)[0] >= SHORTEST_BYTES else ()


def _needles(node: Node) -> Strings | None:
    match node:
        case Chars():
            return _spelled(node)
        case Seq(items):
            return max(_of_sequence(items), key=_rarity, default=None)
        case Alt(branches):
            found = [_needles(branch) for branch in branches]
            union = frozenset().union(*(strings for strings in found if strings))
            return union if all(found) and len(union) <= MOST_STRINGS else None
        case Group(_, body) | Atomic(body):
            return _needles(body)
        case Repeat(body, least):
            return _needles(body) if least else None
    return None


def _of_sequence(items: tuple[Node, ...]) -> Iterable[Strings]:
    """Yields the needles of each item, and of each run of neighbours that can be spelled out together."""
    run: Strings = frozenset({""})
    for item in items:
        spelled = _spelled(item)
        if spelled is None:
            yield run
            run = frozenset({""})
            if inner := _needles(item):
                yield inner
        elif len(run) * len(spelled) <= FEW_STRINGS:
            run = _joined(run, spelled)
        else:
            yield run
            run = spelled
    yield run


def _spelled(node: Node) -> Strings | None:
    """Returns all strings that the node can consume, if they are few."""
    match node:
        case Chars(ranges):
            if sum(last - first + 1 for first, last in ranges) > FEW_LETTERS:
                return None
            return frozenset(chr(c) for first, last in ranges for c in range(first, last + 1))
        case At() | Look():
            return frozenset({""})
        case Group(_, body) | Atomic(body):
            return _spelled(body)
        case Alt(branches):
            found = [_spelled(branch) for branch in branches]
            union = frozenset().union(*(strings for strings in found if strings is not None))
            return union if None not in found and len(union) <= FEW_STRINGS else None
        case Seq(items):
            run: Strings = frozenset({""})
            for item in items:
                spelled = _spelled(item)
                if spelled is None or len(run) * len(spelled) > FEW_STRINGS:
                    return None
                run = _joined(run, spelled)
            return run
    return None


def _joined(first: Strings, second: Strings) -> Strings:
    return frozenset(a + b for a, b in product(first, second))


def _rarity(strings: Strings) -> tuple[int, int]:
    """Returns a key that is larger for rarer strings: the bytes of the shortest, then how few there are."""
    return min((len(s.encode()) for s in strings), default=0), -len(strings)


def repeats_endlessly(tree: Node) -> bool:
    """Returns whether something in it may repeat without a bound."""
    return (isinstance(tree, Repeat) and tree.most is None) or any(map(repeats_endlessly, children(tree)))


def backtracks_little(tree: Node) -> bool:
    """Returns whether a backtracking engine tries few ways at each place: at most `MOST_PATHS`, times the length of the
    text where one repeat has no bound."""
    return _paths(tree) <= MOST_PATHS and _endless(tree) <= 1


def _endless(node: Node) -> int:
    return (isinstance(node, Repeat) and node.most is None) + sum(map(_endless, children(node)))


def _paths(node: Node) -> int:
    """Counts the ways through the node, an endless repeat of single characters as one; above the limit any large
    number."""
    match node:
        case Seq(items):
            paths = 1
            for item in items:
                paths = min(paths * _paths(item), MOST_PATHS + 1)
            return paths
        case Alt(branches):
            return sum(map(_paths, branches))
        case Repeat(body, least, most) if isinstance(body, Chars):
            return 1 if most is None else most - least + 1
        case Repeat(body, 0, 1):
            return _paths(body) + 1
        case Group(_, body) | Atomic(body) | Look(_, _, body):
            return _paths(body)
        case Chars() | At():
            return 1
    return MOST_PATHS + 1
