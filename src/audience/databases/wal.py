"""SQLite's write-ahead log. SQLite before 3.51.3 may lose a transaction when one connection checkpoints while another
commits and thereby begins the log anew (https://sqlite.org/wal.html#walresetbug), and Python comes with older ones. So
nobody checkpoints after a commit, as SQLite does by itself; it is done before a commit, under the write lock."""

import contextlib
import sqlite3
from pathlib import Path

LARGE_BYTES = 4 * 2**20
"""The size of SQLite's own limit of 1,000 pages."""
WAIT_S = 0.1
SETTINGS = ("PRAGMA wal_autocheckpoint = 0", f"PRAGMA journal_size_limit = {LARGE_BYTES}")
"""Settings of every connection that writes. A log that is begun anew is cut, so that its size says how much is in
it."""


def checkpoint_if_large(path: str | Path) -> None:
    """Empties a large log for a connection that is about to write, so that it is begun anew. One connection keeps
    everybody from committing, the other checkpoints. Where somebody else is writing just now, or readers still need the
    log, the next writer does it."""
    try:
        is_large = Path(f"{path}-wal").stat().st_size > LARGE_BYTES
    except FileNotFoundError:
        return
    if not is_large:
        return
    with contextlib.suppress(sqlite3.Error), _opened(path) as holder, _opened(path) as other:
        holder.execute("BEGIN IMMEDIATE")
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _opened(path: str | Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None))
