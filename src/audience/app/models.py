"""Models under names and versions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audience.app.references import check_name
from audience.labeling.labeler import NamedModel
from audience.models.registry import kind_of
from audience.models.rules.definition import RuleSet
from audience.models.rules.files import load_rules
from audience.models.rules.model import explain
from audience.store.database import Record, digest_of
from audience.store.idempotency import IdempotencyKey
from audience.store.records import Store


class Models:
    """A reference is `name@version`, or `name` for the newest version."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, name: str, path: Path, actor: str, **options: Any) -> tuple[str, tuple[str, ...]]:
        """(`name@version`, warnings) of a rule set from a file."""
        rules, warnings = load_rules(path, **options)
        return self.save(name, rules, actor, warnings), warnings

    def save(
        self, name: str, rules: RuleSet, actor: str, warnings: Iterable[str] = (), key: IdempotencyKey | None = None
    ) -> str:
        """`name@version`; the same rules again are the same version."""
        check_name(name, "model")
        definition = rules.model_dump(mode="json", exclude_defaults=True)
        return self.store.models.add(name, "rules", digest_of(definition), definition, list(warnings), actor, key)

    def all(self) -> list[Record]:
        """Every version; `definition` is null of large ones."""
        return self.store.models.all()

    def get(self, reference: str) -> Record:
        return self.store.models.get(reference)

    def try_out(self, reference: str, texts: dict[str, str | None]) -> tuple[list[Record], list[Record]]:
        """(labels given, every hit) for one row; `texts` by field, or under "" for all fields at once."""
        rules = RuleSet.model_validate(self.store.models.get(reference)["definition"])
        row = {field: texts.get(field, texts.get("")) for field in rules.used_fields}
        return explain(rules, row)

    def fields(self, reference: str) -> tuple[str, ...]:
        record = self.store.models.get(reference)
        return kind_of(record["kind"]).fields(record["definition"])

    def labels(self, reference: str) -> tuple[str, ...]:
        record = self.store.models.get(reference)
        return kind_of(record["kind"]).labels(record["definition"])

    def load(self, reference: str) -> NamedModel:
        record = self.store.models.get(reference)
        return NamedModel(f"{record['name']}@{record['version']}", kind_of(record["kind"]).build(record["definition"]))
