"""The composition root: Settings -> App."""

import time
from collections.abc import Callable, Sequence

from audience.app.mappings import Mappings
from audience.app.models import Models
from audience.app.places import Places
from audience.app.publications import Publications
from audience.app.runs import Runs
from audience.app.sources import Sources
from audience.errors import NotFound
from audience.jobs.patience import Patience
from audience.jobs.roster import roster
from audience.jobs.steps import Steps
from audience.jobs.worker import Worker
from audience.settings import Settings
from audience.store.database import Record, make_home
from audience.store.engines import open_engine
from audience.store.migrate import migrate
from audience.store.queues import shares
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
        self.places = Places(settings, self.store, Secrets(settings.home, key))
        self.sources = Sources(self.store, self.places)
        self.models = Models(self.store)
        self.mappings = Mappings(self.store)
        self.runs = Runs(self.store, self.places)
        self.publications = Publications(self.store, self.places, self.runs)

    # the work

    def worker(
        self, threads: int | None = None, run_id: str | None = None, queues: Sequence[str] | None = None
    ) -> Worker:
        """A worker in this process, not started; of this run only, if one is given, whatever its queue."""
        return Worker(
            self.store,
            self.steps(),
            threads=threads or self.settings.threads,
            patience=Patience.of(self.settings),
            served=shares(queues or self.settings.queues),
            run_id=run_id,
        )

    def workers(self) -> list[Record]:
        """Who is alive, and works on what; looks for a moment."""
        return roster(self.store, self.settings.lease_s)

    def steps(self) -> Steps:
        """What carries out jobs in this process."""
        return Steps(self.store, self.models.load, self.places.source, self.places.target)

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
    engine = open_engine(settings.resolved_store_url, silence_s=MIGRATION_S)
    try:
        return migrate(engine)
    finally:
        engine.dispose()
