"""Models under names and versions."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from audience.app.references import check_name
from audience.app.requests import ModelRequest
from audience.errors import BadInput, NotFound
from audience.labeling.labeler import NamedModel
from audience.models.base import Contents, Explanation, ModelDescription, ModelRecord
from audience.models.registry import checked_parameters, kind_for, kind_of, named_errors
from audience.models.rules.definition import RuleSet
from audience.models.rules.files import load_rules, parse_document, parse_rules
from audience.models.rules.kind import Rules, described
from audience.store.database import Record, digest_of
from audience.store.idempotency import IdempotencyKey
from audience.store.models import NewVersion
from audience.store.records import Store
from audience.store.references import ModelReference

RULES = Rules.name


@dataclass(frozen=True)
class Draft:
    """A model that was checked, and is not saved yet."""

    kind: str
    parameters: BaseModel
    description: ModelDescription


class Models:
    """Checks, saves, reads and tries models. A reference is `name@version`, `name@alias`, or `name` for the newest
    version."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # saving

    def add(
        self, name: str, path: Path, actor: str, kind: str = RULES, notes: str = "", **options: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Saves a rules file, or with `kind` a JSON file of parameters. Returns (`name@version`, warnings)."""
        if kind == RULES:
            draft = _draft_of_rules(*load_rules(path, **options))
        elif given := [key for key, value in options.items() if value is not None]:
            raise BadInput(f"{', '.join(given)}: of rule sets only")
        else:
            draft = self.draft(kind, _json(path))
        return self.save_draft(name, draft, actor, notes=notes), draft.description.warnings

    def save(self, name: str, rules: RuleSet, actor: str, warnings: Sequence[str] = ()) -> str:
        """Saves a checked rule set with the warnings of the check; returns `name@version`."""
        return self.save_draft(name, _draft_of_rules(rules, warnings), actor)

    def create(self, request: ModelRequest, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Checks a model and saves it; returns `model` (`name@version`) and `warnings`. Raises BadInput with every
        fault."""
        draft = self._draft(request)
        reference = self.save_draft(request.name, draft, actor, key, request.notes)
        return {"model": reference, "warnings": list(draft.description.warnings)}

    def begin_create(self, request: ModelRequest, actor: str, key: IdempotencyKey | None = None) -> str:
        """Begins to check and save a model; returns the id of the operation, whose result is that of `create`."""
        check_name(request.name, "model")
        blob = self.store.blobs.put(request.model_dump_json().encode())
        arguments = {"request": blob, "actor": actor, "key": asdict(key) if key else None}
        return self.store.operations.add("model", actor, subject=request.name, arguments=arguments)

    def create_begun(self, arguments: Record) -> Record:
        """Does what `begin_create` has begun."""
        request = ModelRequest.model_validate_json(self.store.blobs.get(arguments["request"]))
        key = IdempotencyKey(**arguments["key"]) if arguments["key"] else None
        return self.create(request, arguments["actor"], key)

    def _draft(self, request: ModelRequest) -> Draft:
        given = [name for name in ("rules", "csv", "parameters") if getattr(request, name) is not None]
        if len(given) != 1:
            raise BadInput("a model is made of `rules`, of `csv`, or of the `parameters` of a `kind`: give one of them")
        if request.parameters is None:
            if request.kind != RULES:
                raise BadInput(f"a model of kind {request.kind!r} is made of `parameters`")
            return self.draft_rules(request.csv if request.rules is None else request.rules, **request.options)
        if request.options:
            raise BadInput(f"{', '.join(request.options)}: beside `rules` and `csv` only; write it into `parameters`")
        return self.draft(request.kind, request.parameters)

    def draft_rules(self, given: Any, **options: Any) -> Draft:
        """Checks rules in any form of a JSON rules file, a list of rules, or the text of a CSV file. Raises BadInput
        with every fault."""
        if isinstance(given, str):
            return _draft_of_rules(*parse_rules(given.encode(), "rules.csv", **options))
        return _draft_of_rules(*parse_document(given, **options))

    def draft(self, kind: str, given: Any) -> Draft:
        """Checks the parameters of a kind whose models need no training. Raises BadInput with every fault."""
        with named_errors(kind):
            parameters = checked_parameters(kind, given)
            if kind_of(kind).trainer(parameters) is not None:
                raise BadInput(f"a model of kind {kind!r} has to be trained: its parameters alone give no label")
            return Draft(kind, parameters, kind_of(kind).describe(parameters))

    def save_draft(
        self, name: str, draft: Draft, actor: str, key: IdempotencyKey | None = None, notes: str = ""
    ) -> str:
        """Saves a checked model and returns `name@version`; the same parameters again are the same version."""
        check_name(name, "model")
        if not draft.description.inputs:
            raise BadInput("the model looks at no field: it needs one at least")
        definition = draft.parameters.model_dump(mode="json", exclude_defaults=True)
        new = NewVersion(
            kind=draft.kind,
            digest=digest_of(definition),
            definition=definition,
            warnings=draft.description.warnings,
            inputs=draft.description.inputs,
            labels=draft.description.labels,
            summary=draft.description.summary,
            protocol=kind_of(draft.kind).protocol,
            notes=notes,
        )
        return self.store.models.add(name, new, actor, key)

    # reading

    def page(
        self, limit: int | None = None, beginning: str | None = None, after: tuple[str, int] | None = None
    ) -> list[Record]:
        """Returns versions by name and number, without definitions: of names that begin so, after (name, version)."""
        return self.store.models.page(limit, beginning, after)

    def all(self) -> list[Record]:
        """Returns every version; `definition` is null of large ones."""
        return self.store.models.all()

    def get(self, reference: str) -> Record:
        """Returns a version with its definition, and the aliases that lead to it."""
        record = self.store.models.get(reference)
        aliases = [a["alias"] for a in self.aliases(record["name"]) if a["version"] == record["version"]]
        return {**self._told(record), "aliases": aliases}

    def named(self, reference: str) -> str:
        """Returns the `name@version` that a reference leads to now."""
        record = self.store.models.find(reference)
        return f"{record['name']}@{record['version']}"

    def kind(self, reference: str) -> str:
        return str(self.store.models.find(reference)["kind"])

    def fields(self, reference: str) -> tuple[str, ...]:
        return tuple(self._told(self.store.models.find(reference))["inputs"])

    def labels(self, reference: str) -> tuple[str, ...]:
        return tuple(self._told(self.store.models.find(reference))["labels"])

    def _told(self, record: Record) -> Record:
        """Returns a version with inputs, labels and summary, which a large one from before revision 0006 lacks."""
        if record["inputs"] is not None:
            return record
        kind = kind_of(record["kind"])
        description = kind.describe(kind.parameters.model_validate(self.store.models.whole(record)["definition"]))
        told = {"inputs": description.inputs, "labels": description.labels, "summary": description.summary}
        return {**record, **told}

    # using

    def try_out(self, reference: str, texts: Mapping[str, str | None]) -> Explanation:
        """Returns what a model makes of one row, and why; `texts` by field, or under "" for all fields at once."""
        record = self._record(reference)
        row = {field: texts.get(field, texts.get("")) for field in record.inputs}
        with named_errors(record.kind):
            return kind_for(record).explain(record, self.store.blobs.get, row)

    def contents(self, reference: str, limit: int) -> Contents:
        """Returns the first parts of a model: rules, terms, members."""
        record = self._record(reference)
        with named_errors(record.kind):
            return kind_for(record).contents(record, self.store.blobs.get, limit)

    def load(self, reference: str) -> NamedModel:
        """Loads a model for labeling, under the name that results carry."""
        record = self._record(reference)
        with named_errors(record.kind):
            model = kind_for(record).load(record, self.store.blobs.get)
        return NamedModel(record.reference, model, *record.labels[:1])

    def _record(self, reference: str) -> ModelRecord:
        found = self._told(self.store.models.find(reference))
        return ModelRecord(
            name=found["name"],
            version=found["version"],
            kind=found["kind"],
            protocol=found["protocol"],
            definition=found["definition"],
            inputs=tuple(found["inputs"]),
            labels=tuple(found["labels"]),
            summary=found["summary"],
            artifacts=found["artifacts"],
            lineage=found["lineage"],
            notes=found["notes"] or "",
        )

    # names

    def aliases(self, name: str, at: dt.datetime | None = None) -> list[Record]:
        """Returns the aliases of a model and their versions, now or at a moment of the past."""
        self.store.models.find(name)
        return self.store.models.aliases.of(name, at)

    def alias_history(self, name: str, alias: str | None = None) -> list[Record]:
        """Returns every change of an alias, oldest first; null `version`: it was removed."""
        self.store.models.find(name)
        found = self.store.models.aliases.history(name, alias)
        if alias is not None and not found:
            raise NotFound(f"the model {name!r} has no alias {alias!r}")
        return found

    def set_alias(self, name: str, alias: str, version: int, actor: str) -> None:
        """Lets an alias lead to a version from now on; runs that were made before keep theirs."""
        self.store.models.aliases.set(name, alias, version, actor)

    def remove_alias(self, name: str, alias: str, actor: str) -> None:
        """Lets an alias lead nowhere from now on; its history stays."""
        self.store.models.aliases.remove(name, alias, actor)

    def rename(self, name: str, new: str, actor: str) -> None:
        """Renames all versions with their aliases; refused when runs used one."""
        check_name(new, "model")
        self.store.models.rename(name, new, actor)

    def delete(self, reference: str, actor: str) -> None:
        """Deletes a version, or by `name` all of them; refused when runs used one."""
        self.store.models.delete(ModelReference.parse(reference), actor)


def _draft_of_rules(rules: RuleSet, warnings: Sequence[str]) -> Draft:
    return Draft(RULES, rules, described(rules, warnings))


def _json(path: Path) -> Any:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadInput(f"{path.name} is not JSON in UTF-8: {error}") from None
