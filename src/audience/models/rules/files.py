"""Rule sets from files: the predecessor's CSV (English and Chinese headers) and JSON, and our own JSON."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audience.errors import BadInput, NotFound, Problem
from audience.models.rules.definition import Match, Pattern, Rule, RuleSet, check_rules

HEADERS = {
    "content": "content",
    "字詞": "content",
    "規則式": "content",
    "keyword": "content",
    "regex": "content",
    "label": "label",
    "標籤": "label",
    "match_type": "match_type",
    "判斷式": "match_type",
    "rule_type": "rule_type",
    "規則類型": "rule_type",
    "field": "field",
    "欄位": "field",
}
REGEX_HEADERS = {"規則式", "regex"}
MATCH_TYPES: dict[str, Match] = {
    "start": "start",
    "end": "end",
    "exactly": "exactly",
    "partially": "partially",
    "absolutely": "exactly",
    "比對開頭": "start",
    "比對結尾": "end",
    "完全一致": "exactly",
    "部分吻合": "partially",
}
RULE_TYPES = {"keyword": "keyword", "regex": "regex", "關鍵字": "keyword", "正則": "regex"}
ENCODINGS = ("utf-8-sig", "cp950", "gb18030")
MAX_BYTES = 64 * 2**20


def load_rules(path: Path, **options: Any) -> tuple[RuleSet, tuple[str, ...]]:
    """(rule set, warnings) of a .csv, .tsv or .json file; `options` (fields, case, width, labels) override its own."""
    if not path.is_file():
        raise NotFound(f"there is no rules file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has more than {MAX_BYTES >> 20} MB; that is no rule set")
    return parse_rules(path.read_bytes(), path.name, **options)


def parse_rules(data: bytes, name: str, **options: Any) -> tuple[RuleSet, tuple[str, ...]]:
    """The same from bytes; `name` stands in messages and its ending tells the format."""
    text = _decoded(data, name)
    given = {key: value for key, value in options.items() if value is not None}
    if name.lower().endswith(".json"):
        rules, places, settings = _from_json(text, name)
    else:
        rules, places = _from_csv(text, name, given)
        settings = {}
    try:
        rule_set = RuleSet(rules=tuple(rules), **{**settings, **given})
    except ValidationError as error:
        raise BadInput(f"{name} was not saved:", _problems(error, name)) from None
    return rule_set, check_rules(rule_set, places, name)


def _decoded(data: bytes, name: str) -> str:
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise BadInput(f"{name} is not text in UTF-8, Big5 or GB18030: save it as UTF-8")


def _problems(error: ValidationError, where: str) -> tuple[Problem, ...]:
    """pydantic's findings as ours: the path of the field, and the reason in plain words."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        found.append(Problem(f"{where} {path}".strip(), item["msg"].removeprefix("Value error, ")))
    return tuple(found)


# CSV


def _from_csv(text: str, name: str, options: dict[str, Any]) -> tuple[list[Rule], list[str]]:
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if head.count("\t") > head.count(",") else ",")
    rows = _numbered_rows(reader, name)
    _, header = next(rows, (0, []))
    columns = _columns(header, name)
    default_type = "regex" if any(h.strip().lower() in REGEX_HEADERS for h in header) else "keyword"
    rules: list[Rule] = []
    places: list[str] = []
    problems: list[Problem] = []
    for line, row in rows:
        place = f"{name}:{line}"
        if len(row) != len(header):
            problems.append(
                Problem(place, f"{len(row)} columns where the header has {len(header)}: is a quote missing?")
            )
            continue
        values = {column: row[i] for column, i in columns.items()}
        try:
            found = list(_rules_of_row(values, default_type))
        except ValueError as error:
            problems.append(Problem(place, str(error)))
            continue
        rules += found
        places += [place] * len(found)
    if problems:
        problems += _faults_of(rules, places, name, options)
        problems.sort(key=lambda problem: int(problem.where.rpartition(":")[2]))
        n_lines = len({problem.where for problem in problems})
        raise BadInput(f"{name} was not saved; {n_lines} of its lines need mending:", tuple(problems))
    return rules, places


def _faults_of(rules: list[Rule], places: list[str], name: str, options: dict[str, Any]) -> tuple[Problem, ...]:
    """Of the lines that can be read."""
    try:
        check_rules(RuleSet(rules=tuple(rules), **options), places, name)
    except BadInput as error:
        return error.problems
    except ValidationError:  # of the options: told when the lines are mended
        pass
    return ()


def _numbered_rows(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that hold anything, with the line on which each begins."""
    line = 1
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{name}:{line}: {error}") from None


def _columns(header: list[str], name: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for i, title in enumerate(header):
        column = HEADERS.get(title.strip().lower())
        if column and column in columns:
            raise BadInput(f"{name}:1: two columns are headed {column}")
        if column:
            columns[column] = i
    for needed, titles in (("content", "content, 字詞 or 規則式"), ("label", "label or 標籤")):
        if needed not in columns:
            raise BadInput(f"{name}:1: the header needs a column {titles}; it has: {', '.join(header) or 'nothing'}")
    return columns


def _rules_of_row(row: dict[str, str], default_type: str) -> Iterator[Rule]:
    """A row is an `any` of one pattern; several match types, separated by commas, are several rules."""
    label, content = row["label"].strip(), row["content"]
    fields = (row["field"].strip(),) if row.get("field", "").strip() else ()
    rule_type = RULE_TYPES.get(row.get("rule_type", "").strip().lower() or default_type)
    if rule_type is None:
        raise ValueError(f"the rule type {row['rule_type']!r} is unknown; known: {', '.join(RULE_TYPES)}")
    if rule_type == "regex":
        yield Rule(label=label, any=(Pattern(regex=content),), fields=fields)
        return
    for given in (row.get("match_type", "").strip() or "partially").replace("，", ",").split(","):
        match = MATCH_TYPES.get(given.strip().lower())
        if match is None:
            raise ValueError(f"the match type {given.strip()!r} is unknown; known: {', '.join(MATCH_TYPES)}")
        yield Rule(label=label, any=(Pattern(keyword=content, match=match),), fields=fields)


# JSON


def _from_json(text: str, name: str) -> tuple[list[Rule], list[str], dict[str, Any]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}: not JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(document, dict):
        raise BadInput(f'{name} should hold an object such as {{"rules": [...]}} or {{"label": [...]}}')
    if "rules" not in document:
        return (*_from_label_lists(document, name), {})
    raw = document.pop("rules")
    if not isinstance(raw, list):
        raise BadInput(f"{name}: `rules` should be a list")
    lines = _lines_of_items(text, len(raw))
    places = [f"{name}:{line} rule {i}" for i, line in enumerate(lines, 1)]
    rules: list[Rule] = []
    problems: list[Problem] = []
    for item, place in zip(raw, places, strict=True):
        try:
            rules.append(Rule.model_validate(item))
        except ValidationError as error:
            problems += _problems(error, place)
    if problems:
        raise BadInput(f"{name} was not saved; {len(problems)} things need mending:", tuple(problems))
    return rules, places, document


def _lines_of_items(text: str, n_items: int) -> list[int]:
    """The line on which each item of the document's `rules` begins."""
    decoder = json.JSONDecoder()
    position = text.index("[", text.index('"rules"')) + 1
    lines = []
    for _ in range(n_items):
        while text[position] in " \t\r\n,":
            position += 1
        lines.append(text.count("\n", 0, position) + 1)
        _, position = decoder.raw_decode(text, position)
    return lines


def _from_label_lists(document: dict[str, Any], name: str) -> tuple[list[Rule], list[str]]:
    """The predecessor's PATTERN: `{label: [[keyword, match type], ...]}` or `{label: [regex, ...]}`."""
    rules: list[Rule] = []
    places: list[str] = []
    problems: list[Problem] = []
    for label, items in document.items():
        for i, item in enumerate(items if isinstance(items, list) else [None], 1):
            place = f"{name} {label}[{i}]"
            match item:
                case str():
                    rules.append(Rule(label=label, any=(Pattern(regex=item),)))
                    places.append(place)
                case [str(keyword), str(kind)] if kind in MATCH_TYPES:
                    rules.append(Rule(label=label, any=(Pattern(keyword=keyword, match=MATCH_TYPES[kind]),)))
                    places.append(place)
                case _:
                    known = ", ".join(MATCH_TYPES)
                    problems.append(Problem(place, f"should be a regex, or [keyword, match type] with one of: {known}"))
    if problems:
        raise BadInput(f"{name} was not saved; {len(problems)} of its rules need mending:", tuple(problems))
    return rules, places
