"""Rules as data: what a rule set is, and everything that is checked before one is saved."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from audience.errors import BadInput, Problem
from audience.models.base import label_fault
from audience.text.folding import fold_all
from audience.text.patterns import compile_pattern, upper_case_literals

MAX_RULES = 100_000
MAX_KEYWORD_CHARACTERS = 500

Match = Literal["start", "end", "exactly", "partially"]
Case = Literal["lower", "ignore", "exact"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pattern(Frozen):
    """A keyword with its way of matching, or a regex that is searched anywhere. A bare string is a keyword that matches
    anywhere; `absolutely` is an older name of `exactly`."""

    keyword: str | None = None
    regex: str | None = None
    match: Annotated[Match, BeforeValidator(lambda m: "exactly" if m == "absolutely" else m)] = "partially"

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"keyword": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_two(self) -> "Pattern":
        if (self.keyword is None) == (self.regex is None):
            raise ValueError("a pattern is either a keyword or a regex")
        if self.regex is not None and self.match != "partially":
            raise ValueError("a regex has no match type: write ^ or $ in it")
        return self

    @property
    def kind(self) -> str:
        return "regex" if self.regex is not None else self.match

    @property
    def text(self) -> str:
        return self.regex if self.regex is not None else self.keyword or ""


class Rule(Frozen):
    """Hits a row when, over its fields together, one of `any` and all of `all` are found and none of `none`."""

    label: str
    any: tuple[Pattern, ...] = ()
    all: tuple[Pattern, ...] = ()
    none: tuple[Pattern, ...] = ()
    fields: tuple[str, ...] = Field(default=(), description="fields looked at; by default those of the rule set")

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        return (*self.any, *self.all, *self.none)

    @property
    def is_plain_keyword(self) -> bool:
        """Only keywords that may stand anywhere: all such rules of a label count as one hit together."""
        return not self.all and not self.none and all(p.kind == "partially" for p in self.any)


class RuleSet(Frozen):
    """Rules in order, and how text is compared. `case`: lower (text and keywords are lower-cased, regexes see
    lower-cased text), ignore (as Python's IGNORECASE), exact. `labels`: one (most hits; a tie: first in rule order) or
    all."""

    rules: tuple[Rule, ...]
    fields: tuple[str, ...] = ("content",)
    case: Case = "lower"
    width: bool = Field(default=False, description="whether full-width ASCII equals ASCII")
    labels: Literal["one", "all"] = "one"

    def fields_of(self, rule: Rule) -> tuple[str, ...]:
        return rule.fields or self.fields

    @property
    def labels_in_order(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rule.label for rule in self.rules))

    @property
    def used_fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(field for rule in self.rules for field in self.fields_of(rule)))


def check_rules(rules: RuleSet, places: Sequence[str], source: str) -> tuple[str, ...]:
    """Refuses a rule set with every fault and its place (`places`: one a rule); returns warnings, which do no harm."""
    if not rules.rules:
        raise BadInput(f"{source} holds no rules")
    if len(rules.rules) > MAX_RULES:
        raise BadInput(f"{source} holds {len(rules.rules):,} rules; at most {MAX_RULES:,} fit into one model")
    problems: list[Problem] = []
    warnings: list[str] = []
    for rule, place in zip(rules.rules, places, strict=True):
        problems += [Problem(place, reason) for reason in _faults_of_rule(rule)]
        for pattern in rule.patterns:
            faults, notes = _check_pattern(pattern, rules)
            problems += [Problem(place, fault) for fault in faults]
            warnings += [f"{place}: {note}" for note in notes]
    problems += _repeated(rules, places)
    if problems:
        raise BadInput(f"{source} was not saved; its rules need mending:", tuple(problems))
    return tuple(warnings)


def _faults_of_rule(rule: Rule) -> Iterable[str]:
    if fault := label_fault(rule.label):
        yield fault
    if not rule.any and not rule.all:
        yield "a rule needs a pattern in `any` or `all`; with `none` alone it would hit every other row"


def _check_pattern(pattern: Pattern, rules: RuleSet) -> tuple[list[str], list[str]]:
    """(faults, warnings) of one pattern."""
    if pattern.regex is not None:
        return _check_regex(pattern.regex, rules.case)
    keyword = pattern.keyword or ""
    if not keyword.strip():
        return ["the keyword is empty"], []
    if len(keyword) > MAX_KEYWORD_CHARACTERS:
        return [f"the keyword {keyword[:20]!r}... has more than {MAX_KEYWORD_CHARACTERS} characters"], []
    if "\n" in keyword or "\r" in keyword:
        return [f"the keyword {keyword[:40]!r} holds a line break: is a quote missing above?"], []
    return [], []


def _check_regex(source: str, case: Case) -> tuple[list[str], list[str]]:
    if not source:
        return ["the regex is empty"], []
    try:
        compiled = compile_pattern(source, ignore_case=case == "ignore")
    except BadInput as error:
        return [error.message], []
    notes = list(compiled.warnings)
    if case == "lower" and upper_case_literals(source):
        notes.append(f"the regex {source!r} asks for upper-case letters, but text is lower-cased: set case to ignore")
    return [], notes


def _repeated(rules: RuleSet, places: Sequence[str]) -> Iterable[Problem]:
    """The same pattern twice for one label and field: a slip of the hand that would count twice."""
    plain = [(rule, place) for rule, place in zip(rules.rules, places, strict=True) if not rule.all and not rule.none]
    listed = [(rule, place, pattern) for rule, place in plain for pattern in rule.any]
    folded = fold_all([pattern.text for _, _, pattern in listed], lower=rules.case != "exact", width=rules.width)
    seen: dict[tuple[Any, ...], str] = {}
    for (rule, place, pattern), text in zip(listed, folded, strict=True):
        key = (rule.label, pattern.kind, text if pattern.regex is None else pattern.regex, rules.fields_of(rule))
        if key in seen:
            reason = f"{pattern.text!r} ({pattern.kind}) stands for {rule.label} already at {seen[key]}"
            yield Problem(place, reason)
        seen.setdefault(key, place)
