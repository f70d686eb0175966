"""Many patterns over a column: hits as `re.search` has them, row by row."""

import re

import numpy as np
import polars as pl
import pytest

from audience.text import spans as spans_module
from audience.text.patterns import compile_pattern
from audience.text.regexes import BATCH, RegexMatcher
from audience.text.spans import code_point_offsets

TEXTS = [
    "", "a", "b", "\n", "a\n", "a\n\n", "foo", "foo\n", "xfoo", "foox", "a foo b", "a foo\nb", "é foo", "foo\u0301",
    "foo²", "FOO", "Foo foo", "sS\u017f", "kK\u212a", "İiI\u0131", "ς\u03c3Σ", "straße", "😀京x😀", "a\rb",
    "a\u2028b", "\x1ca", "nul\x00x", "٣4", "aa", "abab", "aXbXc", "{a}", "a{e}", "'it' \"is\"", "foo bar foo",
    "  foo  ", "-foo-", "foo_bar", "bcd", "xab", "cdx",
]  # fmt: skip
COLUMN = pl.Series(TEXTS)

EXAMPLES = [
    "foo", "a.b", "(?s)a.b", "[a-f]+", "[^a-z]", r"[^\W\d]+", r"\w+", r"\W", r"\d+", r"\D", r"\s", r"\S+",
    r"\bfoo\b", r"\bfoo", r"foo\b", r"\Bfoo", r"foo\B", r"\b", r"\B", "^a", "a$", r"a\Z", r"\Aa", "(?m)^b",
    "(?m)a$", "$", "^", "^$", "(?m)^$", "a$|b", r"(?:^|\s)foo(?:\s|$)", "foo|bar|", "|a", "a|ab", "ab|a", "(a)(b)?",
    "(?P<x>a)b", "a*", "a+?", "a??b", "a{2}", "(?:ab){1,2}?", "a{0}", "(?:a*)*b", "(?:a|b?)+", "(a*)+", "a*+",
    "a++b", "(?>a|ab)b", "foo(?=x)", "foo(?!x)", "(?=foo)", r"(?<=\s)foo", r"(?<!\w)foo(?!\w)", "(?<!x)foo(?= )",
    r"(\w)\1", r"(?P<q>['\"]).*?(?P=q)", "(x)?foo(?(1)x|y)?", r"(\w+) bar \1", "(?i)FOO", "(?i:f)oo", "(?i)s+",
    "(?i)k", "(?i)[i]", "(?i)ς+", "(?i)[^k]", "(?i)(s)\\1", "(?a)\\w+", "(?a)\\bfoo\\b", "(?ai)k",
    "(?x) f o o # comment\n", "(?x:f o)o", r"\{e\}", "a{e}", "😀", "京.", r"\x00", "\u2028", r"\x1c", "\r", "[\\s]",
    "a(?#no)b?", r"foo\b|bar\b", r"\bfoo\b.*\bfoo\b", "(?!)", "(?=a)(?=.b)", "[^\\s\\S]", r"x(?<=\bx)", "a$\n",
    r"o\n\Z", r"(?<=a$)\n", r"(?:a$)?",
]  # fmt: skip


def found(sources: list[str], texts: pl.Series, ignore_case: bool = False) -> list[tuple[int, int, int, int]]:
    hits, errors = RegexMatcher([compile_pattern(source, ignore_case=ignore_case) for source in sources]).find(texts)
    assert errors.is_empty()
    return list(hits.iter_rows())


def wanted(sources: list[str], texts: pl.Series, flags: int = 0) -> list[tuple[int, int, int, int]]:
    return [
        (row, index, *match.span())
        for row, text in enumerate(texts)
        for index, source in enumerate(sources)
        if text is not None and (match := re.search(source, text, flags))
    ]


@pytest.mark.parametrize("source", EXAMPLES)
def test_a_pattern_finds_what_re_finds(source: str) -> None:
    assert found([source], COLUMN) == wanted([source], COLUMN)


def test_many_patterns_together_find_what_each_finds_alone() -> None:
    assert len(EXAMPLES) > 2 * BATCH
    assert found(EXAMPLES, COLUMN) == wanted(EXAMPLES, COLUMN)


def test_many_patterns_together_ignore_case_as_each_does_alone() -> None:
    assert found(EXAMPLES, COLUMN, ignore_case=True) == wanted(EXAMPLES, COLUMN, re.IGNORECASE)


def test_dollar_matches_before_a_final_newline() -> None:
    assert found(["a$"], pl.Series(["a\n", "a\n\n", "a", "ab"])) == [(0, 0, 0, 1), (2, 0, 0, 1)]


def test_a_word_boundary_is_beside_a_letter_that_only_python_counts() -> None:
    assert found([r"\bfoo\b"], pl.Series(["foo²", "foo\u0301", "foo-"])) == [(1, 0, 0, 3), (2, 0, 0, 3)]


def test_rows_do_not_run_into_each_other() -> None:
    assert found(["bc", "b\nc", "(?s)b.c"], pl.Series(["xab", "cdx"])) == []


def test_null_texts_hit_nothing() -> None:
    assert found(["", "a", r"(a)\1*"], pl.Series([None, "a", None], dtype=pl.String)) == [
        (1, 0, 0, 0),
        (1, 1, 0, 1),
        (1, 2, 0, 1),
    ]
    assert found(["a"], pl.Series([None], dtype=pl.String)) == []


def test_no_texts_and_no_patterns_give_empty_tables() -> None:
    hits, errors = RegexMatcher([]).find(pl.Series([], dtype=pl.String))
    assert hits.schema == {"row": pl.UInt32, "pattern": pl.UInt32, "start": pl.Int64, "end": pl.Int64}
    assert errors.schema == {"row": pl.UInt32, "reason": pl.String}
    assert RegexMatcher([]).find(COLUMN)[0].is_empty()
    assert found(["a", "(a)\\1"], pl.Series([], dtype=pl.String)) == []


def test_hits_are_sorted_by_row_and_then_pattern_whatever_the_groups() -> None:
    patterns = [compile_pattern(source) for source in ("b", "a", "ab", "zz")]
    hits, _ = RegexMatcher(patterns, groups=[2, 1, 2, 1]).find(pl.Series(["ab", "b"]))
    assert hits.select("row", "pattern").rows() == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_a_row_that_takes_too_long_is_an_error_and_its_neighbours_keep_their_hits() -> None:
    catastrophe = "(a*)" * 6 + r"\1\2\3b"
    patterns = [compile_pattern(source) for source in (catastrophe, "a", "(x)\\1")]
    texts = pl.Series(["xx a", "a" * 60 + "cb", "xxa"])
    hits, errors = RegexMatcher(patterns, timeout_s=0.1).find(texts)
    assert hits.rows() == [(0, 1, 3, 4), (0, 2, 0, 2), (2, 1, 2, 3), (2, 2, 0, 2)]
    assert errors["row"].to_list() == [1]
    assert "pattern 0 took longer than 0.1 s" in errors["reason"][0]


def test_patterns_too_large_together_are_split() -> None:
    sources = [rf"\w{{{size}}}x" for size in range(60, 70)]
    matcher = RegexMatcher([compile_pattern(source) for source in sources])
    assert len(matcher.batches) > 1
    assert found(sources, pl.Series(["w" * 64 + "x"])) == [(0, index, 4 - index, 65) for index in range(5)]


def test_a_text_of_ten_megabytes_is_searched_in_linear_time() -> None:
    text = "é" * 5_000_000 + " foo"
    assert found([r"\bfoo$", "(é+)+x", "foo"], pl.Series([text, "foo"])) == [
        (0, 0, 5_000_001, 5_000_004),
        (0, 2, 5_000_001, 5_000_004),
        (1, 0, 0, 3),
        (1, 2, 0, 3),
    ]


def test_a_column_in_several_chunks_is_one_column() -> None:
    column = pl.concat([pl.Series(["a", None]), pl.Series(["é foo"]), pl.Series(["foo"])], rechunk=False)
    assert found(["foo", r"(o)\1"], column) == [(2, 0, 2, 5), (2, 1, 3, 5), (3, 0, 0, 3), (3, 1, 1, 3)]


def test_byte_offsets_become_code_point_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(7)
    letters = list("aé京😀\n\u0301")
    texts = ["".join(chance.choice(letters, size=size)) for size in chance.integers(0, 30, size=50)]
    rows = chance.integers(0, 50, size=300)
    points = np.array([chance.integers(0, len(texts[row]) + 1) for row in rows])
    offsets = np.array([len(texts[row][:point].encode()) for row, point in zip(rows, points, strict=True)])
    assert code_point_offsets(pl.Series(texts), rows, offsets).tolist() == points.tolist()
    monkeypatch.setattr(spans_module, "BLOCK", 7)
    monkeypatch.setattr(spans_module, "TEXT_BYTES_AT_ONCE", 40)
    assert code_point_offsets(pl.Series(texts), rows, offsets).tolist() == points.tolist()


def test_no_offsets_become_no_offsets() -> None:
    none = np.array([], dtype=np.int64)
    assert code_point_offsets(pl.Series(["a"]), none, none).tolist() == []
