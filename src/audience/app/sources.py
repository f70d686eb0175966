"""Sources: tables and files that rows are read from, saved under names."""

from pathlib import Path
from typing import Any

from audience.app.locations import Locations
from audience.app.references import NAME, check_name
from audience.errors import NotFound
from audience.store.database import Record
from audience.store.idempotency import Once
from audience.store.records import Store
from audience.tables.base import Description, SourceSpec
from audience.tables.times import check_timezone


class Sources:
    """Saved sources, and those that are named by a path or URL."""

    def __init__(self, store: Store, locations: Locations) -> None:
        self.store = store
        self.locations = locations

    def add(self, name: str, spec: SourceSpec, actor: str, once: Once | None = None) -> Description:
        """Saves a source after it was opened and described."""
        check_name(name, "source")
        spec = self.locations.sealed_source(spec)
        description = self.locations.source(spec).describe()
        self.store.sources.add(name, spec.model_dump(mode="json"), actor, once)
        return description

    def all(self) -> list[Record]:
        return self.store.sources.all()

    def remove(self, name: str, actor: str) -> None:
        self.store.sources.remove(name, actor)

    def spec(self, reference: str | None, **given: Any) -> SourceSpec:
        """Of a saved source by its name, or of a path or URL; None: of the server that the settings name. `given` adds
        to it or replaces."""
        if reference is None:
            return self.new(self.locations.default_source(), **given)
        given = {key: value for key, value in given.items() if value not in (None, {}, ())}
        saved = [record for record in self.store.sources.all() if record["name"] == reference]
        if saved:
            roles = {**saved[0]["spec"]["roles"], **given.get("roles", {})}
            return SourceSpec.model_validate({**saved[0]["spec"], **given, "roles": roles})
        if NAME.fullmatch(reference) and not Path(reference).exists() and "." not in reference:
            raise NotFound(
                f"{reference!r} is neither a saved source nor a file here; `audience source list` shows them"
            )
        return self.new(reference, **given)

    def new(self, url: str, **given: Any) -> SourceSpec:
        """A source as it may be saved: an absolute path, no password in the URL."""
        check_timezone(given.get("timezone", "UTC"))
        return self.locations.sealed_source(SourceSpec(url=url, **given))
