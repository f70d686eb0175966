"""The job that checks and saves a large model. It runs in a process of its own: a check of twenty thousand patterns is
one long calculation, which nothing could interrupt."""

from collections.abc import Callable
from dataclasses import dataclass

from audience.jobs import single
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.store.database import Record
from audience.store.records import Store


@dataclass(frozen=True)
class SavingJobs:
    """Saves models with what the app hands it: the store, and what checks and saves a request."""

    store: Store
    create: Callable[[Record], Record]

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of models, by name."""
        return {"model": JobKind(self.save, single.done, single.failed, killable=True)}

    def save(self, job: Record, control: JobControl) -> Outcome:
        """Checks a model and saves it. Twice: the same version."""
        self.store.operations.start(job["operation_id"])
        return Outcome(self.create(job["arguments"]))
