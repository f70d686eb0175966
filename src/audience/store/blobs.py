"""Immutable bytes under their SHA-256, in a folder or in any file system that Arrow knows, for what is too large for a
row of our own records."""

import contextlib
import datetime as dt
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from audience.databases.urls import displayed, is_path
from audience.errors import BadInput, Conflict, Elsewhere, Transient

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

UNFINISHED = "unfinished"
DIGEST = re.compile(r"[0-9a-f]{64}")
PIECE_BYTES = 2**20


class Blobs:
    """Keeps blobs. Each is written once, whole or not at all, and read back as it was written or not at all."""

    def __init__(self, place: str) -> None:
        """`place`: a folder, which is made when it is needed, or a URL such as `s3://bucket/folder`."""
        self.shown = _shown(place)
        self._place = place

    def put(self, content: bytes) -> str:
        """Writes a blob and returns its digest. Twice: the same."""
        digest = hashlib.sha256(content).hexdigest()
        if self.exists(digest):
            return digest
        unfinished = f"{self._root}/{UNFINISHED}/{uuid.uuid4().hex}"
        with self._mapped_errors():
            for path in (unfinished, self._path(digest)):
                self._files.create_dir(path.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(unfinished) as file:
                file.write(content)
            self._to_disk(unfinished)
            self._files.move(unfinished, self._path(digest))
        return digest

    def put_pieces(self, pieces: Iterable[bytes]) -> str:
        """Writes a blob that comes piece by piece and returns its digest; memory stays that of a piece."""
        unfinished, digest = f"{self._root}/{UNFINISHED}/{uuid.uuid4().hex}", hashlib.sha256()
        with self._mapped_errors():
            self._files.create_dir(unfinished.rpartition("/")[0], recursive=True)
            stream = self._files.open_output_stream(unfinished)
        try:
            with stream:
                for piece in pieces:
                    digest.update(piece)
                    with self._mapped_errors():
                        stream.write(piece)
            with self._mapped_errors():
                self._to_disk(unfinished)
                final = self._path(digest.hexdigest())
                self._files.create_dir(final.rpartition("/")[0], recursive=True)
                self._files.move(unfinished, final)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.delete_file(unfinished)
            raise
        return digest.hexdigest()

    def read(self, digest: str) -> Iterator[bytes]:
        """Yields the bytes of a blob piece by piece, unchecked: whoever was sent a half cannot take it back."""
        if not self.exists(digest):
            raise Elsewhere(f"the blob {digest[:12]} is not in {self.shown}: it was swept, or is on another machine")
        with self._mapped_errors(), self._files.open_input_stream(self._path(digest)) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def old(self, before: dt.datetime) -> Iterator[str]:
        """Yields the digests of blobs written before this time, and removes files that were left unfinished before
        then."""
        from pyarrow.fs import FileSelector, FileType

        with self._mapped_errors():
            found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        for info in found:
            if info.type != FileType.File or info.mtime is None or info.mtime >= before:
                continue
            folder, _, name = info.path.removeprefix(self._root).strip("/").rpartition("/")
            if folder == UNFINISHED:
                with self._mapped_errors():
                    self._files.delete_file(info.path)
            elif DIGEST.fullmatch(name) and folder == name[:2]:
                yield name

    def _to_disk(self, path: str) -> None:
        """Flushes a local file before it has its name, so that a record that outlives a power failure finds it whole.
        Other file systems do so by themselves."""
        if self._files.type_name == "local":
            with Path(path).open("rb") as file:
                os.fsync(file.fileno())

    def get(self, digest: str) -> bytes:
        """Returns the bytes of a blob. Raises Elsewhere where it is not, and Conflict when it is damaged."""
        if not self.exists(digest):
            raise Elsewhere(
                f"the blob {digest[:12]} is not in {self.shown}, where this process looks for blobs: "
                "let AUDIENCE_BLOBS_URL be the same on every machine, a folder or bucket that all of them reach"
            )
        with self._mapped_errors(), self._files.open_input_stream(self._path(digest)) as file:
            content: bytes = file.read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise Conflict(f"the blob {digest[:12]} in {self.shown} is damaged: bring back a copy of it")
        return content

    def is_there(self) -> bool:
        """Returns whether the place itself exists; the first blob makes it."""
        from pyarrow.fs import FileType

        with self._mapped_errors():
            return bool(self._files.get_file_info(self._root).type == FileType.Directory)

    def exists(self, digest: str) -> bool:
        from pyarrow.fs import FileType

        with self._mapped_errors():
            return bool(self._files.get_file_info(self._path(digest)).type == FileType.File)

    def delete(self, digest: str) -> None:
        """Deletes a blob. Twice: the same."""
        if self.exists(digest):
            with self._mapped_errors():
                self._files.delete_file(self._path(digest))

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    @property
    def _files(self) -> "FileSystem":
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple["FileSystem", str]:
        """Opens the file system at its first use: processes that only look after others do not import Arrow."""
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem, LocalFileSystem

        if "://" not in self._place and is_path(self._place):
            return LocalFileSystem(), str(Path(self._place).absolute())
        try:
            files, root = FileSystem.from_uri(self._place)
        except (ArrowException, ValueError, OSError, NotImplementedError):
            raise BadInput(
                f"AUDIENCE_BLOBS_URL cannot be used ({self.shown}): it is a folder, or looks like "
                "file:///shared/blobs or s3://bucket/folder?region=eu-central-1"
            ) from None
        return files, root.rstrip("/")

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or "it cannot be reached, or this user may not use it"
            raise Transient(f"blobs in {self.shown} cannot be used now: {reason}") from error


def _shown(place: str) -> str:
    """Returns the place without keys, passwords and options, for messages."""
    shown = displayed(place)
    scheme, separator, rest = shown.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if separator else shown
