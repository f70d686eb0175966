"""Checks names and references that a user gives, for whatever is saved under them."""

import re
from pathlib import Path

from audience.errors import BadInput

NAME = re.compile(r"\w[\w.\-]{0,99}")
SQLITE_PATH = "sqlite:///"


def check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a {what}: use up to 100 letters, digits, _ - and .")


def absolute(reference: str) -> str:
    """Returns a path as an absolute one, and a URL as it is."""
    path = reference.removeprefix(SQLITE_PATH)
    return path if "://" in path else str(Path(path).absolute())
