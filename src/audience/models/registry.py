"""The kinds of models, and how each is built from the definition that is stored."""

from typing import Any, Protocol

from audience.errors import NotFound
from audience.models.base import Model


class Kind(Protocol):
    """What a kind of model can do with its stored definition."""

    def build(self, definition: dict[str, Any]) -> Model:
        """The model, compiled and ready for many threads."""

    def fields(self, definition: dict[str, Any]) -> tuple[str, ...]:
        """The fields it looks at, told without building it."""

    def labels(self, definition: dict[str, Any]) -> tuple[str, ...]:
        """The labels that it may give, told without building it."""


class Rules:
    """Keyword and regex rules; the definition is a `RuleSet`."""

    def build(self, definition: dict[str, Any]) -> Model:
        from audience.models.rules.definition import RuleSet
        from audience.models.rules.model import RuleModel

        return RuleModel(RuleSet.model_validate(definition))

    def fields(self, definition: dict[str, Any]) -> tuple[str, ...]:
        from audience.models.rules.definition import RuleSet

        return RuleSet.model_validate(definition).used_fields

    def labels(self, definition: dict[str, Any]) -> tuple[str, ...]:
        from audience.models.rules.definition import RuleSet

        return tuple(RuleSet.model_validate(definition).labels_in_order)


KINDS: dict[str, Kind] = {"rules": Rules()}


def kind_of(name: str) -> Kind:
    if name not in KINDS:
        raise NotFound(f"no model kind {name!r} is installed here; known: {', '.join(KINDS)}")
    return KINDS[name]
