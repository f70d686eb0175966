"""Which kind of source or target a path or URL means: the only place that knows them all."""

import contextlib
import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from audience.errors import BadInput
from audience.tables.base import Source, SourceSpec, Target
from audience.tables.publications import Publisher

SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3", ".db3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Two letters at least: one is a drive. A single slash, so that a mistyped URL is not taken for a path and shown."""


@dataclass(frozen=True)
class Kind:
    """One kind of source or target. It is handed what follows the scheme, a path; a server (`is_server`) the whole URL,
    with its password. A target is handed first what may be shown; a publisher also the id and the name of its
    publication."""

    source: Callable[[SourceSpec, str], Source]
    target: Callable[[str, str], Target]
    publisher: Callable[[str, str, str, str], Publisher]
    example: str
    is_server: bool = False
    extra: str = ""
    drivers: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Drivers of servers are extras."""
        if missing := [name for name in self.drivers if find_spec(name) is None]:
            raise BadInput(
                f"{self.example} needs a driver ({', '.join(missing)}): pip install 'audience[{self.extra}]'"
            )


def _sqlite_source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.sqlite import SqliteSource

    return SqliteSource(spec, Path(path))


def _sqlite_target(url: str, path: str) -> Target:
    from audience.tables.sqlite_target import SqliteTarget

    return SqliteTarget(url, Path(path))


def _sqlite_publisher(_: str, path: str, publication: str, name: str) -> Publisher:
    from audience.tables.sqlite_file import SqliteFile
    from audience.tables.sqlite_publication import SqlitePublisher

    return SqlitePublisher(SqliteFile(Path(path)), publication, name)


def _path_source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.files import FilesSource

    return _sqlite_source(spec, path) if _is_sqlite(Path(path)) else FilesSource(spec, path)


def _path_target(url: str, path: str) -> Target:
    from audience.tables.folder import FolderTarget

    return FolderTarget(url, Path(path)) if _is_folder(path) else _sqlite_target(url, path)


def _path_publisher(shown: str, path: str, publication: str, name: str) -> Publisher:
    from audience.tables.folder_publication import FolderPublisher

    _path_target(shown, path)  # may it be written to?
    return (
        FolderPublisher(Path(path), publication, name)
        if _is_folder(path)
        else _sqlite_publisher(shown, path, publication, name)
    )


def _is_folder(path: str) -> bool:
    """Or else a SQLite file."""
    if path.endswith("/") or Path(path).is_dir():
        return True
    if Path(path).suffix.lower() in SQLITE_ENDINGS:
        return False
    if not Path(path).suffix:
        return True
    raise BadInput(
        f"results cannot be written to {path}: name a SQLite file ({', '.join(SQLITE_ENDINGS)}), "
        "or a folder for Parquet files, with a / at its end"
    )


def _mysql_source(spec: SourceSpec, url: str) -> Source:
    from audience.tables.mysql import MysqlSource

    return MysqlSource(spec, url)


def _mysql_target(shown: str, url: str) -> Target:
    from audience.tables.mysql_target import MysqlTarget

    return MysqlTarget(shown, url)


def _mysql_publisher(shown: str, url: str, publication: str, name: str) -> Publisher:
    from audience.tables.mysql_publication import MysqlPublisher

    return MysqlPublisher(shown, url, publication, name)


def _postgres_source(spec: SourceSpec, url: str) -> Source:
    from audience.tables.postgres import PostgresSource

    return PostgresSource(spec, url)


def _postgres_target(shown: str, url: str) -> Target:
    from audience.tables.postgres_target import PostgresTarget

    return PostgresTarget(shown, url)


def _postgres_publisher(shown: str, url: str, publication: str, name: str) -> Publisher:
    from audience.tables.postgres_publication import PostgresPublisher

    return PostgresPublisher(shown, url, publication, name)


MYSQL = Kind(
    _mysql_source,
    _mysql_target,
    _mysql_publisher,
    "mysql://user@host:3306/schema",
    is_server=True,
    extra="mysql",
    drivers=("pymysql", "connectorx"),
)
POSTGRES = Kind(
    _postgres_source,
    _postgres_target,
    _postgres_publisher,
    "postgresql://user@host:5432/database",
    is_server=True,
    extra="postgres",
    drivers=("psycopg", "adbc_driver_postgresql"),
)
KINDS = {
    "sqlite": Kind(_sqlite_source, _sqlite_target, _sqlite_publisher, "sqlite:///posts.db, sqlite:////data/posts.db"),
    "file": Kind(_path_source, _path_target, _path_publisher, "file:///data/posts.csv"),
    "mysql": MYSQL,
    "mariadb": MYSQL,
    "postgresql": POSTGRES,
    "postgres": POSTGRES,
}


def open_source(spec: SourceSpec, url: str | None = None) -> Source:
    """The source that the spec's URL means; `url`: the same with its password. Raises BadInput or NotFound; no message
    shows a password."""
    kind, rest = _resolved(url or spec.url, "source")
    if kind.is_server:
        return kind.source(spec, rest)
    check_within(rest, spec.within)
    with _readable_names(rest):
        return kind.source(spec, rest)


def open_target(shown: str, within: Sequence[str] = (), url: str | None = None) -> Target:
    """The target that a path or URL means; nothing is written yet. `shown` has no password, `url` is the same with it.
    A file or folder must lie in one of the folders `within`, if any are given."""
    kind, rest = _resolved(url or shown, "target")
    if kind.is_server:
        return kind.target(shown, rest)
    check_within(rest, within)
    with _readable_names(rest):
        return kind.target(shown, rest)


def kind_of(url: str) -> str:
    """The scheme of a URL; `file` for a path."""
    match = SCHEME.match(url)
    return match[1].lower() if match else "file"


def open_publisher(
    shown: str, publication: str, name: str, within: Sequence[str] = (), url: str | None = None
) -> Publisher:
    """The publication with this id and name in the target that a path or URL means; otherwise as `open_target`."""
    kind, rest = _resolved(url or shown, "target")
    if kind.is_server:
        return kind.publisher(shown, rest, publication, name)
    check_within(rest, within)
    with _readable_names(rest):
        return kind.publisher(shown, rest, publication, name)


def path_of(url: str, what: str) -> str | None:
    """The path that a path or URL means; None for a server's."""
    kind, rest = _resolved(url, what)
    return None if kind.is_server else rest


def check_within(path: str, folders: Sequence[str]) -> None:
    """Refuses what lies in none of the folders, if there are any, once every link is followed."""
    with _readable_names(path):
        real = _fixed_part(Path(path)).resolve()
        if folders and not any(real.is_relative_to(Path(folder).resolve()) for folder in folders):
            raise BadInput(f"{path} is not in a folder that may be used over HTTP: {', '.join(folders)}")


def _fixed_part(path: Path) -> Path:
    """The path up to its first wildcard."""
    for n, part in enumerate(path.parts):
        if glob.has_magic(part) and not Path(*path.parts[: n + 1]).exists():
            return Path(*path.parts[:n])
    return path


@contextlib.contextmanager
def _readable_names(path: str) -> Iterator[None]:
    """What the system says of a name that it cannot even look at."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path[:200]} cannot be opened: {error.strerror}") from None


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
    kind = KINDS[scheme]
    kind.check_installed()
    return kind, url if kind.is_server else _path_of(url, scheme)


def _path_of(url: str, scheme: str) -> str:
    """sqlite: three slashes and a relative path, four for an absolute one. file: three and an absolute path."""
    rest = url[len(scheme) + 1 :]
    if not rest.startswith("///") or rest == "///":
        raise BadInput(f"a {scheme} URL has three slashes and a path, as in {KINDS[scheme].example}")
    return unquote(rest[2:]) if scheme == "file" else rest[3:]


def _is_sqlite(path: Path) -> bool:
    from audience.tables.sqlite import is_database

    if path.suffix.lower() in SQLITE_ENDINGS and not path.is_dir():
        return not glob.has_magic(str(path)) or path.exists()
    return is_database(path)
