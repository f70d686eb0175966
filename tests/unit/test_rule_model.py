import csv
import random
import time
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pytest

from audience.errors import BadInput
from audience.models.base import OUTPUTS, Explanation, ModelRecord, explain_with
from audience.models.rules.definition import RuleSet
from audience.models.rules.files import parse_rules
from audience.models.rules.kind import Rules
from audience.models.rules.model import RuleModel

GOLDEN_KEYWORDS = """label,content,match_type
女性,媽,partially
女性,/f,end
女性,amy,start
女性,Alice,exactly
女性,bob,absolutely
男性,爸,partially
男性,哥,end
"""


def model(text: str, name: str = "rules.csv", **options: object) -> RuleModel:
    return RuleModel(parse_rules(text.encode(), name, **options)[0])


def predict(model: RuleModel, *texts: str | None, field: str = "content") -> list[list[str]]:
    """The labels of each text."""
    batch = pa.record_batch({field: pa.array(texts, pa.large_string())})
    return [[entry["label"] for entry in row] for row in model.predict(batch).column("labels").to_pylist()]


def evidence(model: RuleModel, text: str, field: str = "content") -> list[tuple[str, str, int]]:
    """(label, matched text, position) of every hit on one text."""
    return [(hit["label"], hit["text"], hit["start"]) for hit in explained(model.rules, {field: text}).hits]


def explained(rules: RuleSet, row: dict[str, str | None]) -> Explanation:
    definition = rules.model_dump(mode="json", exclude_defaults=True)
    record = ModelRecord("m", 1, "rules", 1, definition, rules.used_fields)
    return Rules().explain(record, lambda digest: b"", row)


@pytest.mark.parametrize(
    ("text", "label", "hits"),
    [
        ("台大/F", "女性", [("女性", "/F", 2)]),
        ("Amy", "女性", [("女性", "Amy", 0)]),
        ("ALICE", "女性", [("女性", "ALICE", 0)]),
        ("bob", "女性", [("女性", "bob", 0)]),  # `absolutely` was meant to be exactly
        ("媽爸哥", "男性", [("男性", "爸", 1), ("男性", "哥", 2), ("女性", "媽", 0)]),
        ("aaf/fx/f", "女性", [("女性", "/f", 6)]),  # the place of the hit, not of the first occurrence
    ],
)
def test_golden_keyword_vectors_in_their_intended_form(text, label, hits):
    golden = model(GOLDEN_KEYWORDS, fields=("author",))
    assert predict(golden, text, field="author") == [[label]]
    assert evidence(golden, text, "author") == hits


def test_partial_search_reports_every_overlap():
    rules = model("label,content\n女性,媽\n女性,媽媽\n女性,媽咪\n")
    found = [(text, at) for _, text, at in evidence(rules, "我媽媽媽咪")]
    assert sorted(found) == sorted([("媽", 1), ("媽媽", 1), ("媽", 2), ("媽媽", 2), ("媽", 3), ("媽咪", 3)])


def test_golden_regex_vectors():
    rules = model('{"女性": ["小妹我", "[A-Z]{2}"], "男性": ["小弟."]}', "rules.json", labels="all")
    assert predict(rules, "小弟我 小妹我", "AB") == [["女性", "男性"], []]
    assert evidence(rules, "小弟我 小妹我") == [("女性", "小妹我", 4), ("男性", "小弟我", 0)]


def test_the_published_labeling_functions_are_reproduced_without_a_difference():
    rules = {
        "labels": "all",
        "rules": [
            {"label": "my", "any": ["my"]},
            {"label": "subscribe", "any": ["subscribe"]},
            {"label": "http", "any": ["http"]},
            {"label": "please", "any": ["please", "plz"]},
            {"label": "song", "any": ["song"]},
            {"label": "check_out", "any": [{"regex": "check.*out"}]},
            {"label": "short", "any": [{"regex": r"^\s*(?:\S+(?:\s+\S+){0,3}\s*)?$"}]},
        ],
    }
    folder = resources.files("audience.demo")
    with (folder / "comments.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["content"] for row in csv.DictReader(file)]
    with (Path(__file__).parents[1] / "data" / "youtube_votes.csv").open() as file:
        votes = list(csv.DictReader(file))
    given = predict(RuleModel(RuleSet.model_validate(rules)), *texts)
    expected = [{name for name, vote in row.items() if vote != "-1"} for row in votes]
    assert [set(row) for row in given] == expected


def test_rows_next_to_each_other_never_match_across():
    assert predict(model("label,content\nx,bc\n"), "xab", "cdx") == [[], []]
    assert predict(model("label,規則式\nx,bc\n"), "xab", "cdx") == [[], []]


def test_a_null_field_is_no_hit_for_that_model():
    assert predict(model(GOLDEN_KEYWORDS), None, "媽") == [[], ["女性"]]


def test_a_tie_goes_to_the_label_that_comes_first_in_rule_order():
    assert predict(model("label,content\nb,x\na,y\n"), "xy") == [["b"]]


def test_keywords_found_anywhere_count_once_together_and_every_other_rule_once():
    rules = model(
        "label,content,match_type\nmany,p,partially\nmany,q,partially\nmany,r,partially\nfew,p,start\nfew,r,end\n"
    )
    output = rules.predict(pa.record_batch({"content": ["pqr"]}))
    assert [(e["label"], e["score"]) for e in output.column("labels")[0].as_py()] == [("few", 2.0)]


def test_all_labels_come_with_the_most_hits_first_and_their_own_evidence():
    rules = model("label,content,match_type\na,x,partially\nb,x,start\nb,y,end\n", labels="all")
    entries = rules.predict(pa.record_batch({"content": ["x-y"]})).column("labels")[0].as_py()
    assert [(e["label"], e["score"], {h["label"] for h in e["evidence"]}) for e in entries] == [
        ("b", 2.0, {"b"}),
        ("a", 1.0, {"a"}),
    ]


def test_any_all_and_none_work_together_over_several_fields():
    rules = RuleSet.model_validate(
        {
            "fields": ["title", "content"],
            "rules": [{"label": "x", "any": ["a", "b"], "all": ["c", {"regex": "d+"}], "none": ["e"]}],
        }
    )
    rows = [("a", "cd", 1), ("b c", "dd", 1), ("a", "c", 0), ("c", "d", 0), ("acd", "e", 0), (None, "acd", 1)]
    batch = pa.record_batch(
        {
            "title": pa.array([r[0] for r in rows], pa.large_string()),
            "content": pa.array([r[1] for r in rows], pa.large_string()),
        }
    )
    labels = RuleModel(rules).predict(batch).column("labels").to_pylist()
    assert [len(entry) for entry in labels] == [r[2] for r in rows]


@pytest.mark.parametrize(
    ("case", "expected"),
    [("lower", [["k"], ["k"], []]), ("ignore", [["k", "r"], ["k", "r"], ["r"]]), ("exact", [["k"], ["r"], ["r"]])],
)
def test_case_is_an_option(case, expected):
    text = '{"rules": [{"label": "k", "any": ["abc"]}, {"label": "r", "any": [{"regex": "AB"}]}]}'
    assert predict(model(text, "r.json", case=case, labels="all"), "abc", "ABC", "AB") == expected


def test_width_folding_makes_full_width_letters_equal_and_keeps_positions():
    rules = model("label,content\nx,ＡＢ１\n", width=True)
    assert evidence(rules, "　甲ａｂ1") == [("x", "ａｂ1", 2)]
    assert predict(model("label,content\nx,ab1\n"), "ａｂ１") == [[]]


def test_positions_are_code_points_of_the_original_text():
    rules = model("label,content\nx,i̇stanbul\nx,tail\n")
    assert evidence(rules, "🐱İ tail") == [("x", "tail", 3)]
    assert evidence(model("label,content\nx,ΟΔΟΣ\n"), "ΟΔΟΣ ΟΔΟΣΑ") == [("x", "ΟΔΟΣ", 0), ("x", "ΟΔΟΣ", 5)]


def test_a_text_of_megabytes_full_of_hits_stays_small():
    rules = model("label,content,match_type\nx,a,partially\nx,b,end\n")
    hits = evidence(rules, "a" * 10_000_000 + "b")
    assert hits[0] == ("x", "a", 0)
    assert hits[-1] == ("x", "b", 10_000_000)
    assert len(hits) <= 50


def test_nul_emoji_and_line_breaks_are_ordinary_text():
    assert evidence(model("label,content\nx,🐱\n"), "a\0b\n🐱") == [("x", "🐱", 4)]


def test_a_regex_that_takes_too_long_sets_its_row_aside_and_leaves_the_neighbours():
    rules = RuleModel(RuleSet.model_validate({"rules": [{"label": "x", "any": [{"regex": r"^(?:a|aa)+(?=b)(?<=c)"}]}]}))
    output = rules.predict(pa.record_batch({"content": ["a" * 60 + "b", "ab"]}))
    assert output.schema == OUTPUTS
    assert [row is None for row in output.column("labels").to_pylist()] == [True, False]
    assert "took" in output.column("error")[0].as_py()


def test_an_empty_batch_gives_an_empty_answer():
    assert predict(model(GOLDEN_KEYWORDS)) == []


def test_upper_case_regexes_are_warned_of():
    _, warnings = parse_rules(b"label,regex\nx,[A-Z]{2}\n", "r.csv")
    assert "lower-cased" in warnings[0]


@pytest.mark.parametrize(
    ("text", "name", "where", "reason"),
    [
        ("label,content\nx,\n", "r.csv", "r.csv:2", "empty"),
        ("label,content\n,a\n", "r.csv", "r.csv:2", "label is empty"),
        ("label,content\nx,a\n\nx,A\n", "r.csv", "r.csv:4", "already at r.csv:2"),
        ("label,content,match_type\nx,a,sometimes\n", "r.csv", "r.csv:2", "sometimes"),
        ("label,content,rule_type\nx,a,magic\n", "r.csv", "r.csv:2", "magic"),
        ("label,regex\nx,(a\n", "r.csv", "r.csv:2", "(a"),
        ("label,content\nx,a,b\n", "r.csv", "r.csv:2", "3 columns"),
        ("label,text\nx,a\n", "r.csv", "r.csv:1", "content"),
        ("", "r.csv", "r.csv:1", "content"),
        ("label,content\n", "r.csv", "r.csv", "no rules"),
        ("label,content\nx," + "a" * 600 + "\n", "r.csv", "r.csv:2", "500"),
        ("label,regex\nx," + "a" * 2000 + "\n", "r.csv", "r.csv:2", "1,000"),
        ('{"rules": [\n {"label": "x"}]}', "r.json", "r.json:2", "`any` or `all`"),
        ('{"rules": [\n\n {"label": "x", "any": [{"regex": "["}]}]}', "r.json", "r.json:3", "["),
        ('{"rules": [{"label": "x", "any": ["a"], "anny": []}]}', "r.json", "anny", "not permitted"),
        ('{"rules": [{]}', "r.json", "r.json:1", "column"),
        ('{"x": [["a", "sometimes"]]}', "r.json", "x[1]", "match type"),
        ('{"rules": [{"label": "x", "any": ["a"]}], "case": "title"}', "r.json", "case", "lower"),
    ],
)
def test_bad_rules_are_refused_with_place_and_reason(text, name, where, reason):
    with pytest.raises(BadInput) as error:
        parse_rules(text.encode(), name)
    assert where in str(error.value)
    assert reason in str(error.value)


def test_every_fault_is_listed_not_only_the_first():
    with pytest.raises(BadInput) as error:
        parse_rules(b"label,content\nx,\n,a\nx,b\nx,b\n", "r.csv")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    "text",
    [
        "字詞,判斷式,標籤\n媽,完全一致,女性\n",
        "content,match_type,label\n媽,exactly,女性\n",
        '\ufeffcontent,label,match_type,score\n媽,女性,"exactly,end",1\n',
        "label\tcontent\tmatch_type\n女性\t媽\texactly\n",
        '{"女性": [["媽", "exactly"]]}',
    ],
)
def test_the_predecessors_files_load_in_english_and_chinese(text):
    name = "r.json" if text.startswith("{") else "r.csv"
    assert predict(model(text, name), "媽", "媽咪") == [["女性"], []]


def test_big5_files_load():
    rules, _ = parse_rules("字詞,標籤\n媽媽,女性\n".encode("cp950"), "r.csv")
    assert rules.rules[0].any[0].keyword == "媽媽"


# why a model answers as it does


def random_rules(chance: random.Random) -> RuleSet:
    """Few letters, so that much is found: anchored keywords, regexes, several clauses and fields."""

    def pattern() -> dict[str, str]:
        text = "".join(chance.choices("abＡB", k=chance.randint(1, 5)))
        if chance.random() < 0.1:
            return {"regex": text[:2]}
        return {"keyword": text, "match": chance.choice(["start", "end", "exactly", "partially"])}

    rules = [
        {
            "label": chance.choice("xyz"),
            "any": [pattern() for _ in range(chance.randint(0, 2))],
            "all": [pattern()],
            "none": [pattern()] if chance.random() < 0.2 else [],
            "fields": chance.choice([[], ["title"], ["title", "content"]]),
        }
        for _ in range(30)
    ]
    settings = {"case": chance.choice(["lower", "ignore", "exact"]), "width": chance.random() < 0.5}
    return RuleSet.model_validate({"rules": rules, "labels": chance.choice(["one", "all"]), **settings})


@pytest.mark.parametrize("seed", range(40))
def test_a_row_is_explained_as_the_whole_model_would(seed):
    chance = random.Random(seed)
    rules = random_rules(chance)
    model = RuleModel(rules)
    for size in (0, 2, 6, 30):
        row = {field: "".join(chance.choices("abＡB", k=size)) for field in ("title", "content")}
        assert explained(rules, row) == explain_with(model, row)


def test_100_000_keywords_are_tried_on_a_text_in_less_than_a_second():
    rules = RuleSet.model_validate(
        {"rules": [{"label": "a", "any": [{"keyword": f"字{n}號"}]} for n in range(100_000)]}
    )
    record = ModelRecord("m", 1, "rules", 1, rules.model_dump(mode="json", exclude_defaults=True))
    began = time.process_time()
    found = Rules().explain(record, lambda digest: b"", {"content": "第字77777號" + "x" * 100_000})
    assert time.process_time() - began < 1
    assert [(hit["rule"], hit["text"]) for hit in found.hits] == [(77_778, "字77777號")]


# every fault at once


def test_faults_of_reading_and_of_meaning_are_listed_together_in_the_order_of_the_file():
    text = b'{"case": "title", "rules": [\n{"label": "a"},\n{"labl": "b", "any": ["x"]},\n{"label": "c", "any": [""]}]}'
    with pytest.raises(BadInput) as error:
        parse_rules(text, "r.json")
    assert [(problem.where, problem.reason) for problem in error.value.problems] == [
        ("r.json:2 rule 1", "a rule needs a pattern in `any` or `all`; with `none` alone it would hit every other row"),
        ("r.json:3 rule 2 label", "is missing"),
        ("r.json:3 rule 2 labl", "not permitted: there is no such field; known: label, any, all, none, fields"),
        ("r.json:4 rule 3", "the keyword is empty"),
        ("r.json case", "should be 'lower', 'ignore' or 'exact'"),
    ]


def test_lines_are_those_of_the_rules_whatever_stands_before_them():
    text = b'{"fields": ["rules"],\n "case": "exact",\n "rules": [{"label": "a", "any": ["x"]},\n{"label": "b"}]}'
    with pytest.raises(BadInput, match=r"r\.json:4 rule 2"):
        parse_rules(text, "r.json")
