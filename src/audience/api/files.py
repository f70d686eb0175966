"""Which files may be read and written over HTTP: those below the folders that the settings name."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from audience.errors import BadInput

SCHEMES = ("sqlite:///", "file://")
MAGIC = re.compile(r"[*?\[]")


def confined(reference: str, roots: Sequence[Path], what: str) -> str:
    """The path, absolute, if it is below one of the roots; a relative one is meant below the first. Links are
    followed before that is judged. URLs of servers are returned as they are."""
    path = reference
    for scheme in SCHEMES:
        if reference.lower().startswith(scheme):
            path = unquote(reference[len(scheme) :]) if scheme == "file://" else reference[len(scheme) :]
    if "://" in path:
        return path
    if not path or "\0" in path:
        raise BadInput(f"the {what} has no path or URL: name a file or a folder below {_list(roots)}")
    whole = Path(roots[0], path)
    if not any(_fixed_part(whole).is_relative_to(root.resolve()) for root in roots):
        raise BadInput(f"the {what} {reference!r} is not in a folder that may be used over HTTP: {_list(roots)}")
    return f"{whole}/" if path.endswith("/") else str(whole)


def _fixed_part(path: Path) -> Path:
    """The path up to its first wildcard, with every link followed."""
    parts: list[str] = []
    for part in path.parts:
        if MAGIC.search(part) and not Path(*parts, part).exists():
            break
        parts.append(part)
    return Path(*parts).resolve()


def _list(roots: Sequence[Path]) -> str:
    return ", ".join(map(str, roots))
