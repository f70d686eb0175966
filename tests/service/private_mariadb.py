"""MariaDB servers of a test's own, for what must not be done to one that others use, or what that is not set to."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from native import Mariadb

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"
PROGRAMS = ("mariadbd", "mariadb-install-db", "openssl", "prlimit")


@contextlib.contextmanager
def running_mariadb(folder: Path, *options: str, file_bytes: int | None = None) -> Iterator[Mariadb]:
    """With an empty database `audience_test`. `file_bytes`: what the system lets a file of it grow to."""
    if absent := [name for name in PROGRAMS if not shutil.which(name)]:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{absent[0]} is not installed")
    server = Mariadb(folder, "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", *options)
    server.command = ["prlimit", f"--fsize={file_bytes or 'unlimited'}", *server.command]
    try:
        server.start()
        server.execute("CREATE DATABASE audience_test")
        yield server
    finally:
        server.kill()


def encryption(folder: Path) -> tuple[Path, list[str]]:
    """(certificate of its own authority, options of a server that has it)."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-addext", NAMES, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, [f"--ssl-cert={certificate}", f"--ssl-key={key}"]
