"""Options that several commands share, and their conversion to what the app takes."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audience.errors import BadInput

if TYPE_CHECKING:
    from audience.app.requests import SourceRequest
    from audience.app.root import App

DETAILS = (
    "secret",
    "time_format",
    "timezone",
    "delimiter",
    "quoting",
    "header",
    "encoding",
    "max_readers",
    "statement_timeout_s",
    "read_timeout_s",
)
"""The fields of a source that have no option of their own; here, because help is shown without the app."""
DEFAULT_QUEUE = "default"


class State(StrEnum):
    """The states of runs and other operations."""

    PLANNED = "planned"
    RUNNING = "running"
    PRODUCING = "producing"
    DONE = "done"
    FAILED = "failed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    DELETING = "deleting"


class Kind(StrEnum):
    """The kinds of operations."""

    RUN = "run"
    PUBLICATION = "publication"
    SOURCE_TEST = "source_test"
    MODEL = "model"
    EXPORT = "export"
    SWEEP = "sweep"


Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of tables")]
Table = Annotated[str | None, typer.Option(help="table or view of the database")]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help="which column is what: NAME=COLUMN; id, post_time, s_id, author, title, content ..."),
]
Details = Annotated[
    list[str] | None, typer.Option("--option", "-o", help=f"more about the source: NAME=VALUE; {', '.join(DETAILS)}")
]


def open_app() -> "App":
    from audience.app.root import App
    from audience.settings import read_settings

    return App(read_settings())


def source_request(
    reference: str | None, table: str | None, roles: list[str] | None, details: list[str] | None
) -> "SourceRequest":
    """Returns the request for a saved source, path or URL with the options beside it; None: the server that the
    settings name."""
    from audience.app.requests import SourceRequest

    return SourceRequest(reference=reference, options=source_options(table, roles, details))


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses arguments that are not UTF-8, of which no text can be made."""
    for i, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"argument {i} of the command is not UTF-8, from its character {error.start + 1} on: {argument[:40]!r}"
            ) from None


def source_options(table: str | None, roles: list[str] | None, details: list[str] | None) -> dict[str, Any]:
    """Returns the options of a source that were given, and no others."""
    from pydantic import ValidationError

    from audience.app.types import SourceSpec

    options: dict[str, Any] = dict(_pairs(details, "--option", "encoding=big5"))
    for name in options:
        if name not in DETAILS:
            raise BadInput(f"--option {name} is unknown; known: {', '.join(DETAILS)}")
    if not str(options.get("secret", "env:")).startswith("env:"):
        raise BadInput("--option secret names a variable of the environment: secret=env:NAME")
    if "header" in options:
        options["header"] = tuple(options["header"].split(","))
    if "delimiter" in options:
        options["delimiter"] = options["delimiter"].replace("\\t", "\t")
    if table is not None:
        options["table"] = table
    if roles:
        options["roles"] = dict(_pairs(roles, "--role", "content=body_text"))
    try:
        SourceSpec(url="", **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"--option {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return options


def index_options(items: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """Returns index -> its groups; None when nothing was given."""
    if not items:
        return None
    return {name: tuple(groups.split(",")) for name, groups in _pairs(items, "--index", "forum=forum,blog")}


def _pairs(items: list[str] | None, option: str, example: str) -> list[tuple[str, str]]:
    pairs = []
    for item in items or []:
        name, separator, value = item.partition("=")
        if not (name and separator and value):
            raise BadInput(f"{option} {item!r} should look like {example}")
        pairs.append((name, value))
    return pairs


def rules_argument(item: str) -> tuple[str | None, Path]:
    """Splits `FIELD=FILE`, or `FILE` alone."""
    field, separator, path = item.partition("=")
    return (field, Path(path)) if separator and "/" not in field and "." not in field else (None, Path(item))
