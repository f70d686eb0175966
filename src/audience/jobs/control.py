"""How a job under way is told to stop. Imports nothing heavy: who only hands out jobs needs it too."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class JobCancelled(Exception):
    """The job was taken away, or its worker stops; it leaves nothing behind."""


@dataclass
class JobControl:
    """How a job is told to stop, and tells how far it is."""

    stop: Event = field(default_factory=Event)
    n_read: int = 0

    def batches(self, batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        for batch in batches:
            if self.stop.is_set():
                raise JobCancelled
            self.n_read += len(batch)
            yield batch
