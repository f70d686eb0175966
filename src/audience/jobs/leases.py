"""Leases and retries, in seconds that one process counts on its own monotonic clock; no two clocks are compared."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from audience.settings import Settings

LONGEST_DELAY_S = 30.0

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class RetryPolicy:
    """How long a worker waits, and how often it tries. `lease_s`: after so long without a new heartbeat a worker is
    given up; `retry_s`: the pause after a first passing failure, doubled up to half a minute; `retries`: how many such
    failures a job may have; `losses`: how many workers may vanish with it; `stop_s`: the time that jobs under way have
    left when the worker is to stop."""

    lease_s: float = 15.0
    retry_s: float = 1.0
    retries: int = 60
    losses: int = 10
    stop_s: float = 10.0

    @classmethod
    def of(cls, s: Settings) -> "RetryPolicy":
        return cls(s.lease_s, s.retry_s, s.max_retries, s.max_losses, s.stop_s)

    def delay_s(self, failures: int) -> float:
        return float(min(self.retry_s * 2 ** min(failures, 16), LONGEST_DELAY_S))


class Ages(Generic[Key]):
    """Measures for how long things have not changed, as far as this process sees. Time in which it did not look does
    not count: it may have been asleep."""

    def __init__(self, interval_s: float) -> None:
        self._most_s = 2 * interval_s
        self._looked_at: float | None = None
        self._unchanged: dict[Key, tuple[object, float]] = {}

    def of(self, things: Mapping[Key, object], now_s: float) -> dict[Key, float]:
        """Returns the age of each thing in seconds; `now_s` is of a clock that only goes forward."""
        # A process that slept has not seen whether others did: at most two intervals count.
        passed_s = min(now_s - self._looked_at, self._most_s) if self._looked_at is not None else 0.0
        self._looked_at = now_s
        before = self._unchanged
        self._unchanged = {}
        for key, value in things.items():
            known, age_s = before.get(key, (value, 0.0))
            self._unchanged[key] = (value, age_s + passed_s if known == value else 0.0)
        return {key: age_s for key, (_, age_s) in self._unchanged.items()}


class LeaseMonitor:
    """What one worker knows of the others' leases: whose heartbeat has not changed for how long."""

    def __init__(self, lease_s: float, interval_s: float) -> None:
        self._lease_s = lease_s
        self._ages: Ages[str] = Ages(interval_s)

    def lost(self, beats: Mapping[str, int], now_s: float) -> list[str]:
        """Returns the ids of workers whose heartbeat has not changed for a lease."""
        return [worker for worker, age_s in self._ages.of(beats, now_s).items() if age_s >= self._lease_s]
