"""Which files may be read and written over HTTP: those below the folders that the settings name."""

from collections.abc import Sequence
from pathlib import Path

from audience.databases.urls import parse
from audience.tables.registry import check_within, path_of

CERTIFICATES = ("ssl_ca", "sslrootcert")


def confined(reference: str, roots: Sequence[Path], what: str) -> str:
    """A path or URL whose file lies below one of the roots, links followed; a relative path is meant below the first.
    It is judged again whenever it is opened: a link may be made later. A server's URL stays as it is."""
    path = path_of(reference, what)
    if path is None:
        for name, value in parse(reference).options.items():
            if name in CERTIFICATES:
                check_within(value, [str(root) for root in roots])
        return reference
    whole = f"{roots[0]}/{path}" if not path.startswith("/") else path
    check_within(whole, [str(root) for root in roots])
    return f"sqlite:///{whole}" if reference.lower().startswith("sqlite:") else whole
