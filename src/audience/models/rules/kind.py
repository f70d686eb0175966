"""Keyword and regex rules as a kind of model: the parameters are the rule set, and nothing is learned."""

from collections.abc import Mapping, Sequence
from typing import Any

from audience.models.base import (
    Contents,
    Explanation,
    Model,
    ModelDescription,
    ModelKind,
    ModelRecord,
    OpenBlob,
    explain_with,
)
from audience.models.rules.definition import Pattern, RuleSet, check_rules


class Rules(ModelKind):
    """Rules that a person wrote."""

    name = "rules"
    protocol = 1
    parameters = RuleSet

    def describe(self, parameters: RuleSet) -> ModelDescription:
        places = [f"rule {n}" for n in range(1, len(parameters.rules) + 1)]
        return described(parameters, check_rules(parameters, places, "the rule set"))

    def load(self, record: ModelRecord, open_blob: OpenBlob) -> Model:
        from audience.models.rules.model import RuleModel

        return RuleModel(RuleSet.model_validate(record.parameters(open_blob)))

    def explain(self, record: ModelRecord, open_blob: OpenBlob, row: Mapping[str, str | None]) -> Explanation:
        """Compiles only the rules that the row may hit: to compile 100,000 takes seconds."""
        from audience.models.rules.candidates import candidates
        from audience.models.rules.model import RuleModel

        found = candidates(record.parameters(open_blob), row)
        if not found.rules.rules:
            return Explanation()
        explained = explain_with(RuleModel(found.rules, found.labels, record.inputs), row)
        hits = tuple({**hit, "rule": found.numbers[hit["rule"] - 1]} for hit in explained.hits)
        return Explanation(labels=explained.labels, hits=hits)

    def contents(self, record: ModelRecord, open_blob: OpenBlob, limit: int) -> Contents:
        definition = record.parameters(open_blob)
        rules = RuleSet.model_validate({**definition, "rules": definition["rules"][:limit]}).rules
        rows = [(n, rule.label, *map(_shown, (rule.any, rule.all, rule.none))) for n, rule in enumerate(rules, 1)]
        return Contents(("#", "label", "any", "all", "none"), tuple(rows))


def described(rules: RuleSet, warnings: Sequence[str]) -> ModelDescription:
    """Of a rule set that was checked, with what the check found."""
    summary: dict[str, Any] = {"n_rules": len(rules.rules)}
    summary |= rules.model_dump(mode="json", exclude_defaults=True, exclude={"rules"})
    return ModelDescription(rules.used_fields, rules.labels_in_order, summary, tuple(warnings))


def _shown(patterns: Sequence[Pattern]) -> str:
    return ", ".join(map(_pattern, patterns))


def _pattern(pattern: Pattern) -> str:
    if pattern.regex is not None:
        return f"/{pattern.regex}/"
    return pattern.text if pattern.match == "partially" else f"{pattern.text} ({pattern.match})"
