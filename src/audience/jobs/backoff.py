"""Runs that a worker leaves to others for a while, because it lacks something that another may have."""

from dataclasses import dataclass, field

BACKOFF_S = 30.0


@dataclass
class RunBackoff:
    """`now_s` is of a clock that only goes forward."""

    until: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def leave(self, run_id: str, now_s: float) -> bool:
        """Whether it is for the first time."""
        self.until[run_id] = now_s + BACKOFF_S
        first = run_id not in self.told
        self.told.add(run_id)
        return first

    def runs(self, now_s: float) -> list[str]:
        """Those that are left to others now."""
        self.until = {run_id: end_s for run_id, end_s in self.until.items() if now_s < end_s}
        return list(self.until)
