"""SQLite files: names that are safe in SQL, the driver's errors as ours, and whether a file is one at all."""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from audience.errors import AudienceError, BadInput, NotFound, Transient

BUSY_TIMEOUT_S = 30.0


def quoted(name: str) -> str:
    """Returns an identifier as SQL; any name is safe in it."""
    if "\0" in name:
        raise BadInput("a table or column name holds a NUL character")
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    """Returns identifiers as SQL, with commas between them."""
    return ", ".join(quoted(name) for name in names)


@contextlib.contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Raises the driver's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(path, error) from error


def _as_ours(path: Path, error: sqlite3.Error) -> AudienceError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Transient(f"{path} is locked by another process: wait for it, or close it, and try again")
    if name.startswith("SQLITE_INTERRUPT"):
        return Transient(f"{path}: what was asked of it was interrupted")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return Transient(f"{path} cannot be written ({error}): free some space and try again")
    if not path.exists():
        return NotFound(f"there is no file {path}: it was there before")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return BadInput(f"{path} cannot be opened for this ({error}): check that the file and its folder are writable")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return BadInput(f"{path} is damaged or not a SQLite database ({error})")
    return BadInput(f"{path}: {error}")


def check_is_database(path: Path) -> None:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path} cannot be read: this user may not")
    if not is_database(path):
        raise BadInput(f"{path} is not a SQLite database")


def is_database(path: Path) -> bool:
    """Returns whether a file is a database; in doubt it is, and opening it tells more. SQLite itself looks: when
    another handle of this process closes such a file, the process loses its locks on it, from under the connections of
    other threads."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
    except OSError:
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return error.sqlite_errorname != "SQLITE_NOTADB"
    return True
