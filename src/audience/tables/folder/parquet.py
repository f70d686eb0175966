"""Files that we write into folders: whole under their names or not at all; the system's errors as ours."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from audience.errors import AudienceError, BadInput, Conflict, Transient
from audience.tables.files.parquet import opened, rows_per_batch

AWAY_FOR_NOW = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT}


@contextlib.contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Raises the system's errors as ours."""
    try:
        yield
    except OSError as error:
        raise _as_ours(path, error) from error


def _as_ours(path: Path, error: OSError) -> AudienceError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in AWAY_FOR_NOW:
        return Transient(f"{path} cannot be written ({reason}): free some space or bring the disk back, and try again")
    if isinstance(error, FileNotFoundError):
        return Conflict(f"{path} cannot be written: its task was taken over or deleted meanwhile")
    return BadInput(f"{path} cannot be written ({reason}): check that the folder is one and is writable")


@contextlib.contextmanager
def temporary_name(final: Path) -> Iterator[Path]:
    """Yields a name beside `final` that is gone afterwards, renamed or removed."""
    path = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def metadata_of(path: Path, key: str) -> dict[str, bytes]:
    """Returns what we wrote beside the rows of a file; refuses a file without `key`, which is not ours."""
    with opened(path) as file:
        pairs = (file.metadata.metadata or {}).items()
        found = {k.decode(): v for k, v in pairs if k.startswith(b"audience.")}
    if key not in found:
        raise Conflict(f"{path} is there already and is not Audience's: move it away, or name the target otherwise")
    return found


def batches_of(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with opened(path) as file:
        size = rows_per_batch(file.metadata, range(file.num_row_groups), columns)
        for batch in file.iter_batches(size, columns=list(columns)):
            yield batch.select(columns).cast(pa.schema([schema.field(name) for name in columns]))
