"""The states of runs and tasks, and the moves between them. One guarded UPDATE in the store is their only writer.

A run may be deleted in any state: its process may be dead, and deleting bars late writers in the target."""

MOVES: dict[str, frozenset[str]] = {
    "planned": frozenset({"running", "failed", "aborted", "deleting"}),
    "running": frozenset({"producing", "done", "failed", "aborted", "deleting"}),
    "producing": frozenset({"done", "failed", "aborted", "deleting"}),
    "done": frozenset({"producing", "deleting"}),
    "failed": frozenset({"deleting"}),
    "aborted": frozenset({"deleting"}),
    "deleting": frozenset({"deleting"}),
}

FINAL = frozenset({"done", "failed", "aborted"})


def sources_of(state: str) -> list[str]:
    """The states from which `state` may be reached."""
    return [before for before, after in MOVES.items() if state in after]
