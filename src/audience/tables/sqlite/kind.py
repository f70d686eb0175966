"""SQLite: sources, targets and publications in a file."""

from collections.abc import Iterable
from pathlib import Path

from audience.tables.base import Source, SourceSpec, Target
from audience.tables.findings import Finding, check_folder
from audience.tables.kind import Kind
from audience.tables.publications import Publisher

ENDINGS = (".db", ".sqlite", ".sqlite3", ".db3")


def _source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.sqlite.source import SqliteSource

    return SqliteSource(spec, Path(path))


def _target(shown: str, path: str) -> Target:
    from audience.tables.sqlite.target import SqliteTarget

    return SqliteTarget(shown, Path(path))


def _publisher(_: str, path: str, publication: str, name: str) -> Publisher:
    from audience.tables.sqlite.publisher import SqlitePublisher
    from audience.tables.sqlite.server import SqliteFile

    return SqlitePublisher(SqliteFile(Path(path)), publication, name)


def _check(shown: str, path: str) -> Iterable[Finding]:
    return [check_folder(shown, Path(path))]


SQLITE = Kind(
    schemes=("sqlite",),
    example="sqlite:///posts.db, sqlite:////data/posts.db",
    source=_source,
    target=_target,
    publisher=_publisher,
    check=_check,
)
