"""Sources: tables and files that rows are read from, saved under names."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from audience.app.locations import Locations
from audience.app.references import NAME, check_name
from audience.app.requests import SourceRequest
from audience.errors import BadInput, NotFound
from audience.store.database import Record
from audience.store.idempotency import IdempotencyKey
from audience.store.records import Store
from audience.tables.base import Description, SourceSpec
from audience.tables.times import check_timezone


class Sources:
    """Resolves saved sources, and those that are given as a path or URL."""

    def __init__(self, store: Store, locations: Locations) -> None:
        self.store = store
        self.locations = locations

    def add(self, name: str, request: SourceRequest, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Saves a source after it was opened and described. Returns its name, time and description (null when the same
        request saved it before)."""
        if key and (made := self.store.answers.made(key)):
            return {**made, "description": None}
        check_name(name, "source")
        spec = self.spec(request)
        description = self.locations.source(spec).describe()
        made = self.store.sources.add(name, spec.model_dump(mode="json"), actor, key)
        return {**made, "description": asdict(description)}

    def all(self) -> list[Record]:
        return self.store.sources.all()

    def get(self, name: str) -> Record:
        return self.store.sources.get(name)

    def remove(self, name: str, actor: str) -> None:
        self.store.sources.remove(name, actor)

    def begin_test(self, request: SourceRequest, actor: str) -> str:
        """Begins to describe a source; returns the id of the operation, whose result is the description."""
        spec = self.spec(request)
        arguments = {"spec": spec.model_dump(mode="json")}
        return self.store.operations.add(
            "source_test", actor, subject=(spec.table or spec.url)[:200], arguments=arguments
        )

    @staticmethod
    def described(result: Record) -> Description:
        """Returns the description that such an operation found."""
        return Description(**{**result, "advice": tuple(result["advice"])})

    def spec(self, request: SourceRequest) -> SourceSpec:
        """Returns the source that a request means, with an absolute path, and without a password in its URL."""
        given = {key: value for key, value in request.options.items() if value not in (None, {}, ())}
        saved = self._saved(request)
        if saved is not None:
            roles = {**saved["spec"]["roles"], **given.get("roles", {})}
            return SourceSpec.model_validate({**saved["spec"], **given, "roles": roles})
        url = request.location or request.reference
        if url is None:
            url = self.locations.default_source()
        elif request.confined:
            url = self.locations.confined(url, "source")
        if request.confined:
            given["within"] = self.locations.roots
        check_timezone(given.get("timezone", "UTC"))
        return self.locations.sealed_source(_checked(url, given))

    def _saved(self, request: SourceRequest) -> Record | None:
        if request.saved is not None:
            return self.store.sources.get(request.saved)
        name = request.reference
        if name is None:
            return None
        found = next((record for record in self.store.sources.all() if record["name"] == name), None)
        if found is None and NAME.fullmatch(name) and not Path(name).exists() and "." not in name:
            raise NotFound(f"{name!r} is neither a saved source nor a file here; `audience source list` shows them")
        return found

    def task_name(self, request: SourceRequest, spec: SourceSpec) -> str:
        """Returns the name of a source in a run: as the user named it; a URL without its password."""
        named = request.saved or request.reference
        if named is not None and "://" not in named:
            return named
        if request.confined:
            return spec.table or spec.url
        return f"{spec.url} {spec.table}" if spec.table else spec.url


def _checked(url: str, given: dict[str, Any]) -> SourceSpec:
    if "header" in given:
        given = {**given, "header": tuple(given["header"])}
    unknown = set(given) - set(SourceSpec.model_fields)
    if unknown:
        raise BadInput(f"a source has no option {min(unknown)!r}; known: {', '.join(SourceSpec.model_fields)}")
    return SourceSpec(url=url, **given)
