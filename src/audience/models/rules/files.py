"""Rule sets from files: the predecessor's CSV (English and Chinese headers) and JSON, and our own JSON."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from audience.errors import BadInput, NotFound, Problem
from audience.models.faults import problems_of
from audience.models.rules.definition import Match, Pattern, Rule, RuleSet, check_rules
from audience.text.documents import decoded, items_with_lines, json_document, numbered_rows

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
Lines = Mapping[str, Sequence[int]]


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
        document = json_document(text, name)
        read = _from_document(document, name, dict(items_with_lines(text)) if isinstance(document, dict) else {})
    else:
        read = _from_csv(text, name)
    rules, found = _checked(read, name, given)
    return rules, (*warnings, *found)


def parse_document(document: Any, name: str = "rules", **options: Any) -> tuple[RuleSet, tuple[str, ...]]:
    """The same from JSON that was read already, of either form; or from a list of rules."""
    given = {key: value for key, value in options.items() if value is not None}
    document = {"rules": document} if isinstance(document, list) else document
    return _checked(_from_document(document, name, joint="."), name, given)


@dataclass
class Read:
    """What could be read of a file: rules with a place each, settings, and what is wrong with the rest."""

    rules: list[Rule] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    all_places: list[str] = field(default_factory=list)
    """In the order of the file, also those of what could not be read."""
    joint: str = " "
    """Between a place and the path of a field below it."""


def _checked(read: Read, name: str, given: dict[str, Any]) -> tuple[RuleSet, tuple[str, ...]]:
    """(rule set, warnings), or a refusal with every fault: what could not be read, and what is wrong with the rest."""
    problems = list(read.problems)
    try:
        rules = RuleSet(rules=tuple(read.rules), **{**read.settings, **given})
    except ValidationError as error:
        problems += problems_of(error, name, read.joint)
        rules = RuleSet(rules=tuple(read.rules))
    warnings: tuple[str, ...] = ()
    try:
        if read.rules or not problems:
            warnings = check_rules(rules, read.places, name)
    except BadInput as error:
        if not error.problems:
            raise
        problems += error.problems
    if problems:
        order = {place: n for n, place in enumerate(read.all_places)}
        problems.sort(key=lambda problem: _place_in(order, problem.where))
        what = "thing needs" if len(problems) == 1 else "things need"
        raise BadInput(f"{name} was not saved; {len(problems)} {what} mending:", tuple(problems))
    return rules, warnings


def _place_in(order: dict[str, int], where: str) -> int:
    """Of a place, or of a field below it; faults of the whole come last."""
    while where not in order and where:
        where = where[: max(where.rfind(" "), where.rfind("."), 0)]
    return order.get(where, len(order))


def _has_known_titles(text: str) -> bool:
    """Whether the first line has one of our Chinese titles: in another encoding they would be other characters."""
    titles = (title.strip(' "').lower() for title in re.split("[,\t]", text.partition("\n")[0].strip()))
    return any(title in HEADERS and not title.isascii() for title in titles)


# CSV


def _from_csv(text: str, name: str) -> Read:
    head = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    read = Read()
    rows = numbered_rows(text, "\t" if head.count("\t") > head.count(",") else ",", name, read.problems)
    first_line, header = next(rows, (1, []))
    if read.problems:
        raise BadInput(f"{name} was not saved; its header needs mending:", tuple(read.problems))
    columns = _columns(header, f"{name}:{first_line}")
    default_type = "regex" if any(h.strip().lower() in REGEX_HEADERS for h in header) else "keyword"
    for line, row in rows:
        place = f"{name}:{line}"
        read.all_places.append(place)
        if len(row) != len(header):
            reason = f"{len(row)} columns where the header has {len(header)}: is a quote missing?"
            read.problems.append(Problem(place, reason))
            continue
        values = {column: row[i] for column, i in columns.items()}
        try:
            found = list(_rules_of_row(values, default_type))
        except ValueError as error:
            read.problems.append(Problem(place, str(error)))
            continue
        read.rules += found
        read.places += [place] * len(found)
    return read


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


def _from_document(document: Any, name: str, lines: Lines = MappingProxyType({}), joint: str = " ") -> Read:
    """`lines`: key -> the line of each item of its list, where they are known."""
    if not isinstance(document, dict):
        raise BadInput(f'{name} should hold an object such as {{"rules": [...]}} or {{"label": [...]}}')
    if "rules" not in document:
        return _from_label_lists(document, name, lines)
    settings = {key: value for key, value in document.items() if key != "rules"}
    if not isinstance(document["rules"], list):
        raise BadInput(f"{name}: `rules` should be a list")
    read = Read(settings=settings, joint=joint)
    for n, item in enumerate(document["rules"]):
        place = f"{name}:{lines['rules'][n]} rule {n + 1}" if lines else f"{name}{joint}{n}"
        read.all_places.append(place)
        try:
            read.rules.append(Rule.model_validate(item))
            read.places.append(place)
        except ValidationError as error:
            read.problems += problems_of(error, place, joint, Rule.model_fields)
    return read


def _from_label_lists(document: dict[str, Any], name: str, lines: Lines) -> Read:
    """The predecessor's PATTERN: `{label: [[keyword, match type], ...]}` or `{label: [regex, ...]}`."""
    read = Read()
    for label, items in document.items():
        if not isinstance(items, list):
            read.problems.append(Problem(f"{name} {label}", "should be a list of patterns"))
            continue
        for n, item in enumerate(items, 1):
            place = f"{name}:{lines[label][n - 1]} {label}[{n}]" if lines else f"{name} {label}[{n}]"
            read.all_places.append(place)
            match item:
                case str():
                    pattern = Pattern(regex=item)
                case [str(keyword), str(kind)] if kind in MATCH_TYPES:
                    pattern = Pattern(keyword=keyword, match=MATCH_TYPES[kind])
                case _:
                    known = ", ".join(MATCH_TYPES)
                    reason = f"should be a regex, or [keyword, match type] with one of: {known}"
                    read.problems.append(Problem(place, reason))
                    continue
            read.rules.append(Rule(label=label, any=(pattern,)))
            read.places.append(place)
    return read
