"""Matches many patterns over a column of texts: first all together, then one by one where something matched."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import polars as pl
import regex

from audience.text.charsets import Mask, lower_table
from audience.text.folding import Lowered
from audience.text.keywords import KeywordMatcher
from audience.text.patterns import Pattern, unlowered_form
from audience.text.spans import Ints, code_point_offsets

__all__ = ["RegexMatcher"]

BATCH = 20
"""Patterns tried as one alternation: ten of 20 were measured at a third of the time of one of 200."""

FEW_ROWS = 1_000
"""Up to so many candidates of a pattern are matched one by one."""

MOST_SEARCHERS = 4096
HITS = {"row": pl.UInt32, "pattern": pl.UInt32, "start": pl.Int64, "end": pl.Int64}
ERRORS = {"row": pl.UInt32, "reason": pl.String}


class RegexMatcher:
    """Finds the first match of each of `patterns` in each text, as `re.search` would."""

    def __init__(
        self, patterns: Sequence[Pattern], *, timeout_s: float = 1.0, groups: Sequence[int] | None = None
    ) -> None:
        """`groups`: one number for each pattern; those with the same one are likely to match the same texts."""
        self.patterns = tuple(patterns)
        self.timeout_s = timeout_s
        keys = groups if groups is not None else [0] * len(self.patterns)
        order = sorted(range(len(self.patterns)), key=lambda index: keys[index])
        self._needles, self._patterns_of_needles = _index(self.patterns)
        rest = [index for index in order if not self.patterns[index].needles]
        filtered = [index for index in rest if self.patterns[index].loose is not None]
        self.unfiltered = [index for index in rest if self.patterns[index].loose is None]
        self.batches = [
            batch
            for start in range(0, len(filtered), BATCH)
            for batch in _compilable(self.patterns, filtered[start : start + BATCH])
        ]

    def find(self, texts: pl.Series | Lowered) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns hits (row, pattern, start, end) and errors (row, reason), sorted.

        `row` is the position in `texts`, `pattern` that in `patterns`, `start` and `end` count code points. An error is
        a row on which a pattern took too long: it has no hits then. Null texts have neither."""
        texts = texts if isinstance(texts, Lowered) else Lowered(texts, lowers=False)
        search = _Search(self.patterns, self.timeout_s, texts)
        for index, candidates in self._rows_with_needles(search):
            search.try_pattern(index, candidates)
        for (indices, form), raw_form in zip(self.batches, self._raw_forms(texts), strict=True):
            candidates = search.rows_in_raw(raw_form) if raw_form else search.rows_with(form, search.present)
            for index in indices:
                search.try_pattern(index, candidates)
        for index in self.unfiltered:
            search.try_pattern(index, search.present)
        return search.hits(), search.errors()

    def _raw_forms(self, texts: Lowered) -> list[str | None]:
        """Returns the batches' alternations for texts that are not lowered yet; None where there is no such form."""
        return self._unlowered if texts.lowers else [None] * len(self.batches)

    @cached_property
    def _unlowered(self) -> list[str | None]:
        forms: list[str | None] = []
        for indices, _ in self.batches:
            raw = [unlowered_form(self.patterns[index]) for index in indices]
            form = "|".join(f"(?:{each})" for each in raw)
            forms.append(form if None not in raw and _compiles(form) else None)
        return forms

    def _rows_with_needles(self, search: "_Search") -> Iterator[tuple[int, Ints]]:
        """Yields, for each pattern that has needles and may match somewhere, the rows where it may."""
        if not self._needles.keywords:
            return
        held = self._needles.rows_with(search.texts).join(self._patterns_of_needles, on="keyword")
        held = held.select("pattern", "row").unique().sort("pattern", "row")
        numbers, rows = held["pattern"].to_numpy(), held["row"].to_numpy().astype(np.int64)
        limits = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        parts = [(int(numbers[low]), rows[low:high]) for low, high in pairwise(limits) if high > low]
        search.remember([part for index, part in parts if self.patterns[index].quick_in_re and len(part) <= FEW_ROWS])
        yield from parts


def _index(patterns: Sequence[Pattern]) -> tuple[KeywordMatcher, pl.DataFrame]:
    """Makes one automaton over the needles of all patterns, and says which patterns each needle speaks for."""
    distinct = list(dict.fromkeys(needle for pattern in patterns for needle in pattern.needles))
    numbers = {needle: n for n, needle in enumerate(distinct)}
    pairs = [(numbers[needle], index) for index, pattern in enumerate(patterns) for needle in pattern.needles]
    schema = {"keyword": pl.UInt32, "pattern": pl.UInt32}
    return KeywordMatcher(distinct), pl.DataFrame(pairs, schema=schema, orient="row")


class _Search:
    """One pass over one column: gathers hits and errors."""

    def __init__(self, patterns: Sequence[Pattern], timeout_s: float, texts: Lowered) -> None:
        self.patterns = patterns
        self.timeout_s = timeout_s
        self.texts = texts
        self.found: list[pl.DataFrame] = []
        self.spans: list[tuple[int, int, int, int]] = []
        self.failed: dict[int, str] = {}
        self.candidates: dict[int, str] = {}

    @cached_property
    def present(self) -> Ints:
        return np.flatnonzero(self.texts.raw.is_not_null().to_numpy())

    def picked(self, rows: Ints) -> pl.Series:
        return self.texts.all if len(rows) == len(self.texts) else self.texts.gather(rows)

    def rows_in_raw(self, form: str) -> Ints:
        return np.flatnonzero(self.texts.raw.str.contains(form, strict=True).fill_null(False).to_numpy())

    def rows_with(self, form: str, rows: Ints) -> Ints:
        if not len(rows):
            return rows
        hit: Mask = self.picked(rows).str.contains(form, strict=True).to_numpy()
        return rows[hit]

    def remember(self, parts: list[Ints]) -> None:
        """Fetches the texts at these rows at once."""
        rows = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        self.candidates = dict(zip(rows.tolist(), self.texts.gather(rows).to_list(), strict=True))

    def try_pattern(self, index: int, rows: Ints) -> None:
        if not len(rows):
            return
        pattern = self.patterns[index]
        if pattern.needles and len(rows) <= FEW_ROWS and pattern.quick_in_re:
            rows = self._find_in_re(index, pattern, rows)
        if not len(rows):
            return
        if pattern.exact_span and pattern.fast is not None:
            self._find_fast(index, pattern, pattern.fast, rows)
        else:
            candidates = rows if pattern.fast is None else self.rows_with(pattern.fast, rows)
            self._find_slow(index, pattern, candidates)

    def _find_in_re(self, index: int, pattern: Pattern, rows: Ints) -> Ints:
        """Matches with `re` itself, which costs less for a few rows than to start another engine. Returns the rows that
        are left: their texts are so long that `re` might take long."""
        search = _searcher(pattern.source, pattern.ignore_case)
        left = []
        for row in rows.tolist():
            text = self.candidates[row]
            if len(text) > pattern.quick_in_re:
                left.append(row)
            elif match := search(text):
                self.spans.append((row, index, match.start(), match.end()))
        return np.array(left, dtype=np.int64)

    def _find_fast(self, index: int, pattern: Pattern, form: str, rows: Ints) -> None:
        picked = self.picked(rows)
        starts = picked.str.find(form, literal=False, strict=True)
        hit = starts.is_not_null()
        if not hit.any():
            return
        rows, picked = rows[hit.to_numpy()], picked.filter(hit)
        start = starts.drop_nulls().to_numpy().astype(np.int64)
        end = start + _sizes(picked.str.extract(form, 0))
        if pattern.lead or pattern.tails:
            start, end = _trimmed(pattern, picked, form, start, end)
        points = code_point_offsets(self.texts, np.concatenate((rows, rows)), np.concatenate((start, end)))
        self._add(index, rows, points[: len(rows)], points[len(rows) :])

    def _find_slow(self, index: int, pattern: Pattern, rows: Ints) -> None:
        self.spans += self._search_slow(index, pattern, rows)

    def _search_slow(self, index: int, pattern: Pattern, rows: Ints) -> Iterator[tuple[int, int, int, int]]:
        engine = regex.compile(pattern.slow, regex.V0)
        table = lower_table(pattern.fold == "ascii") if pattern.fold else None
        search = _searcher(pattern.source, pattern.ignore_case)
        for row, text in zip(rows.tolist(), self.texts.gather(rows), strict=True):
            if row in self.failed:
                continue
            try:
                if len(text) <= pattern.quick_in_re:
                    match = search(text)
                else:
                    folded = text if table is None else text.translate(table)
                    match = engine.search(folded, timeout=self.timeout_s, concurrent=True)
            except (TimeoutError, MemoryError):
                self.failed[row] = f"pattern {index} took longer than {self.timeout_s:g} s: {pattern.source!r}"
                continue
            if match:
                yield row, index, match.start(), match.end()

    def _add(self, index: int, rows: Ints, start: Ints, end: Ints) -> None:
        pattern = np.full(len(rows), index)
        columns = {"row": rows, "pattern": pattern, "start": start, "end": end}
        self.found.append(pl.DataFrame(columns).cast(HITS))  # type: ignore[arg-type]

    def hits(self) -> pl.DataFrame:
        found = pl.concat([pl.DataFrame(self.spans, schema=HITS, orient="row"), *self.found])
        failed = pl.Series(list(self.failed), dtype=pl.UInt32)
        return found.filter(~pl.col("row").is_in(failed.implode())).sort("row", "pattern")

    def errors(self) -> pl.DataFrame:
        columns = {"row": list(self.failed), "reason": list(self.failed.values())}
        return pl.DataFrame(columns, schema=ERRORS).sort("row")


@lru_cache(maxsize=MOST_SEARCHERS)
def _searcher(source: str, ignore_case: bool) -> Callable[[str], re.Match[str] | None]:
    return re.compile(source, re.IGNORECASE if ignore_case else re.NOFLAG).search


def _compilable(patterns: Sequence[Pattern], indices: list[int]) -> Iterator[tuple[list[int], str]]:
    """Yields the patterns as one alternation, or as several if polars finds that too large; each compiles alone."""
    form = "|".join(f"(?:{patterns[index].loose})" for index in indices)
    if len(indices) > 1 and not _compiles(form):
        middle = len(indices) // 2
        yield from _compilable(patterns, indices[:middle])
        yield from _compilable(patterns, indices[middle:])
    else:
        yield indices, form


def _compiles(form: str) -> bool:
    try:
        pl.Series([""]).str.contains(form, strict=True)
    except pl.exceptions.ComputeError:
        return False
    return True


def _trimmed(pattern: Pattern, texts: pl.Series, form: str, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Returns the limits of the match itself: `fast` also consumed what stands around it."""
    captured = texts.str.extract_groups(form).struct.unnest()
    sizes = [_sizes(captured.to_series(place)) for place in range(pattern.lead + pattern.tails)]
    lead = sizes[0] if pattern.lead else np.zeros_like(start)
    return start + lead, end - sum(sizes[pattern.lead :], np.zeros_like(end))


def _sizes(texts: pl.Series) -> Ints:
    """Returns lengths in bytes; null, a group without part in the match, has none."""
    return texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
