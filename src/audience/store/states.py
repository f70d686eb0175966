"""The states of operations, tasks and jobs, and the moves between them. Guarded UPDATEs in this package are their only
writers.

A run may be deleted in any state: its workers may be dead, and deleting bars late writers in the target."""

MOVES: dict[str, frozenset[str]] = {
    "planned": frozenset({"running", "failed", "aborting", "deleting"}),
    "running": frozenset({"producing", "done", "failed", "aborting", "deleting"}),
    "producing": frozenset({"done", "failed", "aborting", "aborted", "deleting"}),
    "done": frozenset({"producing", "deleting"}),
    "failed": frozenset({"running", "producing", "deleting"}),
    "aborting": frozenset({"aborted", "done", "deleting"}),
    "aborted": frozenset({"running", "producing", "deleting"}),
    "deleting": frozenset({"deleting"}),
}
"""Of operations and of tasks. Runs and their tasks that `failed` or were `aborted` go on with `running` when they are
resumed, and with `producing` when
production of what is finished is asked for."""

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
    """The states from which `state` may be reached."""
    return [before for before, after in moves.items() if state in after]


def state_of_run(tasks: list[str]) -> str:
    """The state of a run whose tasks are in these states. What a user stopped counts for more than what failed."""
    going_on = {state for state in tasks if state in GOING_ON}
    for state in ("deleting", "aborting"):
        if state in going_on:
            return state
    if set(tasks) == {"planned"}:
        return "planned"
    if going_on:
        return "producing" if going_on == {"producing"} else "running"
    return next((state for state in ("aborted", "failed") if state in tasks), "done")
