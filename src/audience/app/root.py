"""The composition root: Settings -> App."""

import time
from collections.abc import Callable, Sequence

from audience.app.locations import Locations
from audience.app.mappings import Mappings
from audience.app.models import Models
from audience.app.publications import Publications
from audience.app.runs import Runs
from audience.app.sources import Sources
from audience.errors import NotFound
from audience.jobs.leases import RetryPolicy
from audience.jobs.local_worker import LocalWorker
from audience.jobs.steps import Steps
from audience.jobs.worker_status import roster
from audience.settings import Settings
from audience.store.database import Record, make_home
from audience.store.engines import open_engine
from audience.store.migrate import migrate
from audience.store.queues import parse_lanes
from audience.store.records import open_store
from audience.store.secrets import Secrets
from audience.store.states import FINAL

LOCAL = "local"
"""The actor until access control is on."""

WATCH_S = 0.1
MIGRATION_S = 3600


class App:
    """Everything that Audience does, for the edges, one attribute a noun. Whatever changes something takes an actor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings.home, settings.resolved_store_url, settings.resolved_blobs_url)
        key = settings.secret_key.get_secret_value() if settings.secret_key else None
        self.locations = Locations(settings, self.store, Secrets(settings.home, key))
        self.sources = Sources(self.store, self.locations)
        self.models = Models(self.store)
        self.mappings = Mappings(self.store)
        self.runs = Runs(self.store, self.locations, self.models)
        self.publications = Publications(self.store, self.locations, self.runs)

    # the work

    def worker(
        self, threads: int | None = None, run_id: str | None = None, queues: Sequence[str] | None = None
    ) -> LocalWorker:
        """A worker in this process, not started; of this run only, if one is given, whatever its queue."""
        return LocalWorker(
            self.store,
            self.steps(),
            threads=threads or self.settings.threads,
            policy=RetryPolicy.of(self.settings),
            lanes=parse_lanes(queues or self.settings.queues),
            run_id=run_id,
        )

    def workers(self) -> list[Record]:
        """Who is alive, and works on what; looks for a moment."""
        return roster(self.store, self.settings.lease_s)

    def steps(self) -> Steps:
        """What carries out jobs in this process."""
        return Steps(self.store, self.models.load, self.locations.source, self.locations.target)

    def work_on(self, run_id: str, progress: Callable[[Record], bool | None] | None = None) -> None:
        """Carries out a run in this process until it has ended, beside whatever workers there are. `progress` is told
        how the run stands now and then; when it returns true, the rest is left to others."""
        worker = self.worker(run_id=run_id)
        worker.start()
        try:
            while (run := self._unfinished(run_id)) is not None:
                if progress and progress(run):
                    return
                time.sleep(WATCH_S)
        finally:
            worker.stop()

    def _unfinished(self, run_id: str) -> Record | None:
        """The run as it stands; None when it has ended, or is no more."""
        try:
            run = self.store.runs.show(run_id)
        except NotFound:
            return None
        return None if run["state"] in FINAL and not self.store.jobs.is_open(run_id) else run


def migrate_store(settings: Settings) -> tuple[str | None, str]:
    """(revision before, revision now)."""
    make_home(settings.home)
    engine = open_engine(settings.resolved_store_url, read_timeout_s=MIGRATION_S)
    try:
        return migrate(engine)
    finally:
        engine.dispose()
