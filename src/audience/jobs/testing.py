"""The job that describes a source. It runs in a process of its own: a server may never answer, and its driver cannot be
interrupted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from audience.jobs import single
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.store.database import Record
from audience.store.records import Store
from audience.tables.base import Source, SourceSpec


@dataclass(frozen=True)
class TestingJobs:
    """Describes sources with what the app hands it: the store, and how to open a source."""

    store: Store
    open_source: Callable[[SourceSpec], Source]

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of source tests, by name."""
        return {"source_test": JobKind(self.test, single.done, single.failed, killable=True)}

    def test(self, job: Record, control: JobControl) -> Outcome:
        """Describes a source: columns, roles, rows, time span."""
        self.store.operations.start(job["operation_id"])
        spec = SourceSpec.model_validate(job["arguments"]["spec"])
        return Outcome(asdict(self.open_source(spec).describe()))
