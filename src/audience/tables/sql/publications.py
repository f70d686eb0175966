"""Names of a publication's tables in a database, and the list of indexes as it is kept there."""

import json
from collections.abc import Iterable

from audience.errors import Conflict

PUBLICATIONS = "audience_publication"
AT_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


def present(index: str) -> str:
    """What is published."""
    return f"published_{index}"


def previous(index: str) -> str:
    """What was before."""
    return f"published_{index}__former"


def following(index: str) -> str:
    """What is being made."""
    return f"published_{index}__next"


def incoming(index: str) -> str:
    """The new rows, before they are merged."""
    return f"published_{index}__new"


def as_json(names: Iterable[str]) -> str:
    return json.dumps(list(names))


def from_json(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def taken(index: str, publication: str) -> Conflict:
    return Conflict(f"the index {index} is of the publication {publication!r} here: choose another name or target")
