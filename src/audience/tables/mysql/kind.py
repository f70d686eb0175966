"""MariaDB and MySQL: sources, targets and publications on a server. Drivers are imported when something is opened."""

from collections.abc import Iterable

from audience.tables.base import Source, SourceSpec, Target
from audience.tables.findings import Finding
from audience.tables.kind import Kind
from audience.tables.publications import Publisher


def _source(spec: SourceSpec, url: str) -> Source:
    from audience.tables.mysql.source import MysqlSource

    return MysqlSource(spec, url)


def _target(shown: str, url: str) -> Target:
    from audience.tables.mysql.target import MysqlTarget

    return MysqlTarget(shown, url)


def _publisher(shown: str, url: str, publication: str, name: str) -> Publisher:
    from audience.tables.mysql.publisher import MysqlPublisher

    return MysqlPublisher(shown, url, publication, name)


def _check(shown: str, url: str) -> Iterable[Finding]:
    from audience.tables.mysql.checks import check

    return check(shown, url)


MYSQL = Kind(
    schemes=("mysql", "mariadb"),
    example="mysql://user@host:3306/schema",
    source=_source,
    target=_target,
    publisher=_publisher,
    check=_check,
    is_server=True,
    extra="mysql",
    drivers=("pymysql", "connectorx"),
)
