"""What a run may be made of."""

import datetime as dt

import pytest

from audience.errors import BadInput
from audience.labeling.plan import TaskSpec, check_tasks
from audience.tables.base import SourceSpec

MAY, JUNE, JULY = (dt.datetime(2024, month, 1) for month in (5, 6, 7))


def task(start: dt.datetime | None = None, end: dt.datetime | None = None, table: str = "posts") -> TaskSpec:
    return TaskSpec(name="posts.db", source=SourceSpec(url="/data/posts.db", table=table), start=start, end=end)


@pytest.mark.parametrize(
    ("first", "second"),
    [(task(), task()), (task(), task(MAY)), (task(MAY, JULY), task(JUNE)), (task(end=JUNE), task(MAY, JUNE))],
)
def test_source_twice_over_the_same_time_is_refused(first: TaskSpec, second: TaskSpec) -> None:
    for tasks in ((first, second), (second, first), (task(table="other"), first, second)):
        with pytest.raises(BadInput, match=r"posts\.db is named twice"):
            check_tasks(tasks)


def test_source_twice_over_other_times_or_with_another_table_is_taken() -> None:
    check_tasks((task(MAY, JUNE), task(JUNE, JULY), task(end=MAY), task(JULY)))
    check_tasks((task(), task(table="other")))
