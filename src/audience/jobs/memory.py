"""Measures the peak memory of a piece of work in this process."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
INTERVAL_S = 0.05
SAMPLED = f"sampled every {INTERVAL_S} s"
EXACT = "VmHWM"


@dataclass(eq=False)
class Peak:
    """The largest resident size during the work (null where the system tells none), and how it was measured: by the
    kernel (`VmHWM`, exact) or by a thread that samples it."""

    task: str | None
    mb: float | None = None
    how: str = SAMPLED


class MemoryWatch:
    """Measures the memory of this process. The kernel's count is used only where all work at that time was for one
    task: it counts the process, not the task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[Peak] = set()
        self._wake = threading.Event()
        threading.Thread(target=self._sample, name="memory", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, task: str | None) -> Iterator[Peak]:
        """Yields a Peak, which holds the peak of what was done inside once that has ended."""
        peak = Peak(task, _status_mb("VmRSS"))
        self._begin(peak)
        try:
            yield peak
        finally:
            with self._lock:
                self._watched.discard(peak)
                if peak.how == EXACT:
                    peak.mb = _status_mb("VmHWM")
            _give_back()

    def _begin(self, peak: Peak) -> None:
        with self._lock:
            if not self._watched:
                peak.how = EXACT if _reset_peak() else SAMPLED
            elif all(other.task == peak.task and other.how == EXACT for other in self._watched):
                peak.how = EXACT
            else:
                for other in self._watched:
                    other.how = SAMPLED
            self._watched.add(peak)
            self._wake.set()

    def _sample(self) -> None:
        while True:
            with self._lock:
                size = _status_mb("VmRSS") if self._watched else None
                for peak in self._watched:
                    peak.mb = max(peak.mb or 0.0, size or 0.0) or None
                if not self._watched:
                    self._wake.clear()
            self._wake.wait()
            time.sleep(INTERVAL_S)


def _give_back() -> None:
    """Returns freed memory to the system. glibc keeps it otherwise, separately for every thread that ever allocated,
    and drivers start new threads for every query."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system, or another library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def _status_mb(name: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
