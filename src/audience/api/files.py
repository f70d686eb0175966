"""Files as replies."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

MEDIA_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}, "description": "the rows"}
}


def started(pieces: Iterator[bytes]) -> Iterable[bytes]:
    """Returns the pieces with the first one ready: what cannot begin is answered with a problem, not with half a
    file."""
    first = next(pieces, b"")
    return itertools.chain([first], pieces)
