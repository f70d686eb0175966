"""Backoff of a worker: the operations that it leaves to others for a while, because it lacks something that another
worker may have."""

from dataclasses import dataclass, field

BACKOFF_S = 30.0


@dataclass
class OperationBackoff:
    """The operations that one worker does not take, each until a time of its own. `now_s` is of a clock that only goes
    forward."""

    until: dict[str, float] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def leave(self, operation_id: str, now_s: float) -> bool:
        """Leaves an operation to others for `BACKOFF_S`. Returns whether it is the first time."""
        self.until[operation_id] = now_s + BACKOFF_S
        first = operation_id not in self.left
        self.left.add(operation_id)
        return first

    def operations(self, now_s: float) -> list[str]:
        """Returns the operations that are left to others now."""
        known = dict(self.until)  # at once: other threads leave operations meanwhile
        return [operation_id for operation_id, end_s in known.items() if now_s < end_s]
