"""CSV, TSV, JSONL and Parquet files: sources only; results go to a `folder`."""

from audience.tables.base import Source, SourceSpec
from audience.tables.kind import Kind


def _source(spec: SourceSpec, path: str) -> Source:
    from audience.tables.files.source import FilesSource

    return FilesSource(spec, path)


FILES = Kind(schemes=("file",), example="file:///data/posts.csv", source=_source)
