"""References to models: `name`, `name@3`, `name@champion`."""

import re
from dataclasses import dataclass

from audience.errors import BadInput

NAME = re.compile(r"\w[\w.\-]{0,99}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
NEWEST = "newest"


@dataclass(frozen=True)
class ModelReference:
    """A reference to a version, to an alias that leads to one, or, with neither, to the newest version."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Parses a reference, in this place only; `name@newest` is `name`."""
        name, separator, rest = text.partition("@")
        if not NAME.fullmatch(name) or (separator and not NAME.fullmatch(rest)):
            raise BadInput(f"{text!r} does not refer to a model: write name, name@3 or name@alias")
        if not rest or rest == NEWEST:
            return cls(name)
        if VERSION.fullmatch(rest):
            return cls(name, version=int(rest))
        if rest[0].isdecimal():
            raise BadInput(f"{text!r} refers to no version: versions are whole numbers from 1, aliases begin otherwise")
        return cls(name, alias=rest)

    def __str__(self) -> str:
        rest = self.version or self.alias
        return f"{self.name}@{rest}" if rest else self.name


def check_alias(alias: str) -> None:
    """Refuses an alias that would be read as a version."""
    if not NAME.fullmatch(alias) or alias[0].isdecimal() or alias == NEWEST:
        raise BadInput(
            f"{alias!r} cannot be an alias: use up to 100 letters, digits, _ - and ., not a digit first, "
            f"and not {NEWEST!r}, which stands for the newest version"
        )
