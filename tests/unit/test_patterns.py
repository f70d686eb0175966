"""What a pattern means, how it is written for the two engines, and what is refused."""

import importlib
import re

import numpy as np
import polars as pl
import pytest
import regex

from audience.errors import BadInput
from audience.text.charsets import Category, Item, Ranges, Span, cased, lower_table, members, ranges_of, word
from audience.text.dialects import Fast
from audience.text.patterns import LARGEST_REPEAT, LONGEST_SOURCE, compile_pattern, upper_case_literals
from audience.text.syntax import At, Chars, Repeat, Seq, parse

ALL = "".join(map(chr, range(0x110000)))


def asked(source: str, flags: int) -> Ranges:
    mask = np.zeros(len(ALL), dtype=np.bool_)
    for run in re.finditer(f"(?:{source})+", ALL, flags):
        mask[run.start() : run.end()] = True
    return ranges_of(mask)


def refusal(source: str, ignore_case: bool = False) -> str:
    with pytest.raises(BadInput) as caught:
        compile_pattern(source, ignore_case=ignore_case)
    return str(caught.value)


def test_the_private_parser_of_re_still_looks_as_we_read_it() -> None:
    tree = importlib.import_module("re._parser").parse(r"a[b-d\w]+?(?i:x)$")
    assert [name.name for name, _ in tree] == ["LITERAL", "MIN_REPEAT", "SUBPATTERN", "AT"]
    assert isinstance(tree.state.flags, int)


def test_a_pattern_is_read_as_a_tree_without_flags() -> None:
    assert parse("(?s:.)a{2,}?$", 0) == Seq(
        (
            Chars(((0, 0xD7FF), (0xE000, 0x10FFFF))),
            Repeat(Chars(((97, 97),)), 2, None, "lazy"),
            At("last_line_end"),
        )
    )


def test_flags_reach_only_their_scope() -> None:
    assert parse("(?i:é)é", 0) == Seq((Chars(((0xC9, 0xC9), (0xE9, 0xE9))), Chars(((0xE9, 0xE9),))))
    assert parse("(?i)a(?-i:a)", 0) == Seq((Chars(((65, 65), (97, 97))), Chars(((97, 97),))))
    assert parse("(?m:^$)^$", 0) == Seq((At("line_start"), At("line_end"), At("start"), At("last_line_end")))
    assert parse(r"(?a:\b)\b", 0) == Seq((At("edge", ascii_only=True), At("edge")))


@pytest.mark.parametrize(
    ("source", "items", "negated"),
    [
        (r"\w", (Category("w"),), False),
        (r"[^\s\d]", (Category("s"), Category("d")), True),
        (r"[\w-]", (Category("w"), Span(45, 45)), False),
        ("[^K-S]", (Span(75, 83),), True),
        ("[^İ]", (Span(0x130, 0x130),), True),
        ("[\u0370-\u03ff]", (Span(0x370, 0x3FF),), False),
        ("[\U00010400-\U00010410\x00]", (Span(0x10400, 0x10410), Span(0, 0)), False),
        (r"[^\W_]", (Category("W"), Span(95, 95)), True),
    ],
)
@pytest.mark.parametrize("flags", [0, re.IGNORECASE, re.IGNORECASE | re.ASCII])
def test_a_class_holds_what_re_says_of_every_code_point(
    source: str, items: tuple[Item, ...], negated: bool, flags: int
) -> None:
    ranges = members(items, negated=negated, ignore_case=bool(flags & re.IGNORECASE), ascii_only=bool(flags & re.ASCII))
    assert ranges == asked(source, flags)


@pytest.mark.parametrize("letter", list("sS\u017fkK\u212aiIİ\u0131ς\u03c3ΣµμßẞǅéÉ京_5"))
def test_a_letter_without_case_is_what_re_says_of_every_code_point(letter: str) -> None:
    ranges = members((Span(ord(letter), ord(letter)),), ignore_case=True)
    assert ranges == asked(letter, re.IGNORECASE)


def test_lowering_is_what_re_does_to_compare_a_back_reference() -> None:
    same = re.compile(r"(.)\1", re.IGNORECASE | re.DOTALL)
    table = lower_table(False)
    assert all(same.fullmatch(letter + chr(table.get(ord(letter), ord(letter)))) for letter in cased())
    assert not same.fullmatch("s\u017f")
    assert all(same.fullmatch(chr(upper) + chr(lower)) for upper, lower in lower_table(True).items())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a(b", "missing ), unterminated subpattern at position 1"),
        ("*a", "nothing to repeat at position 0"),
        ("[z-a]", "bad character range z-a at position 1"),
        (r"(?<=a+)b", "look-behind requires fixed-width pattern"),
        ("a{99999999999}", "repetition number is too large"),
        ("(?L)a", "bad inline flags"),
        ("a" * (LONGEST_SOURCE + 1), "too long: at most 1,000"),
        ("(?:a{200}){51}", "10,200 times; nested repeats may multiply to at most 10,000"),
        ("(" * 400 + ")" * 400, "nested too deeply"),
        (r"(?:(a)b)+\1", "can repeat only single characters"),
        (r"(a)(?:b|\1)*", "can repeat only single characters"),
        ("(a)?(?:bc)+(?(1)d|e)", "can repeat only single characters"),
        ("(a(?(1)b|c))", "cannot stand inside that group"),
        (r"(a)\1{1,99}", "may span at most 50"),
        (r"(?a:\W)x", "set the flag for the whole pattern"),
        (r"(?a)(?u:\w)", "set the flag for the whole pattern"),
        (r"(?i:(a))(?i:\1)B", "let the whole pattern ignore case"),
    ],
)
def test_a_pattern_is_refused_with_the_reason(source: str, reason: str) -> None:
    assert reason in refusal(source)


def test_limits_themselves_are_allowed() -> None:
    assert compile_pattern("a" * LONGEST_SOURCE).exact_span
    assert compile_pattern(f"(?:a{{100}}){{{LARGEST_REPEAT // 100}}}").source


EXACT = [
    "plain", "a.c", "a|bc|", "x*?y+", "(a+)+$", r"\w+\s\d{2,3}", "[^a-z]", "^start", r"\Aa\Z", "a$", "(?m)^a$",
    r"\bword\b", r"\bcats?\b", r"\b(?:one|two)\b", r"\Bx", r"x\B", r"\b#\w", r"(?<!\w)a(?!\w)", r"(?<=\s)a", "a(?=b|$)",
    r"(?:^|\s)a(?:\s|$)", r"one\b|two\b", r"\bone\b|\btwo\b", "(?i)straße", "(?P<name>a)(b)", "(?a)x\\b.y",
]  # fmt: skip


@pytest.mark.parametrize("source", EXACT)
def test_the_fast_engine_alone_answers(source: str) -> None:
    pattern = compile_pattern(source)
    assert pattern.exact_span
    assert not [warning for warning in pattern.warnings if "fast" in warning]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (r"a\b.c", "word boundary inside the pattern"),
        ("a(?=b)c", "look-ahead"),
        ("a(?!bc)", "look-ahead"),
        ("a(?<=b)c", "look-behind"),
        (r"(a)\1", "back-reference"),
        ("(?>a+)b", "atomic group"),
        ("a++b", "possessive repeat"),
        ("(a)?(?(1)b|c)", "condition"),
        ("a$\n", "$ before the end of the pattern"),
        (r"\w{500}", "many counted repeats"),
    ],
)
def test_what_the_fast_engine_cannot_say_only_filters(source: str, reason: str) -> None:
    pattern = compile_pattern(source)
    assert pattern.fast is not None
    assert not pattern.exact
    assert f"cannot use the fast engine: {reason}" in pattern.warnings


def test_a_filter_that_accepts_every_text_is_dropped() -> None:
    assert compile_pattern(r"(a*)\1").fast is None
    assert compile_pattern(r"a?(?!b)(?!c)").fast is None


def test_dropping_an_assertion_keeps_the_rest_as_a_filter() -> None:
    form = compile_pattern("foo(?!x)bar").fast
    assert form is not None
    assert pl.Series(["foobar", "fobar"]).str.contains(form).to_list() == [True, False]


def test_the_quick_form_of_a_word_has_no_boundaries() -> None:
    assert compile_pattern(r"\bfoo\b").loose == "(?:)foo(?:)"


def test_a_pattern_too_large_for_the_fast_engine_loses_its_counts() -> None:
    form = compile_pattern(r"\w{500}").fast
    assert form is not None
    assert form.endswith("){1,}")


def test_a_pattern_that_no_text_can_miss_is_warned_of() -> None:
    for source in ("", "a*", "^", "$", "^a?", "a||b", "(?m)^"):
        assert compile_pattern(source).warnings == ("matches every text",), source
    for source in ("a", "^$", r"\b", "^a", "(?=a)"):
        assert "matches every text" not in compile_pattern(source).warnings, source


def test_a_catastrophic_pattern_is_fine_where_matching_is_linear() -> None:
    pattern = compile_pattern("(a+)+$")
    assert pattern.exact_span
    assert not pattern.warnings


@pytest.mark.filterwarnings("ignore:Possible")
@pytest.mark.parametrize("source", ["a{e}", "(?:a){e<=1}", "[[:alpha:]]", "[a||b]", "[+--]", "[a&&b]", r"a\{b\}"])
def test_the_slow_form_has_no_syntax_of_its_engine(source: str) -> None:
    engine = regex.compile(compile_pattern(source).slow, regex.V0)
    for text in ("a", "b", "a{e}", "a{e<=1}", ":]", "|", "-", "a{b}", "&", "~", "x"):
        found, want = engine.search(text), re.search(source, text)
        assert (found and found.span()) == (want and want.span()), text


def test_warnings_of_re_do_not_reach_the_user(recwarn: pytest.WarningsRecorder) -> None:
    compile_pattern("[[a]x]")
    assert not recwarn.list


def test_a_lone_surrogate_matches_nothing() -> None:
    assert compile_pattern("\ud800").fast == r"[^\x{0}-\x{10FFFF}]"
    assert pl.Series(["a"]).str.contains(Fast(parse("[a\ud800-\ue000]", 0)).text).to_list() == [True]


@pytest.mark.parametrize(
    "source", ["A", "[A-Z]{2}", "aB?C", "(?:A|B)c", "(?P<x>É)", "a+Ab*", "(?=A)", "(?>A)", "[A-ZÀ-Ö]"]
)
def test_upper_case_is_needed(source: str) -> None:
    assert upper_case_literals(source)
    assert not upper_case_literals(source, ignore_case=True)


@pytest.mark.parametrize(
    "source",
    ["a", "A?", "A|b", "[A-z]", r"\w", "(?i)A", "(?i:A)b", "(?!A)b", "京", "", r"\S", "[A-Z0-9]", "(A)?(?(1)b|c)"],
)
def test_upper_case_is_not_needed(source: str) -> None:
    assert not upper_case_literals(source)


def test_nothing_lowered_is_upper_case() -> None:
    upper = set(lower_table(False))
    assert not [letter for letter in cased() for lower in letter.lower() if ord(lower) in upper]


def test_word_characters_are_those_of_re() -> None:
    assert word(True) == asked(r"\w", re.ASCII)
    assert word(False) == asked(r"\w", 0)
