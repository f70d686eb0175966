"""Which kind of source or target a path or URL means: the only place that knows them all."""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from audience.errors import BadInput
from audience.tables.base import Source, SourceSpec, Target

SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3", ".db3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Two letters at least: one is a drive. A single slash, so that a mistyped URL is not taken for a path and shown."""


@dataclass(frozen=True)
class Kind:
    """One kind of source or target. What follows the scheme is handed to it: a path, where `is_path`."""

    source: Callable[[SourceSpec, str], Source]
    target: Callable[[str, str], Target]
    example: str


def _sqlite_source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.sqlite import SqliteSource

    return SqliteSource(spec, Path(path))


def _sqlite_target(url: str, path: str) -> Target:
    from audience.tables.sqlite_target import SqliteTarget

    return SqliteTarget(url, Path(path))


def _path_source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.files import FilesSource

    return _sqlite_source(spec, path) if _is_sqlite(Path(path)) else FilesSource(spec, path)


def _path_target(url: str, path: str) -> Target:
    from audience.tables.folder import FolderTarget

    if path.endswith("/") or Path(path).is_dir():
        return FolderTarget(url, Path(path))
    if Path(path).suffix.lower() in SQLITE_ENDINGS:
        return _sqlite_target(url, path)
    if not Path(path).suffix:
        return FolderTarget(url, Path(path))
    raise BadInput(
        f"results cannot be written to {path}: name a SQLite file ({', '.join(SQLITE_ENDINGS)}), "
        "or a folder for Parquet files, with a / at its end"
    )


KINDS = {
    "sqlite": Kind(_sqlite_source, _sqlite_target, "sqlite:///posts.db, sqlite:////data/posts.db"),
    "file": Kind(_path_source, _path_target, "file:///data/posts.csv"),
}


def open_source(spec: SourceSpec) -> Source:
    """The source that the spec's URL means. Raises BadInput or NotFound; no message shows a URL of a database."""
    kind, rest = _resolved(spec.url, "source")
    return kind.source(spec, rest)


def open_target(url: str) -> Target:
    """The target that a path or URL means; nothing is written yet."""
    kind, rest = _resolved(url, "target")
    return kind.target(url, rest)


def _resolved(url: str, what: str) -> tuple[Kind, str]:
    if not url or "\0" in url:
        raise BadInput(f"the {what} has no path or URL: name a file, a folder or a database")
    match = SCHEME.match(url)
    if not match:
        return KINDS["file"], url
    scheme = match[1].lower()
    if scheme not in KINDS:
        known = ", ".join(f"{name} ({kind.example})" for name, kind in KINDS.items())
        raise BadInput(f"a {what} cannot be opened with {scheme}://; known are plain paths and {known}")
    path = _path_of(url, scheme)
    return KINDS[scheme], path


def _path_of(url: str, scheme: str) -> str:
    """sqlite: three slashes and a relative path, four for an absolute one. file: three and an absolute path."""
    rest = url[len(scheme) + 1 :]
    if not rest.startswith("///") or rest == "///":
        raise BadInput(f"a {scheme} URL has three slashes and a path, as in {KINDS[scheme].example}")
    return unquote(rest[2:]) if scheme == "file" else rest[3:]


def _is_sqlite(path: Path) -> bool:
    from audience.tables.sqlite import MAGIC

    if path.suffix.lower() in SQLITE_ENDINGS and not path.is_dir():
        return not glob.has_magic(str(path)) or path.exists()
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
