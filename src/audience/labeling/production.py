"""From results to production: resolves conflicts in the target, group by group, and counts what comes of it."""

from typing import Any

from audience.labeling.panels import Panels
from audience.labeling.statistics import rate_of_label
from audience.tables.base import ConflictRules, Target


def produce(target: Target, task: str, fence: int, panels: Panels, report: dict[str, Any]) -> dict[str, Any]:
    """Makes the task's production rows of every group; returns the report with `production`, `labelled` and
    `rate_of_label`.

    Labels describe authors where the source has authors, else rows; the rate is of the same."""
    rules = ConflictRules(panels.conflict_of, report["by_author"])
    groups = {}
    for name, numbers in report["groups"].items():
        n_rows, labelled = target.produce(task, name, fence, rules)
        everyone = numbers["authors"] if rules.by_author else numbers["received"]
        rate = rate_of_label(labelled, everyone)
        groups[name] = {**numbers, "production": n_rows, "labelled": labelled, "rate_of_label": rate}
    return {**report, "groups": groups}
