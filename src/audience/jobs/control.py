"""How a job under way is stopped, and reports its progress. Imports nothing heavy: the dispatcher's process imports it
too."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class JobCancelled(Exception):
    """Raised inside a job that was taken away, or whose worker stops; the job leaves nothing behind."""


@dataclass
class JobControl:
    """Connects the thread that works on a job with the one that speaks for it. `stop` is set when the job is to end;
    `progress` of `total` is what has been done, in whatever the kind counts (null: nobody knows the whole)."""

    stop: Event = field(default_factory=Event)
    progress: int = 0
    total: int | None = None

    def check(self) -> None:
        """Raises JobCancelled when the job is to end."""
        if self.stop.is_set():
            raise JobCancelled

    def counted(self, batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """Yields batches, and counts their rows, until the job is to end."""
        for batch in batches:
            self.check()
            self.progress += len(batch)
            yield batch

    def advance(self, n: int, total: int) -> None:
        """Counts `n` more of `total`; raises JobCancelled when the job is to end."""
        self.check()
        self.progress, self.total = self.progress + n, total

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Calls `interrupt` when the job is to end while what is inside goes on; whatever that raises then is
        JobCancelled. For calls that wait on somebody else and never look at `stop`."""
        left = Event()

        def wait() -> None:
            while not left.is_set():
                if self.stop.wait(LOOK_S):
                    interrupt()
                    left.wait(LOOK_S)  # again and again: the next statement may have begun just then

        watcher = threading.Thread(target=wait, name="interrupt", daemon=True)
        watcher.start()
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            left.set()


LOOK_S = 0.2
