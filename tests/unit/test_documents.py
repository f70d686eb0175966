"""Files of rules, groups and panels: in which characters they are, and what is broken in them."""

from pathlib import Path

import pytest

from audience.errors import BadInput
from audience.labeling.groups import load_groups
from audience.labeling.panels import load_panels
from audience.models.rules.files import load_rules, parse_rules

HEAD = "content,match_type,label\n"


def keywords(data: bytes, encoding: str | None = None) -> list[str]:
    rules, _ = parse_rules(data, "r.csv", encoding)
    return [rule.any[0].text for rule in rules.rules]


def refused(data: bytes, name: str = "r.csv", encoding: str | None = None) -> str:
    with pytest.raises(BadInput) as error:
        parse_rules(data, name, encoding)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf_with_its_mark_is_read(encoding: str) -> None:
    assert keywords((HEAD + "好😡,,x\n").encode(encoding)) == ["好😡"]


@pytest.mark.parametrize(
    "encoding", ["big5", "cp950", "big5hkscs", "gb18030", "shift_jis", "euc_kr", "latin-1", "utf-16-le"]
)
def test_file_that_may_be_read_in_several_ways_is_refused_until_its_encoding_is_named(encoding: str) -> None:
    words = {"shift_jis": "最高", "euc_kr": "최고", "latin-1": "été"}.get(encoding, "很好")
    data = (HEAD + f"{words},,x\n").encode(encoding)
    assert "--encoding" in refused(data)
    assert keywords(data, encoding) == [words]


def test_known_title_tells_the_encoding_and_that_is_warned_of() -> None:
    rules, warnings = parse_rules("字詞,標籤\n媽媽,女性\n".encode("cp950"), "r.csv")
    assert rules.rules[0].label == "女性"
    assert "it was read as big5" in warnings[0]
    assert "--encoding" in warnings[0]


def test_characters_of_hong_kong_are_read_where_they_are_named() -> None:
    data = (HEAD + "啲嘢唔得,,負面\n").encode("big5hkscs")
    assert keywords(data, "big5hkscs") == ["啲嘢唔得"]
    assert "r.csv:2" in refused(data, encoding="cp950")


def test_user_defined_characters_are_refused() -> None:
    assert "--encoding" in refused((HEAD + "好,,x\n").encode("cp950") + b"\xfa\x40,,y\n")
    assert "r.csv:2: holds a character that only some programs know (U+E000)" in refused(
        (HEAD + "好\ue000,,x\n").encode("gb18030"), encoding="gb18030"
    )


@pytest.mark.parametrize("broken", ["😡".encode()[:-1], b"caf\xe9"])
def test_utf8_with_one_broken_character_is_refused_with_its_line(broken: bytes) -> None:
    data = (HEAD + "好正,partially,正面\n").encode() + broken + ",partially,負面\n".encode()
    assert refused(data).startswith("r.csv:3: is not UTF-8 here, as the rest is")


def test_unknown_encoding_is_refused() -> None:
    for name in ("klingon", "rot13"):
        assert "no encoding is called" in refused(b"content,label\na,x\n", encoding=name)


def test_groups_and_panels_take_an_encoding_and_guess_none(tmp_path: Path) -> None:
    groups, panels = tmp_path / "groups.csv", tmp_path / "panels.json"
    groups.write_bytes("來源,群組\n美食,food\n".encode("big5"))
    panels.write_bytes('{"names": {"好": "good"}}'.encode("big5"))
    for load in (lambda: load_groups(groups), lambda: load_panels(panels)):
        with pytest.raises(BadInput, match="--encoding"):
            load()
    assert load_groups(groups, encoding="big5").channels == {"美食": "food"}
    assert load_panels(panels, encoding="big5").names == {"好": "good"}


def test_broken_quotes_in_rules_and_groups_are_refused_with_their_lines(tmp_path: Path) -> None:
    found = refused(b'content,label,note\na,x,"open\nb,y,n\nc,z,"closed" here\nd,,\ne,w,"never\nf,v,n\n')
    assert "r.csv:2: a quote is followed by text where it should close a value" in found
    assert "(lines 2 to 4)" in found
    assert "r.csv:5: the label is empty" in found
    assert "r.csv:6: the quote that opens in this row never ends" in found
    assert "r.csv:2: the value 'open\\nb,y,n\\n' holds a line break" in refused(
        b'content,label,note\na,x,"open\nb,y,n\n"\n'
    )
    path = tmp_path / "groups.csv"
    path.write_bytes(b's_id,group\na,one\n"b,two\nc,three\nd,"four"\ne,five\ne,six\n')
    with pytest.raises(BadInput, match=r"(?s)groups\.csv:3: .*lines 3 to 5.*groups\.csv:7: e is in the group five"):
        load_groups(path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{\n "x": ["a"],\n "y": ["b"],\n "x": ["c"]}', "r.json:4: the key \"x\" stands twice"),
        ('{"rules": [{"label": "x", "any": ["a"],\n "any": ["b"]}]}', "r.json:2: the key \"any\""),
        ('{"rules": [],\n\n "r\\u0075les": []}', "r.json:3: the key"),
        ('{"x": [["a,", "end"], ["b"]], "rules": [{}, {"label": "x", "label": "y"}]}', "in its object (rules.1): put"),
        ('{"rules": [{"label": "x",\n "any": ["ok \\ud83d"]}]}', "r.json:2: the text"),
        ('{"x\\ud83d": ["a"]}', "half of a surrogate pair"),
        ('{"rules": [{"label": "x", "any": [NaN]}]}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_json_that_would_be_read_as_something_else_is_refused_with_its_line(text: str, where: str) -> None:
    assert where in refused(text.encode(), "r.json")


def test_panels_with_a_key_twice_or_half_a_pair_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "panels.json"
    for text in ('{"conflicts": {"mood": ["a"],\n "mood": ["b"]}}', '{"names":\n {"x": "pos\\ud83d"}}'):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"panels\.json:2: "):
            load_panels(path)
    path.write_text('{"names": {"x": 1}, "conflict": {}}')
    with pytest.raises(
        BadInput, match=r"(?s)names\.x: should be a text.*conflict: not permitted: there is no such field; known: names"
    ):
        load_panels(path)


def test_every_fault_of_a_rules_file_in_json_is_listed_with_its_line() -> None:
    found = refused(
        b'{"case": "title", "rules": [\n{"label": "x"},\n{"any": ["a"]},\n{"label": "y", "any": 1, "al": []}]}',
        "r.json",
    )
    assert "r.json:2 rule 1: a rule needs a pattern" in found
    assert "r.json:3 rule 2 label: is missing" in found
    assert "r.json:4 rule 3 any: should be a list" in found
    assert "r.json:4 rule 3 al: not permitted: there is no such field; known: label, any" in found
    assert "r.json case: should be 'lower', 'ignore' or 'exact'" in found
    found = refused(b'{"x": [\n["a", "often"],\n"(",\n"a"],\n"y": "b"}', "r.json")
    assert "r.json:2 x[1]: should be a regex" in found
    assert "r.json:3 x[2]" in found
    assert "r.json y: should be a list" in found


@pytest.mark.parametrize(
    ("head", "hint"),
    [("content;label", "separate them by commas"), ("contents,label", "did you mean content by 'contents'?")],
)
def test_header_that_is_nearly_right_gets_a_hint(head: str, hint: str) -> None:
    assert hint in refused(f"{head}\na,x\n".encode())


def test_encoding_of_a_file_is_named_from_its_path_on(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes((HEAD + "很好,,x\n").encode("gb18030"))
    rules, warnings = load_rules(tmp_path / "r.csv", "gb18030")
    assert (rules.rules[0].any[0].text, warnings) == ("很好", ())
