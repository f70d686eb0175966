"""All records of one installation, one attribute a noun. Every change leaves an audit row in its transaction."""

from pathlib import Path

import sqlalchemy as sa

from audience.store import schema
from audience.store.blobs import Blobs
from audience.store.database import Database, Record, make_home
from audience.store.engines import mapped_errors, open_engine
from audience.store.idempotency import Answers
from audience.store.jobs import Jobs
from audience.store.mappings import Mappings
from audience.store.migrate import ensure_current
from audience.store.models import Models
from audience.store.operations import Operations
from audience.store.publications import Publications
from audience.store.runs import Runs
from audience.store.sources import Sources
from audience.store.sweeps import Sweeps
from audience.store.tasks import Tasks
from audience.store.workers import Workers


def open_store(home: Path, url: str, blobs_url: str) -> "Store":
    """Opens the records at this URL; makes `home` when it is missing."""
    make_home(home)
    return Store(open_engine(url), Blobs(blobs_url))


class Store:
    """The records of one installation."""

    def __init__(self, engine: sa.Engine, blobs: Blobs) -> None:
        with mapped_errors(engine):
            ensure_current(engine)
        self.database = Database(engine)
        self.blobs = blobs
        self.sources = Sources(self.database)
        self.models = Models(self.database, blobs)
        self.mappings = Mappings(self.database)
        self.answers = Answers(self.database)
        self.operations = Operations(self.database)
        self.runs = Runs(self.database)
        self.tasks = Tasks(self.database)
        self.jobs = Jobs(self.database)
        self.workers = Workers(self.database)
        self.publications = Publications(self.database)
        self.sweeps = Sweeps(self.database, blobs)

    def audit(self, subjects: list[str] | None = None, after: int = 0) -> list[Record]:
        """Returns audit rows, oldest first: of these records only, and after the row `after`."""
        query = sa.select(schema.audit).where(schema.audit.c.id > after).order_by(schema.audit.c.id)
        return self.database.rows(query if subjects is None else query.where(schema.audit.c.subject.in_(subjects)))
