"""Whatever pattern is generated, `RegexMatcher` finds exactly what `re.search` finds.

AUDIENCE_FUZZ_EXAMPLES=50000 runs many more examples, other ones each time.
"""

import os
import random
import re
import string
import warnings
from unittest import mock

import polars as pl
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from audience.errors import BadInput
from audience.text import regexes
from audience.text.folding import Lowered, fold_all
from audience.text.keywords import KeywordMatcher
from audience.text.patterns import Pattern, compile_pattern, upper_case_literals
from audience.text.regexes import RegexMatcher

FUZZ = int(os.environ.get("AUDIENCE_FUZZ_EXAMPLES", "0"))
SLOW_CHECKS = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
]
agreement = settings(
    derandomize=not FUZZ,
    max_examples=FUZZ or 40,
    deadline=None,
    database=None,
    suppress_health_check=SLOW_CHECKS,
)
bystanders = settings(agreement, max_examples=FUZZ // 10 or 5)

COMMON = "aabbABx09_ -\n"
SPECIAL = "sS\u017fkK\u212aİi\u0131Iς\u03c3ΣéÉß\u0301京😀\r\x1c\x85\u2028\x00٣²{}\u01c5\u01c4\u0345\u1e9eµμ"
LETTERS = COMMON * 3 + SPECIAL
CATEGORIES = ["\\w", "\\W", "\\d", "\\D", "\\s", "\\S"]
ANCHORS = ["^", "$", "\\A", "\\Z", "\\b", "\\B", "\\b", "$"]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{0,2}", "{,2}", "{1,}", "{2,3}", "{0}"]
SUFFIXES = ["", "", "", "?", "?", "+"]
FLAGS = ["i", "s", "m", "x", "a", "im", "is", "ai", "-i", "i-s", "s-m", "u"]
GLOBAL_FLAGS = ["", "", "", "", "(?i)", "(?s)", "(?m)", "(?a)", "(?x)", "(?im)", "(?ai)"]


class Grammar:
    """Writes a pattern; `groups` counts those closed so far."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.groups = 0

    def pick(self, choices: list[str] | str) -> str:
        return choices[self.chance.randrange(len(choices))]

    def whole(self) -> str:
        return self.pick(GLOBAL_FLAGS) + self.alternation(3)

    def letter(self) -> str:
        letter = self.pick(LETTERS)
        return self.pick([re.escape(letter), re.escape(letter), f"\\U{ord(letter):08x}"])

    def charset(self) -> str:
        members = [self.class_member() for _ in range(self.chance.randint(1, 3))]
        return f"[{self.pick(['', '', '^'])}{''.join(members)}]"

    def class_member(self) -> str:
        kind = self.chance.randint(0, 3)
        if kind == 0:
            return self.pick(CATEGORIES)
        if kind == 1:
            first, last = sorted((self.pick(LETTERS), self.pick(LETTERS)))
            return f"{re.escape(first)}-{re.escape(last)}"
        return self.letter()

    def alternation(self, depth: int) -> str:
        branches = [self.sequence(depth) for _ in range(self.chance.choice([1, 1, 1, 2, 2, 3]))]
        return "|".join(branches)

    def sequence(self, depth: int) -> str:
        return "".join(self.repeated(depth) for _ in range(self.chance.choice([0, 1, 1, 2, 2, 3])))

    def repeated(self, depth: int) -> str:
        atom = self.atom(depth)
        if self.chance.randint(0, 2) == 0 and atom not in ANCHORS:
            return atom + self.pick(QUANTIFIERS) + self.pick(SUFFIXES)
        return atom

    def atom(self, depth: int) -> str:
        kind = self.chance.randint(0, 9 if depth else 5)
        if kind <= 1:
            return self.letter()
        if kind == 3:
            return self.charset()
        if kind <= 5:
            return self.pick({2: ["."], 4: CATEGORIES, 5: ANCHORS}[kind])
        return self.compound(depth - 1)

    def compound(self, depth: int) -> str:
        kind = self.chance.randint(0, 9)
        if kind <= 1:
            return f"(?:{self.alternation(depth)})"
        if kind == 2:
            return f"(?{self.pick(FLAGS)}:{self.alternation(depth)})"
        if kind == 3:
            return f"(?{self.pick(['=', '!', '<=', '<!'])}{self.alternation(depth)})"
        if kind == 4:
            return f"(?>{self.alternation(depth)})"
        if kind == 5 and self.groups:
            return f"(?:\\{self.chance.randint(1, self.groups)})"
        if kind == 6 and self.groups:
            number = self.chance.randint(1, self.groups)
            return f"(?({number}){self.sequence(depth)}|{self.sequence(depth)})"
        return self.group(depth)

    def group(self, depth: int) -> str:
        name = self.pick(["", "", f"?P<n{self.groups}>"])
        body = self.alternation(depth)
        self.groups += 1
        return f"({name}{body})"


sources = st.randoms().map(lambda chance: Grammar(chance).whole())


def valid(source: str, ignore_case: bool) -> Pattern:
    """Skips what `re` refuses and what Audience refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(source)
            return compile_pattern(source, ignore_case=ignore_case)
    except (re.error, BadInput):
        reject()


def some_texts(seed: int, source: str) -> list[str]:
    chance = random.Random(seed)
    own = [letter for letter in source if letter not in string.punctuation] or ["a"]
    letters = [*own * 3, *COMMON, chance.choice(SPECIAL), chance.choice(SPECIAL)]
    sizes = [0, 1, 1, *(chance.randrange(1, 9) for _ in range(40))]
    return ["".join(chance.choices(letters, k=size)) for size in sizes]


def expected(source: str, ignore_case: bool, texts: list[str]) -> dict[int, tuple[int, int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        searcher = re.compile(source, re.IGNORECASE if ignore_case else 0)
    found = ((row, searcher.search(text)) for row, text in enumerate(texts))
    try:
        return {row: match.span() for row, match in found if match}
    except SystemError:  # a known fault of `re` with groups in possessive repeats: it has no answer
        reject()


def spans(patterns: list[Pattern], texts: list[str]) -> list[dict[int, tuple[int, int]]]:
    hits, errors = RegexMatcher(patterns, timeout_s=20).find(pl.Series(texts, dtype=pl.String))
    assert errors.is_empty()
    result: list[dict[int, tuple[int, int]]] = [{} for _ in patterns]
    for row, index, start, end in hits.iter_rows():
        result[index][row] = (start, end)
    return result


@agreement
@given(sources, st.booleans(), st.integers(0, 1000))
def test_any_pattern_finds_what_re_finds(source: str, ignore_case: bool, seed: int) -> None:
    pattern = valid(source, ignore_case)
    texts = some_texts(seed, source)
    want = expected(source, ignore_case, texts)
    assert spans([pattern], texts) == [want]
    if pattern.fast is not None:
        accepted = pl.Series(texts).str.contains(pattern.fast).to_list()
        assert all(accepted[row] for row in want)
        assert not pattern.exact or sum(accepted) == len(want)
    if upper_case_literals(source, ignore_case=ignore_case):
        assert not expected(source, ignore_case, [text.lower() for text in texts])


@bystanders
@given(st.lists(st.tuples(sources, st.booleans()), min_size=2, max_size=5), st.integers(0, 1000))
def test_patterns_in_one_matcher_do_not_change_each_other(requests: list[tuple[str, bool]], seed: int) -> None:
    patterns = [valid(source, ignore_case) for source, ignore_case in requests]
    texts = some_texts(seed, "".join(source for source, _ in requests))
    assert spans(patterns, texts) == [expected(*request, texts) for request in requests]


@bystanders
@given(sources, st.integers(0, 1000))
def test_any_pattern_finds_in_texts_lowered_on_demand_what_re_finds_in_lowered_ones(source: str, seed: int) -> None:
    pattern = valid(source, ignore_case=False)
    texts = some_texts(seed, source) + [text.upper() for text in some_texts(seed + 1, source)] + list(SPECIAL)
    want = expected(source, False, fold_all(texts, lower=True, width=False))
    lowered = Lowered(pl.Series(texts, dtype=pl.String), lowers=True)
    for few_rows in (regexes.FEW_ROWS, 0):
        with mock.patch.object(regexes, "FEW_ROWS", few_rows):
            hits, errors = RegexMatcher([pattern], timeout_s=20).find(lowered)
        assert errors.is_empty()
        assert {row: (start, end) for row, _, start, end in hits.iter_rows()} == want


CASED = st.text(st.sampled_from("abikſKİıßẞÅåéÉσςΣａＡ媽🐱"), max_size=12)


@bystanders
@given(st.lists(CASED.filter(bool), min_size=1, max_size=6, unique=True), st.lists(CASED, min_size=1, max_size=20))
def test_keywords_are_found_in_texts_lowered_on_demand_wherever_they_are_in_lowered_ones(
    keywords: list[str], texts: list[str]
) -> None:
    keywords = list(dict.fromkeys(fold_all(keywords, lower=True, width=False)))
    folded = fold_all(texts, lower=True, width=False)
    found = KeywordMatcher(keywords).find(Lowered(pl.Series(texts, dtype=pl.String), lowers=True))
    assert sorted(found.iter_rows()) == sorted(
        (row, number, at, at + len(keyword))
        for row, text in enumerate(folded)
        for number, keyword in enumerate(keywords)
        for at in range(len(text))
        if text.startswith(keyword, at)
    )
