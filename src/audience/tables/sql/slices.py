"""Cuts a table of a server into half-open ranges of an indexed column, with exact counts.

Every step passes over one slice of the index, from a known key on and no further, so that a plan goes over the index
about once, whatever its size. Keys are compared by the server alone, as its
index compares them: collations may hold `a` and `A` for one key, and a slice never ends between two such rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from audience.errors import BadInput

Bounds = list[list[Any]]
"""Conditions that all hold, `[column, operator, value]`; as JSON in a partition."""


@dataclass(frozen=True)
class Column:
    """`type` as people know it; `kind` as the source's SQL treats it: integer, text, ... ; `nullable`: may be null;
    `base`: the type's own name, without a length; `charset`: of texts, where columns have their own."""

    name: str
    type: str
    kind: str
    nullable: bool = True
    base: str = ""
    charset: str = ""


@dataclass(frozen=True)
class Key:
    """An indexed column that slices are ranges of. `unique`: no two rows share a value, and none is null; `start` and
    `end`: the half-open range that is wanted (None: open)."""

    column: Column
    unique: bool = False
    start: Any = None
    end: Any = None


class Literals(Protocol):
    """How a kind of server writes keys. The only values that become SQL text go through `literal`."""

    def quoted(self, name: str) -> str: ...

    def literal(self, column: Column, value: Any) -> str:
        """A key as SQL that compares with the column by its index."""

    def shown(self, column: Column, expression: str) -> str:
        """A key as a number or a text that JSON carries and `literal` takes back unchanged."""


@dataclass(frozen=True)
class Cut:
    """Where a slice ends: before `after` (None: with the last row), and how many rows it has, if that is known."""

    after: Any
    n_rows: int | None


@dataclass(frozen=True)
class Slicer:
    """One table (or view), `table` as SQL; `ask` answers a query with its first row, None without; `where` holds for
    every row."""

    table: str
    literals: Literals
    ask: Callable[[str], Sequence[Any] | None]
    columns: dict[str, Column]
    where: str = ""

    def slices(
        self, key: Key, size: int, tie: Key | None = None, fixed: Bounds | None = None
    ) -> Iterator[tuple[Bounds, int]]:
        """About `size` rows each, in order of the key. Rows that share one key stay together, unless they are more
        than `size` and `tie` is there to cut them by. Rows whose key is null come last, where no range is asked for."""
        fixed = fixed or []
        start = self._first(key, fixed)
        passed: set[Any] = set()
        while start is not None:
            if start in passed:
                raise not_itself(key.column, start)
            passed.add(start)
            cut = self.cut(key, start, size, fixed)
            if cut is None:
                after = self._next(key, start, fixed)
                yield from self._ties(key, tie, start, after, size, fixed)
            else:
                after = cut.after
                yield from self._counted([*fixed, *_range(key, start, after)], cut.n_rows)
            start = after
        if key.column.nullable and key.start is None and key.end is None:
            yield from self._counted([*fixed, [key.column.name, "null", None]])

    def whole(self) -> Iterator[tuple[Bounds, int]]:
        """All rows as one slice."""
        yield from self._counted([])

    def cut(self, key: Key, start: Any, size: int, fixed: Bounds) -> Cut | None:
        """The end of a slice of at most `size` rows from `start` on; None where more rows than that share `start`."""
        name, later = self.literals.quoted(key.column.name), self.literals.literal(key.column, start)
        found = self.ask(
            f"SELECT {self.literals.shown(key.column, name)} AS shown, {name} > {later} AS later FROM {self.table}"
            f" WHERE {self.condition([*fixed, *_range(key, start, None)])} ORDER BY {name} LIMIT 1 OFFSET {int(size)}"
        )
        if found is None:
            return Cut(None, None)
        after, is_later = found
        if is_later and after == start:
            raise not_itself(key.column, start)
        return Cut(after, size if key.unique else None) if is_later else None

    def piece(self, bounds: Bounds, size: int) -> tuple[Bounds, Bounds | None]:
        """The first rows of a slice, about `size`, and the slice of the others (None: there are none)."""
        (name, operator, start), *end = [b for b in bounds if b[1] in (">=", "<")] or [[None, None, None]]
        if operator != ">=":
            return bounds, None
        key = Key(self.columns[name], start=start, end=end[0][2] if end else None)
        fixed = [b for b in bounds if b[1] not in (">=", "<")]
        cut = self.cut(key, start, size, fixed)
        after = cut.after if cut else self._next(key, start, fixed)
        rest = None if after is None else [*fixed, *_range(key, after, None)]
        return [*fixed, *_range(key, start, after)], rest

    def _first(self, key: Key, fixed: Bounds) -> Any:
        return self._least(key, [*fixed, *_range(key, key.start, None)])

    def _next(self, key: Key, start: Any, fixed: Bounds) -> Any:
        bounds = [b for b in _range(key, start, None) if b[1] == "<"]
        after = self._least(key, [*fixed, [key.column.name, ">", start], *bounds])
        if after is not None and after == start:
            raise not_itself(key.column, start)
        return after

    def _least(self, key: Key, bounds: Bounds) -> Any:
        name = self.literals.quoted(key.column.name)
        found = self.ask(
            f"SELECT {self.literals.shown(key.column, name)} AS shown FROM {self.table}"
            f" WHERE {self.condition(bounds)} AND {name} IS NOT NULL ORDER BY {name} LIMIT 1"
        )
        return found[0] if found else None

    def _ties(
        self, key: Key, tie: Key | None, start: Any, after: Any, size: int, fixed: Bounds
    ) -> Iterator[tuple[Bounds, int]]:
        if tie is None:
            yield from self._counted([*fixed, *_range(key, start, after)])
        else:
            yield from self.slices(tie, size, fixed=[*fixed, [key.column.name, "=", start]])

    def _counted(self, bounds: Bounds, n_rows: int | None = None) -> Iterator[tuple[Bounds, int]]:
        if n := self.count(self.condition(bounds)) if n_rows is None else n_rows:
            yield bounds, n

    def count(self, condition: str) -> int:
        found = self.ask(f"SELECT count(*) FROM {self.table} WHERE {condition}")
        return int(found[0]) if found else 0

    def condition(self, bounds: Bounds) -> str:
        return condition(bounds, self.literals, self.columns, self.where)


def not_itself(column: Column, key: Any) -> BadInput:
    """A key that the server does not find again would let a plan go round for ever, or lose rows."""
    return BadInput(
        f"the table cannot be cut into partitions by {column.name}: the server does not find its key {str(key)[:40]!r} "
        "again as it gives it out (a character that its character set cannot map?); mend that row, or name another "
        "column with --role id=COLUMN"
    )


def condition(bounds: Bounds, literals: Literals, columns: dict[str, Column], where: str = "") -> str:
    """A slice as SQL."""
    terms = [_term(bound, literals, columns) for bound in bounds]
    return " AND ".join([*terms, *([where] if where else [])]) or "1 = 1"


def _term(bound: list[Any], literals: Literals, columns: dict[str, Column]) -> str:
    name, operator, value = bound
    if name not in columns or operator not in (">=", "<", ">", "=", "null"):
        raise BadInput(f"a partition holds {name!r} {operator!r}, which is not of this table: plan again")
    if operator == "null":
        return f"{literals.quoted(name)} IS NULL"
    return f"{literals.quoted(name)} {operator} {literals.literal(columns[name], value)}"


def _range(key: Key, start: Any, end: Any) -> Bounds:
    """From `start` on and before `end`, or before the end of what is wanted."""
    end = key.end if end is None else end
    return [[key.column.name, op, v] for op, v in ((">=", start), ("<", end)) if v is not None]
