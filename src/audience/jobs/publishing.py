"""Carries out what is asked of publications.

An attempt may die anywhere: the next one, with a higher fence, does all of it again or finds it done. Our own records
follow what the target says."""

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from audience.errors import AudienceError, Conflict, NotFound
from audience.labeling.panels import Panels
from audience.labeling.plan import RunSpec
from audience.labeling.publish import Part, Progress, PublicationSpec, by_index, merged
from audience.store.database import Record
from audience.store.records import Store
from audience.tables.base import Target
from audience.tables.publications import Publisher, Publishing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publishers:
    """With what the app hands it: the store, and how to open targets and publications."""

    store: Store
    target_of: Callable[[RunSpec], Target]
    open: Callable[[Record, PublicationSpec], Publisher]

    def carry_out(self, record: Record, progress: Progress | None = None) -> list[Record]:
        """Does what `record`, of `begin` or `take_over`, is asked; the changes. What fails is written down, and nothing
        of it stays."""
        action: Callable[[Record, Progress | None], list[Record]] = getattr(self, record["asked"]["action"])
        try:
            return action(record, progress)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            self._give_up(record, "stopped by hand" if stopped else str(error) or type(error).__name__)
            raise

    def _give_up(self, record: Record, reason: str) -> None:
        """Back to idle, unless it is done but for our own records, or may be: then it is gone on with later."""
        merged_already = "changes" in record["asked"]
        try:
            publisher = self._publisher(record)
            if publisher.versions().version == record["asked"]["version"]:
                return
            publisher.discard(record["fence"])
        except AudienceError:
            if merged_already:
                return
        with suppress(AudienceError):
            self.store.publications.ended(record, reason)
        log.warning("action=publication_failed name=%s asked=%s", record["name"], record["asked"]["action"])

    def _publisher(self, record: Record) -> Publisher:
        return self.open(record, PublicationSpec.model_validate(record["spec"]))

    def parts(self, run_ids: Sequence[str]) -> list[Part]:
        """The production of these runs, which must be done; the run that was made last stands above the others."""
        runs = [self.store.runs.show(run_id) for run_id in dict.fromkeys(run_ids)]
        runs.sort(key=lambda run: run["created_at"])
        return [part for number, run in enumerate(runs, 1) for part in self._parts(number, run)]

    def _parts(self, number: int, run: Record) -> Iterator[Part]:
        name = run["id"][:12]
        if run["state"] != "done":
            raise Conflict(f"the run {name} is {run['state']}; a run can be published when it is done", run["state"])
        target = self.target_of(RunSpec.model_validate(run["spec"]))
        if not target.exists():
            raise NotFound(f"the results of run {name} are gone: there is no {run['spec']['target']}")
        for task in run["tasks"]:
            for group, numbers in task["report"]["groups"].items():
                if "production" not in numbers:
                    raise Conflict(
                        f"the run {name} has no production tables: make them with audience production {name}"
                    )
                by_author = bool(task["by_author"])
                yield Part(number, run["id"], task["id"], group, target, by_author, numbers["production"])

    # what may be asked

    def publish(self, record: Record, progress: Progress | None) -> list[Record]:
        """The next version is made aside and swapped in."""
        asked, publisher = record["asked"], self._publisher(record)
        publishing = _attempt(record)
        changes = self._merged(publisher, record, publishing, progress)
        record["asked"]["changes"] = changes
        self.store.publications.note_changes(record)  # before the swap: after it nobody could count them any more
        publisher.swap(publishing)
        spec = {**record["spec"], "indexes": asked["indexes"], "conflicts": asked["conflicts"]}
        self.store.publications.published(record, spec, publisher.versions().previous, changes)
        log.info("action=published name=%s version=%s", record["name"], publishing.version)
        return changes

    def preview(self, record: Record, progress: Progress | None) -> list[Record]:
        """The same without the swap."""
        publisher = self._publisher(record)
        changes = self._merged(publisher, record, _attempt(record), progress)
        publisher.discard(record["fence"])
        self.store.publications.previewed(record, changes)
        return changes

    def roll_back(self, record: Record, progress: Progress | None) -> list[Record]:
        """The former version changes places with the present one."""
        publisher = self._publisher(record)
        publisher.roll_back(record["fence"], record["asked"]["version"])
        versions = publisher.versions()
        self.store.publications.turned_to(record, versions.version, versions.previous)
        return []

    def delete(self, record: Record, progress: Progress | None) -> list[Record]:
        """Every table of it, then its record; only the record if it is to be forgotten."""
        try:
            self._publisher(record).remove(record["fence"])
        except AudienceError:
            if not record["asked"]["forget"]:
                raise
        self.store.publications.remove(record)
        return []

    def _merged(
        self, publisher: Publisher, record: Record, publishing: Publishing, progress: Progress | None
    ) -> list[Record]:
        """The changes, as a version aside; those of the attempt that is published already."""
        asked = record["asked"]
        known = publisher.versions()
        if known.version == publishing.version:
            publisher.begin(publishing, ())
            return list(asked["changes"])
        parts = by_index(self.parts(asked["runs"]), asked["indexes"], known.indexes)
        publisher.begin(publishing, list(parts))
        return [asdict(change) for change in merged(publisher, publishing, parts, progress)]


def _attempt(record: Record) -> Publishing:
    asked = record["asked"]
    at = dt.datetime.fromisoformat(asked["at"]).astimezone(dt.UTC).replace(tzinfo=None)
    conflicts = Panels(conflicts=asked["conflicts"]).conflict_of
    return Publishing(record["fence"], asked["version"], at, conflicts, asked["replace"])
