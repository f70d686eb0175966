"""The rules that one row may hit, found without compiling the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from audience.models.rules.definition import RuleSet
from audience.text.folding import fold_all

BEGINNING = 3
"""Characters of a keyword that are looked up first: so few keywords begin as some place of a text does that the whole
text is searched for hardly any."""


@dataclass(frozen=True)
class Candidates:
    """Some rules of a set in their order. `numbers`: what each is in the whole set, from 1. `labels`: all labels of
    the whole set, in its order, which decides between equals."""

    rules: RuleSet
    numbers: tuple[int, ...]
    labels: tuple[str, ...]


def candidates(definition: Mapping[str, Any], row: Mapping[str, str | None]) -> Candidates:
    """Those with a keyword that stands in any text of the row, or with a regex: all that can hold, and maybe more.
    `definition`: a rule set as it is stored, of which only these are validated."""
    rules = definition["rules"]
    settings = RuleSet.model_validate({**definition, "rules": ()})
    folding = {"lower": settings.case != "exact", "width": settings.width}
    texts = fold_all([text for text in row.values() if text], **folding)
    patterns = [
        (n, pattern.get("keyword"))
        for n, rule in enumerate(rules)
        for clause in ("any", "all", "none")
        if clause in rule
        for pattern in rule[clause]
    ]
    keywords = [(n, keyword) for n, keyword in patterns if keyword is not None]
    held = _held(fold_all([keyword for _, keyword in keywords], **folding), texts)
    kept = {n for (n, _), is_held in zip(keywords, held, strict=True) if is_held}
    kept |= {n for n, keyword in patterns if keyword is None}
    numbers = sorted(kept)
    return Candidates(
        RuleSet.model_validate({**definition, "rules": [rules[n] for n in numbers]}),
        tuple(n + 1 for n in numbers),
        tuple(dict.fromkeys(rule["label"] for rule in rules)),
    )


def _held(keywords: Iterable[str], texts: Iterable[str]) -> Iterable[bool]:
    """Of each keyword, whether any text holds it."""
    texts = list(texts)
    beginnings = {
        text[start : start + length]
        for text in texts
        for length in range(1, BEGINNING + 1)
        for start in range(len(text))
    }
    for keyword in keywords:
        yield keyword[:BEGINNING] in beginnings and any(keyword in text for text in texts)
