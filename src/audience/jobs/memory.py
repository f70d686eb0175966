"""The peak memory of a piece of work in this process, and how it was measured."""

import contextlib
import threading
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
INTERVAL_S = 0.05


class PeakMemory:
    """A context. Afterwards `peak_mb` is the largest resident size in between (null where the system tells none), and
    `how` says whether the kernel counted it (`VmHWM`, exact) or a thread sampled it."""

    def __init__(self) -> None:
        self.peak_mb: float | None = None
        self.how = "not measured"
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
            self.how = "VmHWM"
        except OSError:
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.how == "VmHWM":
            self.peak_mb = _status_mb("VmHWM")
        elif self._sampler.ident:
            self._stop.set()
            self._sampler.join()

    def _sample(self) -> None:
        while True:
            size = _status_mb("VmRSS")
            if size is None:
                return
            self.how = f"sampled every {INTERVAL_S} s"
            self.peak_mb = max(self.peak_mb or 0.0, size)
            if self._stop.wait(INTERVAL_S):
                return


def _status_mb(name: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
