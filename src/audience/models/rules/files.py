"""Rule sets from files: the predecessor's CSV (English and Chinese headers) and JSON, and our own JSON."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from audience.errors import BadInput, NotFound, Problem
from audience.models.rules.definition import Match, Pattern, Rule, RuleSet, check_rules
from audience.text.documents import decoded, items_with_lines, json_document, numbered_rows, pydantic_reason

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
MAX_BYTES = 64 * 2**20


def load_rules(path: Path, encoding: str | None = None, **options: Any) -> tuple[RuleSet, tuple[str, ...]]:
    """(rule set, warnings) of a .csv, .tsv or .json file; `encoding`: other than UTF-8; `options` (fields, case, width,
    labels) override its own."""
    if not path.is_file():
        raise NotFound(f"there is no rules file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has more than {MAX_BYTES >> 20} MB; that is no rule set")
    return parse_rules(path.read_bytes(), path.name, encoding, **options)


def parse_rules(data: bytes, name: str, encoding: str | None = None, **options: Any) -> tuple[RuleSet, tuple[str, ...]]:
    """The same from bytes; `name` stands in messages and its ending tells the format."""
    text, warnings = decoded(data, name, encoding, _has_known_titles)
    given = {key: value for key, value in options.items() if value is not None}
    if name.lower().endswith(".json"):
        rules, places, settings = _from_json(text, name, given)
    else:
        rules, places = _from_csv(text, name, given)
        settings = {}
    try:
        rule_set = RuleSet(rules=tuple(rules), **{**settings, **given})
    except ValidationError as error:
        raise BadInput(f"{name} was not saved:", _problems(error, name)) from None
    return rule_set, (*warnings, *check_rules(rule_set, places, name))


def _has_known_titles(text: str) -> bool:
    """Whether the first line has one of our Chinese titles: in another encoding they would be other characters."""
    titles = (title.strip(' "').lower() for title in re.split("[,\t]", text.partition("\n")[0].strip()))
    return any(title in HEADERS and not title.isascii() for title in titles)


def _problems(error: ValidationError, where: str, whole: type[BaseModel] = RuleSet) -> tuple[Problem, ...]:
    """pydantic's findings as ours: the path of the field, and the reason in plain words."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        known = (Pattern if len(item["loc"]) > 1 else whole).model_fields
        found.append(Problem(f"{where} {path}".strip(), pydantic_reason(item, known)))
    return tuple(found)


# CSV


def _from_csv(text: str, name: str, options: dict[str, Any]) -> tuple[list[Rule], list[str]]:
    head = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    problems: list[Problem] = []
    rows = numbered_rows(text, "\t" if head.count("\t") > head.count(",") else ",", name, problems)
    first_line, header = next(rows, (1, []))
    if problems:
        raise BadInput(f"{name} was not saved; its header needs mending:", tuple(problems))
    columns = _columns(header, f"{name}:{first_line}")
    default_type = "regex" if any(h.strip().lower() in REGEX_HEADERS for h in header) else "keyword"
    rules: list[Rule] = []
    places: list[str] = []
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
    """Of the rules that can be read."""
    try:
        check_rules(RuleSet(rules=tuple(rules), **options), places, name)
    except BadInput as error:
        return error.problems
    except ValidationError:  # of the options: told by themselves
        return _faults_of(rules, places, name, {}) if options else ()
    return ()


def _columns(header: list[str], place: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for i, title in enumerate(header):
        column = HEADERS.get(title.strip().lower())
        if column and column in columns:
            raise BadInput(f"{place}: two columns are headed {column}")
        if column:
            columns[column] = i
    for needed, titles in (("content", "content, 字詞 or 規則式"), ("label", "label or 標籤")):
        if needed not in columns:
            shown = ", ".join(header) or "nothing"
            raise BadInput(f"{place}: the header needs a column {titles}; it has: {shown}{_hint(header)}")
    return columns


def _hint(header: list[str]) -> str:
    """What was perhaps meant."""
    if len(header) == 1 and (sign := next((s for s in ";|" if s in header[0]), None)):
        return f"; its columns are separated by {sign}: separate them by commas"
    for title in header:
        close = difflib.get_close_matches(title.strip().lower(), HEADERS, n=1, cutoff=0.75)
        if close and title.strip().lower() not in HEADERS:
            return f"; did you mean {close[0]} by {title!r}?"
    return ""


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


def _from_json(text: str, name: str, options: dict[str, Any]) -> tuple[list[Rule], list[str], dict[str, Any]]:
    document = json_document(text, name)
    if not isinstance(document, dict):
        raise BadInput(f'{name} should hold an object such as {{"rules": [...]}} or {{"label": [...]}}')
    lines = dict(items_with_lines(text))
    if "rules" not in document:
        return (*_from_label_lists(document, name, lines), {})
    raw = document.pop("rules")
    if not isinstance(raw, list):
        raise BadInput(f"{name}: `rules` should be a list")
    rules: list[Rule] = []
    places: list[str] = []
    problems: list[Problem] = []
    for i, (item, line) in enumerate(zip(raw, lines["rules"], strict=True), 1):
        place = f"{name}:{line} rule {i}"
        try:
            rules.append(Rule.model_validate(item))
            places.append(place)
        except ValidationError as error:
            problems += _problems(error, place, Rule)
    if problems:
        settings = {**document, **options}
        problems += _faults_of(rules, places, name, settings)
        problems += _faults_of_settings(settings, name)
        problems.sort(key=lambda problem: _line_of(problem.where))
        raise BadInput(f"{name} was not saved; {len(problems)} things need mending:", tuple(problems))
    return rules, places, document


def _line_of(where: str) -> int:
    match = re.search(r":(\d+)", where)
    return int(match[1]) if match else 0


def _faults_of_settings(settings: dict[str, Any], name: str) -> tuple[Problem, ...]:
    try:
        RuleSet(rules=(), **settings)
    except ValidationError as error:
        return _problems(error, name)
    except TypeError:  # a name that no keyword can have
        pass
    return ()


def _from_label_lists(document: dict[str, Any], name: str, lines: dict[str, list[int]]) -> tuple[list[Rule], list[str]]:
    """The predecessor's PATTERN: `{label: [[keyword, match type], ...]}` or `{label: [regex, ...]}`."""
    rules: list[Rule] = []
    places: list[str] = []
    problems: list[Problem] = []
    for label, items in document.items():
        if not isinstance(items, list):
            problems.append(Problem(f"{name} {label}", "should be a list of patterns"))
            continue
        for i, item in enumerate(items, 1):
            place = f"{name}:{lines[label][i - 1]} {label}[{i}]"
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
        problems += _faults_of(rules, places, name, {})
        problems.sort(key=lambda problem: _line_of(problem.where))
        raise BadInput(f"{name} was not saved; {len(problems)} of its rules need mending:", tuple(problems))
    return rules, places
