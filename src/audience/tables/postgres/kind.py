"""PostgreSQL: sources, targets and publications on a server. Drivers are imported when something is opened."""

from collections.abc import Iterable

from audience.tables.base import Source, SourceSpec, Target
from audience.tables.findings import Finding
from audience.tables.kind import Kind
from audience.tables.publications import Publisher


def _source(spec: SourceSpec, url: str) -> Source:
    from audience.tables.postgres.source import PostgresSource

    return PostgresSource(spec, url)


def _target(shown: str, url: str) -> Target:
    from audience.tables.postgres.target import PostgresTarget

    return PostgresTarget(shown, url)


def _publisher(shown: str, url: str, publication: str, name: str) -> Publisher:
    from audience.tables.postgres.publisher import PostgresPublisher

    return PostgresPublisher(shown, url, publication, name)


def _check(shown: str, url: str) -> Iterable[Finding]:
    from audience.tables.postgres.checks import check

    return check(shown, url)


POSTGRES = Kind(
    schemes=("postgresql", "postgres"),
    example="postgresql://user@host:5432/database",
    source=_source,
    target=_target,
    publisher=_publisher,
    check=_check,
    is_server=True,
    extra="postgres",
    drivers=("psycopg", "adbc_driver_postgresql"),
)
