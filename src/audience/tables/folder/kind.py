"""Folders of Parquet files: targets and publications; they are read as `files`."""

from collections.abc import Iterable
from pathlib import Path

from audience.tables.base import Target
from audience.tables.findings import Finding, check_folder
from audience.tables.kind import Kind
from audience.tables.publications import Publisher


def _target(shown: str, path: str) -> Target:
    from audience.tables.folder.target import FolderTarget

    return FolderTarget(shown, Path(path))


def _publisher(shown: str, path: str, publication: str, name: str) -> Publisher:
    from audience.tables.folder.publisher import FolderPublisher

    _target(shown, path)  # may it be written to?
    return FolderPublisher(Path(path), publication, name)


def _check(shown: str, path: str) -> Iterable[Finding]:
    return [check_folder(shown, Path(path))]


FOLDER = Kind(schemes=("file",), example="file:///data/labels/", target=_target, publisher=_publisher, check=_check)
