"""The names of a target's tables in a database, and whose tables they are."""

from audience.errors import Conflict

OURS = "Audience, layout 1"
"""The comment, on a server, of every table that we made: others are left alone. A change of layout counts it up."""
TASKS, MARKS = "audience_task", "audience_partition"
"""Who may write (`task, fence, state`), and what is written (`task, partition, ...`)."""
STANDING = "audience_standing"
"""A temporary table of who makes production."""
MARKS_KEY, RESULTS_KEY, PRODUCTION_KEY = ("task", "partition"), ("task_id", "partition", "n"), ("task_id", "n")

PRODUCTION_INDEXES = ("source_author", "panel")


def not_ours(name: str, comment: str | None = None) -> Conflict:
    """Returns what is said of a table that stands where ours should."""
    other = "made by another version of Audience" if str(comment).startswith("Audience") else "not Audience's"
    return Conflict(f"the table {name} is there already and is {other}: name the group or target otherwise")
