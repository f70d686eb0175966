"""Blobs in a folder, and through a URL of Arrow's file systems."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audience.errors import BadInput, Conflict, Elsewhere, Transient
from audience.store.blobs import Blobs


@pytest.fixture(params=["folder", "url"])
def blobs(request, tmp_path):
    folder = tmp_path / "some folder" / "blobs"
    return Blobs(str(folder) if request.param == "folder" else folder.as_uri())


def files(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_bytes_come_back_and_are_there_once(blobs, tmp_path):
    content = bytes(range(256)) * 1000
    digest = blobs.put(content)
    assert blobs.put(content) == digest
    assert blobs.get(digest) == content
    assert [path.name for path in files(tmp_path)] == [digest]
    assert blobs.get(blobs.put(b"")) == b""


def test_many_may_put_the_same_at_once(blobs, tmp_path):
    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(blobs.put, [b"x" * 2**20] * 32))
    assert len(digests) == 1
    assert [path.name for path in files(tmp_path)] == list(digests)


def test_a_blob_is_whole_or_not_there_when_its_writer_is_killed(tmp_path):
    program = (
        "import os, sys; from audience.store.blobs import Blobs\n"
        "class Killed(Blobs):\n"
        "    def _path(self, digest):\n"
        "        [os._exit(9) for _, _, files in os.walk(sys.argv[1]) if files]\n"
        "        return super()._path(digest)\n"
        "Killed(sys.argv[1]).put(b'x')"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == 9
    blobs = Blobs(str(tmp_path))
    assert [path.parent.name for path in files(tmp_path)] == ["unfinished"]
    assert blobs.get(blobs.put(b"x")) == b"x"


def test_a_blob_that_is_not_here_may_be_elsewhere(blobs):
    assert not blobs.exists("0" * 64)
    with pytest.raises(Elsewhere, match="AUDIENCE_BLOBS_URL"):
        blobs.get("0" * 64)


def test_a_damaged_blob_is_refused(blobs, tmp_path):
    digest = blobs.put(b"content")
    files(tmp_path)[0].write_bytes(b"consent")
    with pytest.raises(Conflict, match="damaged"):
        blobs.get(digest)


def test_a_blob_is_deleted_twice(blobs):
    digest = blobs.put(b"x")
    for _ in range(2):
        blobs.delete(digest)
    assert not blobs.exists(digest)


def test_a_place_that_cannot_be_used_is_named_without_its_key(tmp_path):
    with pytest.raises(BadInput, match="AUDIENCE_BLOBS_URL") as error:
        Blobs("gopher://key:geheim@host/blobs").exists("0" * 64)
    assert "geheim" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(Transient, match="file"):
        Blobs(str(tmp_path / "file")).put(b"x")
