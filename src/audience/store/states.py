"""The states of operations, tasks and jobs, and the moves between them. Only guarded UPDATEs in this package write
them.

A run may be deleted in any state: its workers may be dead, and deleting raises the fences against late writers."""

MOVES: dict[str, frozenset[str]] = {
    "planned": frozenset({"running", "failed", "aborting", "deleting"}),
    "running": frozenset({"producing", "done", "failed", "aborting", "deleting"}),
    "producing": frozenset({"done", "failed", "aborting", "aborted", "deleting"}),
    "done": frozenset({"producing", "deleting"}),
    "failed": frozenset({"running", "producing", "deleting"}),
    "aborting": frozenset({"aborted", "failed", "done", "deleting"}),
    "aborted": frozenset({"running", "producing", "deleting"}),
    "deleting": frozenset({"deleting"}),
}
"""Moves of operations and of tasks. Runs and tasks that `failed` or were `aborted` move to `running` when they are
resumed, and to `producing` when production of what is finished is requested."""

FINAL = frozenset({"done", "failed", "aborted"})
GOING_ON = frozenset(MOVES) - FINAL

JOB_MOVES: dict[str, frozenset[str]] = {
    "waiting": frozenset({"taken", "cancelled"}),
    "taken": frozenset({"waiting", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

OPEN_JOB = frozenset({"waiting", "taken"})


def sources_of(state: str, moves: dict[str, frozenset[str]] = MOVES) -> list[str]:
    """Returns the states from which `state` may be reached."""
    return [before for before, after in moves.items() if state in after]


def state_of_run(tasks: list[str]) -> str:
    """Returns the state of a run whose tasks are in these states. A task that a user stopped counts for more than one
    that failed."""
    going_on = {state for state in tasks if state in GOING_ON}
    for state in ("deleting", "aborting"):
        if state in going_on:
            return state
    if set(tasks) == {"planned"}:
        return "planned"
    if going_on:
        return "producing" if going_on == {"producing"} else "running"
    return next((state for state in ("aborted", "failed") if state in tasks), "done")
