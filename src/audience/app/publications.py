"""Publications: production of done runs, merged with what was published before."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from audience.app.locations import Locations
from audience.app.references import check_name
from audience.app.runs import Runs
from audience.errors import AudienceError, BadInput, Conflict, NotFound
from audience.jobs.publishing import Publishers
from audience.labeling import export as exports
from audience.labeling.panels import Panels, checked
from audience.labeling.plan import RunSpec
from audience.labeling.publish import Progress, PublicationSpec, by_index, check_indexes
from audience.store.database import Record
from audience.store.idempotency import Once
from audience.store.records import Store
from audience.tables.publications import Publisher


class Publications:
    def __init__(self, store: Store, locations: Locations, runs: Runs) -> None:
        self.store = store
        self.locations = locations
        self.runs = runs

    def add(self, name: str, spec: PublicationSpec, actor: str, once: Once | None = None) -> None:
        """Saves a publication after its target was looked into; nothing is published yet."""
        check_name(name, "publication")
        target, secret = self.locations.sealed_target(spec.target)
        spec = spec.model_copy(update={"target": target, "target_secret": secret or spec.target_secret})
        check_indexes(spec.indexes)
        self.locations.publisher({"id": "", "name": name}, spec).versions()
        self.store.publications.add(name, spec.model_dump(mode="json"), actor, once)

    def is_target(self, saved: str, reference: str) -> bool:
        """Whether a reference means this saved target."""
        return self.locations.sealed_target(reference)[0] == saved

    def all(self) -> list[Record]:
        return self.store.publications.all()

    def get(self, name: str) -> Record:
        """A publication with its versions, newest first, and where its indexes can be looked up. Where its target
        refuses, `error` says so, and what is under way can still be seen."""
        record = self.store.publications.get(name)
        try:
            publisher = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"]))
            return {**record, "where": {index: publisher.where(index) for index in publisher.versions().indexes}}
        except AudienceError as error:
            return {**record, "where": {}, "error": record["error"] or str(error)}

    def begin(
        self,
        name: str,
        runs: Sequence[str],
        actor: str,
        *,
        indexes: dict[str, tuple[str, ...]] | None = None,
        conflicts: dict[str, tuple[str, ...]] | None = None,
        replace: bool = False,
        preview: bool = False,
        base: int | None = None,
    ) -> Record:
        """Begins to merge the production of done runs with what is published, and to swap it in unless it is a
        `preview`; what `carry_out` is to do. `base`: the version that must be published now."""
        spec = PublicationSpec.model_validate(self.store.publications.get(name)["spec"])
        run_ids = list(dict.fromkeys(self.runs.find(run) for run in runs))
        indexes = spec.indexes if indexes is None else indexes
        check_indexes(indexes)
        publishers = self._publishers()
        by_index(publishers.parts(run_ids), indexes)
        conflicts = conflicts or spec.conflicts or self._conflicts_of(run_ids)
        checked(Panels(conflicts=conflicts), "conflict groups")
        asked: Record = {"action": "preview" if preview else "publish", "runs": run_ids, "replace": replace}
        asked |= {"indexes": indexes, "conflicts": conflicts}
        return self.store.publications.begin(name, asked, actor, base)

    def resume(self, name: str, actor: str) -> Record:
        """Begins to go on with what is under way, in the place of whoever began it."""
        return self.store.publications.take_over(name, actor)

    def carry_out(self, begun: Record, progress: Progress | None = None) -> list[Record]:
        """Does what was begun; the changes by index and panel."""
        return self._publishers().carry_out(begun, progress)

    def _conflicts_of(self, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Those that all the runs have."""
        found = [RunSpec.model_validate(self.store.runs.show(run)["spec"]).panels for run in run_ids]
        if not found:
            raise BadInput("nothing to publish: name at least one run")
        if any(panels.conflict_of != found[0].conflict_of for panels in found):
            raise BadInput("the runs were made with different conflict groups: say which the publication goes by")
        return found[0].conflicts

    def roll_back(self, name: str, actor: str) -> None:
        """Brings the former version back; doing so again undoes it."""
        record = self.store.publications.get(name)
        versions = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"])).versions()
        if not versions.previous:
            raise Conflict(f"{name!r} has no former version to bring back", record["state"])
        asked = {"action": "roll_back", "version": versions.previous}
        self._publishers().carry_out(self.store.publications.begin(name, asked, actor))

    def delete(self, name: str, actor: str, *, forget: bool = False) -> None:
        """Drops its tables; `forget`: also when its target cannot be reached, where they then stay."""
        asked = {"action": "delete", "forget": forget}
        self._publishers().carry_out(self.store.publications.begin(name, asked, actor))

    def exported(self, name: str, index: str | None = None) -> exports.Rows:
        """All rows that are published, or those of one index, as they are read."""
        record = self.store.publications.get(name)
        publisher = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"]))
        indexes = publisher.versions().indexes
        if index is not None and index not in indexes:
            raise NotFound(f"{name!r} has no index {index!r}; it has: {', '.join(indexes) or 'none yet'}")
        return exports.Rows(_published(publisher, [index] if index else indexes), exports.PUBLISHED_SCHEMA)

    def _publishers(self) -> Publishers:
        return Publishers(self.store, self.locations.target, self.locations.publisher)


def _published(publisher: Publisher, indexes: Iterable[str]) -> Iterator[pa.RecordBatch]:
    for index in indexes:
        for batch in publisher.published(index):
            yield batch.append_column("index", pa.array([index] * len(batch), pa.large_string()))
