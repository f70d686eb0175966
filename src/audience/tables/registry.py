"""Which kind of source or target a path or URL means: the only place that knows them all."""

import contextlib
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from audience.databases.urls import is_path
from audience.errors import BadInput
from audience.tables.base import Source, SourceSpec, Target
from audience.tables.files.kind import FILES
from audience.tables.findings import Finding
from audience.tables.folder.kind import FOLDER
from audience.tables.kind import Kind
from audience.tables.mysql.kind import MYSQL
from audience.tables.postgres.kind import POSTGRES
from audience.tables.publications import Publisher
from audience.tables.sqlite.kind import ENDINGS, SQLITE

KINDS = (SQLITE, FILES, FOLDER, MYSQL, POSTGRES)
EXAMPLES = {scheme: kind.example for kind in KINDS if kind is not FOLDER for scheme in kind.schemes}
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Two letters at least: one is a drive. A single slash, so that a mistyped URL is not taken for a path and shown."""


def open_source(spec: SourceSpec, url: str | None = None) -> Source:
    """Opens the source that the spec's URL means; `url`: the same with its password. Raises BadInput or NotFound; no
    message shows a password."""
    kind, rest = _resolved(url or spec.url, "source")
    assert kind.source is not None
    with _permitted(kind, rest, spec.within):
        return kind.source(spec, rest)


def open_target(shown: str, within: Sequence[str] = (), url: str | None = None) -> Target:
    """Opens the target that a path or URL means; nothing is written yet. `shown` has no password, `url` is the same
    with it. A file or folder must lie in one of the folders `within`, if any are given."""
    kind, rest = _resolved(url or shown, "target")
    assert kind.target is not None
    with _permitted(kind, rest, within):
        return kind.target(shown, rest)


def open_publisher(
    shown: str, publication: str, name: str, within: Sequence[str] = (), url: str | None = None
) -> Publisher:
    """Opens the publication with this id and name in the target that a path or URL means; otherwise as
    `open_target`."""
    kind, rest = _resolved(url or shown, "target")
    assert kind.publisher is not None
    with _permitted(kind, rest, within):
        return kind.publisher(shown, rest, publication, name)


def check_target(shown: str, url: str) -> Iterable[Finding]:
    """Says of a target whether everything a run does there can be done. Leaves nothing behind."""
    kind, rest = _resolved(url, "target")
    assert kind.check is not None
    return kind.check(shown, rest)


def path_of(url: str, what: str) -> str | None:
    """Returns the path that a path or URL means; None for a server's."""
    kinds, rest = _named(url, what)
    return None if kinds[0].is_server else rest


def check_within(path: str, folders: Sequence[str]) -> None:
    """Refuses what lies in none of the folders, if there are any, once every link is followed."""
    with _readable_names(path):
        real = _fixed_part(Path(path)).resolve()
        if folders and not any(real.is_relative_to(Path(folder).resolve()) for folder in folders):
            raise BadInput(f"{path} is not in a folder that may be used over HTTP: {', '.join(folders)}")


@contextlib.contextmanager
def _permitted(kind: Kind, rest: str, within: Sequence[str]) -> Iterator[None]:
    """Stands around the opening of a file or folder, and refuses one that lies elsewhere; servers are not in
    folders."""
    if kind.is_server:
        yield
        return
    check_within(rest, within)
    with _readable_names(rest):
        yield


def _fixed_part(path: Path) -> Path:
    """Returns the path up to its first wildcard."""
    for n, part in enumerate(path.parts):
        if glob.has_magic(part) and not Path(*path.parts[: n + 1]).exists():
            return Path(*path.parts[:n])
    return path


@contextlib.contextmanager
def _readable_names(path: str) -> Iterator[None]:
    """Raises as ours what the system says of a name that it cannot even look at."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path[:200]} cannot be opened: {error.strerror}") from None


def _resolved(url: str, what: str) -> tuple[Kind, str]:
    """Returns the one kind that a URL means as a source or as a target, and what that kind is handed."""
    kinds, rest = _named(url, what)
    if len(kinds) == 1:
        return kinds[0], rest
    with _readable_names(rest):
        return (_source_at if what == "source" else _target_at)(rest), rest


def _named(url: str, what: str) -> tuple[tuple[Kind, ...], str]:
    """Returns the kinds that a URL's scheme, or a plain path, may mean."""
    if not url or "\0" in url:
        raise BadInput(f"the {what} has no path or URL: name a file, a folder or a database")
    match = SCHEME.match(url)
    scheme = match[1].lower() if match else "file"
    kinds = tuple(kind for kind in KINDS if scheme in kind.schemes)
    if not kinds:
        known = ", ".join(f"{name} ({example})" for name, example in EXAMPLES.items())
        raise BadInput(f"a {what} cannot be opened with {scheme}://; known are plain paths and {known}")
    is_path(url)  # refuses what would be taken for a path and shown, but is a mistyped URL with a password
    kinds[0].check_installed()
    return kinds, url if kinds[0].is_server or not match else _path_of(url, scheme)


def _path_of(url: str, scheme: str) -> str:
    """Returns the path in a URL. sqlite: three slashes and a relative path, four for an absolute one; file: three and
    an absolute path."""
    rest = url[len(scheme) + 1 :]
    if not rest.startswith("///") or rest == "///":
        raise BadInput(f"a {scheme} URL has three slashes and a path, as in {EXAMPLES[scheme]}")
    return unquote(rest[2:]) if scheme == "file" else rest[3:]


def _source_at(path: str) -> Kind:
    """Takes a path for a SQLite file by its ending or its first bytes; else it is one file, a folder or a glob of
    files."""
    from audience.databases.sqlite import is_database

    if Path(path).suffix.lower() in ENDINGS and not Path(path).is_dir():
        return SQLITE if not glob.has_magic(path) or Path(path).exists() else FILES
    return SQLITE if is_database(Path(path)) else FILES


def _target_at(path: str) -> Kind:
    """Takes a path for a SQLite file by its ending, and for a folder by a slash at its end or without any ending."""
    if path.endswith("/") or Path(path).is_dir():
        return FOLDER
    if Path(path).suffix.lower() in ENDINGS:
        return SQLITE
    if not Path(path).suffix:
        return FOLDER
    raise BadInput(
        f"results cannot be written to {path}: name a SQLite file ({', '.join(ENDINGS)}), "
        "or a folder for Parquet files, with a / at its end"
    )
