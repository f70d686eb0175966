"""The job that writes rows to a file: to a blob, which is fetched later, or to a file of this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audience.jobs import single
from audience.jobs.control import JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.labeling.export import Rows, encoded, export
from audience.store.database import Record
from audience.store.records import Store


@dataclass(frozen=True)
class ExportJobs:
    """Writes files with what the app hands it: the store, and the rows that a request means."""

    store: Store
    rows_of: Callable[[Record], Rows]

    def kinds(self) -> dict[str, JobKind]:
        """Returns the kinds of jobs of exports, by name."""
        return {"export": JobKind(self.export, single.done, single.failed)}

    def export(self, job: Record, control: JobControl) -> Outcome:
        """Writes all rows; memory stays that of a batch."""
        self.store.operations.start(job["operation_id"])
        request = job["arguments"]
        rows = self.rows_of(request)
        counted = Rows(control.counted(rows.batches), rows.schema)
        if request["to"] is not None:
            n_rows = export(counted, Path(request["to"]))
            return Outcome({"rows": n_rows, "path": request["to"]}, n_rows)
        digest = self.store.blobs.put_pieces(encoded(counted, request["layout"]))
        return Outcome({"rows": control.progress, "blob": digest, "layout": request["layout"]}, control.progress)
