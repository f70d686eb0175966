"""What is wrong with parameters that somebody gave, in our words."""

from collections.abc import Iterable

from pydantic import ValidationError

from audience.errors import Problem
from audience.text.documents import pydantic_reason


def problems_of(
    error: ValidationError, where: str = "", joint: str = " ", known: Iterable[str] = ()
) -> tuple[Problem, ...]:
    """Returns pydantic's findings as ours: `where` and the path of the field, and the reason in plain words. `known`:
    the names of the outermost fields."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        reason = pydantic_reason(item, known if len(item["loc"]) == 1 else ())
        found.append(Problem(joint.join(filter(None, (where, path))), reason))
    return tuple(found)
