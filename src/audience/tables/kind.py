"""What a kind of table declares about itself: its schemes, and what opens its sources, targets and publications."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from audience.errors import BadInput
from audience.tables.base import Source, SourceSpec, Target
from audience.tables.findings import Finding
from audience.tables.publications import Publisher


@dataclass(frozen=True)
class Kind:
    """One kind of source, of target, or of both. A server (`is_server`) is handed its whole URL, with its password;
    every other kind the path that follows the scheme. `target` is handed first what may be shown; `publisher` also the
    id and the name of its publication; `check` yields what `audience doctor` finds in a target."""

    schemes: tuple[str, ...]
    example: str
    source: Callable[[SourceSpec, str], Source] | None = None
    target: Callable[[str, str], Target] | None = None
    publisher: Callable[[str, str, str, str], Publisher] | None = None
    check: Callable[[str, str], Iterable[Finding]] | None = None
    is_server: bool = False
    extra: str = ""
    drivers: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Refuses a kind whose drivers, which are extras, are not installed."""
        if missing := [name for name in self.drivers if find_spec(name) is None]:
            raise BadInput(
                f"{self.example} needs a driver ({', '.join(missing)}): pip install 'audience[{self.extra}]'"
            )
