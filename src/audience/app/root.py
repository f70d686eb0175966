"""The composition root: Settings -> App. A noun is imported when it is first used: listing runs needs no engine."""

from functools import cached_property
from typing import TYPE_CHECKING

from audience.jobs.kinds import JobKind, OperationKind
from audience.settings import Settings
from audience.store import publications, runs
from audience.store.database import make_home
from audience.store.engines import open_engine
from audience.store.migrate import migrate
from audience.store.records import open_store
from audience.store.secrets import Secrets

if TYPE_CHECKING:
    from audience.app.exports import Exports
    from audience.app.locations import Locations
    from audience.app.mappings import Mappings
    from audience.app.models import Models
    from audience.app.operations import Operations
    from audience.app.planning import Planning
    from audience.app.publications import Publications
    from audience.app.results import Results
    from audience.app.runs import Runs
    from audience.app.sources import Sources

MIGRATION_S = 3600

OPERATION_KINDS = {
    "run": OperationKind(cancelling=runs.abort_tasks),
    "publication": OperationKind(cancelling=publications.discard),
    "source_test": OperationKind(),
    "model": OperationKind(),
    "export": OperationKind(),
    "sweep": OperationKind(),
}


class App:
    """Everything that Audience does, for the edges, one attribute a noun. Whatever changes something takes an actor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings.home, settings.resolved_store_url, settings.resolved_blobs_url)
        key = settings.secret_key.get_secret_value() if settings.secret_key else None
        self.secrets = Secrets(settings.home, key)

    @cached_property
    def locations(self) -> "Locations":
        from audience.app.locations import Locations

        return Locations(self.settings, self.store, self.secrets)

    @cached_property
    def sources(self) -> "Sources":
        from audience.app.sources import Sources

        return Sources(self.store, self.locations)

    @cached_property
    def models(self) -> "Models":
        from audience.app.models import Models

        return Models(self.store)

    @cached_property
    def mappings(self) -> "Mappings":
        from audience.app.mappings import Mappings

        return Mappings(self.store)

    @cached_property
    def runs(self) -> "Runs":
        from audience.app.runs import Runs

        return Runs(self.store, self._planning)

    def _planning(self) -> "Planning":
        from audience.app.planning import Planning

        return Planning(self.locations, self.sources, self.models, self.mappings)

    @cached_property
    def results(self) -> "Results":
        from audience.app.results import Results

        return Results(self.runs, self.locations)

    @cached_property
    def publications(self) -> "Publications":
        from audience.app.publications import Publications
        from audience.jobs.publishing import PublishingJobs

        jobs = PublishingJobs(self.store, self.locations.target, self.locations.publisher)
        return Publications(self.store, self.locations, self.mappings, self.runs, jobs)

    @cached_property
    def exports(self) -> "Exports":
        from audience.app.exports import Exports

        return Exports(self.store, self.results, self.publications)

    @cached_property
    def operations(self) -> "Operations":
        from audience.app.operations import Operations

        return Operations(self.settings, self.store, lambda: self.job_kinds, OPERATION_KINDS)

    @cached_property
    def job_kinds(self) -> dict[str, JobKind]:
        """Returns every kind of job, by name: all that can be done in the background."""
        from audience.jobs.exporting import ExportJobs
        from audience.jobs.labeling import LabelingJobs
        from audience.jobs.saving import SavingJobs
        from audience.jobs.sweeping import SweepingJobs
        from audience.jobs.testing import TestingJobs

        indexes = self.settings.result_indexes
        openers = (self.models.load, self.locations.source, self.locations.target)
        return {
            **LabelingJobs(self.store, *openers, indexes).kinds(),
            **self.publications.jobs.kinds(),
            **TestingJobs(self.store, self.locations.source).kinds(),
            **SavingJobs(self.store, self.models.create_begun).kinds(),
            **ExportJobs(self.store, self.exports.rows_of).kinds(),
            **SweepingJobs(self.store).kinds(),
        }


def migrate_store(settings: Settings) -> tuple[str | None, str]:
    """Migrates our own records; returns (revision before, revision now)."""
    make_home(settings.home)
    engine = open_engine(settings.resolved_store_url, read_timeout_s=MIGRATION_S)
    try:
        return migrate(engine)
    finally:
        engine.dispose()
