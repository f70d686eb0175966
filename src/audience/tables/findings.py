"""What `audience doctor` asks of a source or target: findings of one shape, whatever the kind."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audience.errors import AudienceError

Verdict = Literal["ok", "warning", "wrong"]
SKEW_S = 2.0
FREE_BYTES = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was seen, and what to do where that is not well."""

    what: str
    verdict: Verdict
    said: str
    advice: str = ""


def judged(what: str, advice: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yields what is found; what goes wrong meanwhile is a finding too, and the last."""
    try:
        yield from look()
    except AudienceError as error:
        yield Finding(what, "wrong", str(error), advice)


def check_folder(what: str, path: Path) -> Finding:
    """Says whether files can be made there, and whether there is room for more."""
    folder = next(p for p in (path, *path.absolute().parents) if p.is_dir())
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(what, "wrong", f"nothing can be written to {folder}", "give this user the right to, or move it")
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**30:,.1f} GiB free"
    if free < FREE_BYTES:
        return Finding(what, "warning", said, "make room before a run stops for want of it")
    return Finding(what, "ok", said)


def check_clock(what: str, ask: Callable[[], float]) -> Finding:
    """Compares a server's clock (seconds since 1970) with ours, as far as the time of the question allows."""
    before = time.time()
    theirs = ask()
    skew = theirs - (before + time.time()) / 2
    said = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) < SKEW_S:
        return Finding(f"{what}: clock", "ok", said)
    return Finding(f"{what}: clock", "warning", said, "keep both right with NTP: times of records will not agree")
