"""Publications: production of done runs, merged with what was published before."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from audience.app.locations import Locations
from audience.app.mappings import Mappings
from audience.app.references import check_name
from audience.app.requests import PublicationRequest, PublishRequest
from audience.app.runs import Runs
from audience.errors import AudienceError, BadInput, Conflict, NotFound
from audience.jobs.publishing import PublishingJobs
from audience.labeling import export as exports
from audience.labeling.panels import Panels, checked
from audience.labeling.plan import RunSpec
from audience.labeling.publish import PublicationSpec, by_index, check_indexes
from audience.store.database import Record
from audience.store.idempotency import IdempotencyKey
from audience.store.records import Store
from audience.tables.publications import Publisher


class Publications:
    """Begins operations on publications, which workers carry out."""

    def __init__(
        self, store: Store, locations: Locations, mappings: Mappings, runs: Runs, jobs: PublishingJobs
    ) -> None:
        self.store = store
        self.locations = locations
        self.mappings = mappings
        self.runs = runs
        self.jobs = jobs

    def add(self, request: PublicationRequest, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Saves a publication after its target was opened; returns its name and time. Nothing is published yet."""
        if key and (made := self.store.answers.made(key)):
            return made
        check_name(request.name, "publication")
        target = request.target
        if target is None:
            target = self.locations.default_publication_target()
        elif request.confined:
            target = self.locations.confined(target, "target")
        target, secret = self.locations.sealed_target(target)
        spec = PublicationSpec(
            target=target,
            target_secret=secret,
            target_within=self.locations.roots if request.confined else (),
            indexes=request.indexes,
            conflicts=self._conflicts(request.conflict_groups),
        )
        check_indexes(spec.indexes)
        self.locations.publisher({"id": "", "name": request.name}, spec).versions()
        return self.store.publications.add(request.name, spec.model_dump(mode="json"), actor, key)

    def _conflicts(self, given: str | dict[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]] | None:
        """Returns saved conflict groups by their name, or the given ones once they are checked."""
        if isinstance(given, str):
            return self.mappings.conflict_groups(given).conflicts
        return checked(Panels(conflicts=given), "conflict_groups").conflicts if given else given

    def is_target(self, saved: str, reference: str) -> bool:
        """Returns whether a reference means this saved target."""
        return self.locations.sealed_target(reference)[0] == saved

    def all(self) -> list[Record]:
        return self.store.publications.all()

    def get(self, name: str) -> Record:
        """Returns a publication with its versions, newest first, and where its indexes can be looked up. Where its
        target cannot be read, `error` says why, and the attempt under way is shown all the same."""
        record = self.store.publications.get(name)
        try:
            publisher = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"]))
            return {**record, "where": {index: publisher.where(index) for index in publisher.versions().indexes}}
        except AudienceError as error:
            return {**record, "where": {}, "error": record["error"] or str(error)}

    def publish(self, name: str, request: PublishRequest, actor: str) -> str:
        """Begins to merge the production of done runs with what is published, and to swap it in unless it is a preview.
        Returns the id of the operation, whose result holds the changes by index and panel."""
        spec = PublicationSpec.model_validate(self.store.publications.get(name)["spec"])
        run_ids = list(dict.fromkeys(self.runs.find(run) for run in request.runs))
        indexes = spec.indexes if request.indexes is None else request.indexes
        check_indexes(indexes)
        by_index(self.jobs.parts(run_ids), indexes)
        conflicts = self._conflicts(request.conflict_groups) or spec.conflicts or self._conflicts_of(run_ids)
        details: Record = {"runs": run_ids, "replace": request.replace, "indexes": indexes, "conflicts": conflicts}
        action = "preview_publication" if request.preview else "publish"
        return self.store.publications.begin(name, action, details, actor, request.base)

    def _conflicts_of(self, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Returns the conflict groups of these runs, which must agree."""
        found = [RunSpec.model_validate(self.store.runs.show(run)["spec"]).panels for run in run_ids]
        if not found:
            raise BadInput("nothing to publish: name at least one run")
        if any(panels.conflict_of != found[0].conflict_of for panels in found):
            raise BadInput("the runs were made with different conflict groups: say which the publication goes by")
        return found[0].conflicts

    def roll_back(self, name: str, actor: str) -> str:
        """Begins to bring the previous version back; a second rollback undoes the first. Returns the id of the
        operation."""
        record = self.store.publications.get(name)
        versions = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"])).versions()
        if not versions.previous:
            raise Conflict(f"{name!r} has no previous version to bring back", "idle")
        return self.store.publications.begin(name, "roll_back", {"version": versions.previous}, actor)

    def delete(self, name: str, actor: str, *, forget: bool = False) -> str:
        """Begins to drop its tables; returns the id of the operation. `forget`: also when its target cannot be reached,
        where they then stay."""
        return self.store.publications.begin(name, "delete_publication", {"forget": forget}, actor)

    def exported(self, name: str, index: str | None = None) -> exports.Rows:
        """Returns all rows that are published, or those of one index, as a stream."""
        record = self.store.publications.get(name)
        publisher = self.locations.publisher(record, PublicationSpec.model_validate(record["spec"]))
        indexes = publisher.versions().indexes
        if index is not None and index not in indexes:
            raise NotFound(f"{name!r} has no index {index!r}; it has: {', '.join(indexes) or 'none yet'}")
        return exports.Rows(_published(publisher, [index] if index else indexes), exports.PUBLISHED_SCHEMA)


def _published(publisher: Publisher, indexes: Iterable[str]) -> Iterator[pa.RecordBatch]:
    for index in indexes:
        for batch in publisher.published(index):
            yield batch.append_column("index", pa.array([index] * len(batch), pa.large_string()))
