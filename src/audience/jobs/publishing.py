"""The jobs of publications: publish, preview, roll back, delete; and discard, for what was cancelled.

A job may die anywhere: the next attempt, with a higher fence, does all of it again or finds it done. Our own records
follow what the target says."""

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from audience.errors import AudienceError, Conflict, NotFound, Transient
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.labeling.panels import Panels
from audience.labeling.plan import RunSpec
from audience.labeling.publish import Part, PublicationSpec, by_index, merged
from audience.store import operations, publications
from audience.store.database import Record
from audience.store.records import Store
from audience.tables.base import Target
from audience.tables.publications import Publisher, Publishing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishingJobs:
    """Carries out the jobs of publications with what the app hands it: the store, and how to open targets and
    publications."""

    store: Store
    target_of: Callable[[RunSpec], Target]
    open: Callable[[Record, PublicationSpec], Publisher]

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of a publication, by name."""
        return {
            "publish": JobKind(self.publish, _published, _failed),
            "preview_publication": JobKind(self.preview, _previewed, _failed),
            "roll_back": JobKind(self.roll_back, _rolled_back, _failed),
            "delete_publication": JobKind(self.delete, _deleted, _failed),
            "discard_publication": JobKind(self.discard, _discarded, _failed, never_give_up=True),
        }

    def publish(self, job: Record, control: JobControl) -> Outcome:
        """Makes the next version aside and swaps it in."""
        record = self.store.publications.attempt(job["operation_id"])
        publisher, publishing = self._publisher(record), _attempt(record)
        with self._discarding(publisher, record):
            changes = self._merged(publisher, record, publishing, control)
            self.store.publications.note_changes(record, changes)  # after the swap nobody could count them any more
            control.check()
            publisher.swap(publishing)
        return Outcome(changes, details=(record, publisher.versions().previous))

    def preview(self, job: Record, control: JobControl) -> Outcome:
        """Makes the next version aside, and returns its changes without the swap."""
        record = self.store.publications.attempt(job["operation_id"])
        publisher = self._publisher(record)
        with self._discarding(publisher, record):
            changes = self._merged(publisher, record, _attempt(record), control)
            publisher.discard(record["fence"])
        return Outcome(changes, details=record)

    def roll_back(self, job: Record, control: JobControl) -> Outcome:
        """Exchanges the previous version with the present one."""
        record = self.store.publications.attempt(job["operation_id"])
        publisher = self._publisher(record)
        publisher.roll_back(record["fence"], record["doing"]["version"])
        return Outcome([], details=(record, publisher.versions()))

    def delete(self, job: Record, control: JobControl) -> Outcome:
        """Drops every table of a publication. With `forget`, tables that cannot be dropped stay."""
        record = self.store.publications.attempt(job["operation_id"])
        try:
            self._publisher(record).remove(record["fence"])
        except AudienceError:
            if not record["doing"]["request"]["forget"]:
                raise
        return Outcome([], details=record)

    def discard(self, job: Record, control: JobControl) -> Outcome:
        """Removes from the target what a cancelled attempt has left. A version that it had swapped in just then counts
        as published."""
        record = self.store.publications.attempt(job["operation_id"])
        publisher = self._publisher(record)
        versions = publisher.versions()
        if record["doing"]["action"] in ("publish", "roll_back") and versions.version == record["doing"]["version"]:
            return Outcome(record["doing"]["changes"] or [], details=(record, versions))
        try:
            publisher.discard(record["fence"])
        except Transient:
            raise
        except AudienceError as error:
            log.warning("action=discarded_nothing name=%s reason=%s", record["name"], error)
        return Outcome([], details=(record, None))

    def _discarding(self, publisher: Publisher, record: Record) -> "_Discarding":
        return _Discarding(publisher, record)

    def _publisher(self, record: Record) -> Publisher:
        return self.open(record, PublicationSpec.model_validate(record["spec"]))

    def parts(self, run_ids: Sequence[str]) -> list[Part]:
        """Returns the production of these runs, which must be done; the run that was made last has the highest
        number."""
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

    def _merged(
        self, publisher: Publisher, record: Record, publishing: Publishing, control: JobControl
    ) -> list[Record]:
        """Makes a version aside and returns its changes; those of an earlier attempt that is published already."""
        doing = record["doing"]
        known = publisher.versions()
        if known.version == publishing.version:
            publisher.begin(publishing, ())
            return list(doing["changes"])
        parts = by_index(self.parts(doing["request"]["runs"]), doing["request"]["indexes"], known.indexes)
        publisher.begin(publishing, list(parts))
        return [asdict(change) for change in merged(publisher, publishing, parts, control.advance)]


@dataclass(frozen=True)
class _Discarding:
    """Surrounds an attempt: when it fails for good, nothing of it stays in the target. A target that is away fails the
    attempt for now; an attempt that overtook or cancelled this one cleans up behind it."""

    publisher: Publisher
    record: Record

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, AudienceError) or isinstance(error, Transient):
            return
        if self.publisher.versions().version != self.record["doing"]["version"]:
            self.publisher.discard(self.record["fence"])


def _attempt(record: Record) -> Publishing:
    doing = record["doing"]
    at = dt.datetime.fromisoformat(doing["created_at"]).astimezone(dt.UTC).replace(tzinfo=None)
    conflicts = Panels(conflicts=doing["request"]["conflicts"]).conflict_of
    return Publishing(record["fence"], doing["version"], at, conflicts, doing["request"]["replace"])


# what follows, in the transaction that ends the job


def _published(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    record, previous = outcome.details
    request = record["doing"]["request"]
    spec = {**record["spec"], "indexes": request["indexes"], "conflicts": request["conflicts"]}
    publications.published(connection, record, spec, previous, outcome.result)
    log.info("action=published name=%s version=%s", record["name"], record["doing"]["version"])


def _previewed(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    publications.previewed(connection, outcome.details, outcome.result)


def _rolled_back(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    record, versions = outcome.details
    publications.rolled_back(connection, record, versions.version, versions.previous)


def _deleted(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    publications.deleted(connection, outcome.details)


def _discarded(connection: sa.Connection, job: Record, outcome: Outcome) -> None:
    record, versions = outcome.details
    if versions is None:
        reason = operations.get_operation(connection, job["operation_id"])["error"]  # none of one that was cancelled
        publications.ended(connection, job["operation_id"], "failed" if reason else "aborted", reason)
    elif record["doing"]["action"] == "publish":
        _published(connection, job, Outcome(outcome.result, details=(record, versions.previous)))
    else:
        publications.rolled_back(connection, record, versions.version, versions.previous)


def _failed(connection: sa.Connection, job: Record, reason: str) -> None:
    publications.gave_up(connection, job["operation_id"], reason)
    log.warning("action=publication_failed kind=%s operation_id=%s reason=%s", job["kind"], job["operation_id"], reason)
