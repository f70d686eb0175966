"""`audience`: everything from the shell. Errors say what to do and end with status 1; bugs show their traceback."""

import logging
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from audience.cli import models, operations, publications, runs, service, show, sources
from audience.cli.demo import demo
from audience.cli.options import Json, check_arguments
from audience.cli.show import console, errors
from audience.errors import AudienceError

app = typer.Typer(
    name="audience",
    help="Labels for rows in a database: keyword and regex rules over whole tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(epilog=runs.EXAMPLES)(runs.label)
app.command()(runs.sample)
app.command()(runs.production)
app.command()(runs.export)
app.command()(publications.publish)
app.add_typer(publications.commands, name="publication")
app.add_typer(runs.commands, name="run")
app.add_typer(operations.commands, name="operation")
app.add_typer(sources.commands, name="source")
app.add_typer(models.commands, name="model")
app.command()(service.up)
app.command()(service.api)
app.add_typer(service.workers, name="worker")
app.command()(demo)


@app.command()
def migrate() -> None:
    """Bring our own records to this version's layout."""
    from audience.app.root import migrate_store
    from audience.settings import read_settings

    before, now = migrate_store(read_settings())
    if before is None:
        console.print(f"records are made, at {now}")
    else:
        console.print(f"records were at {before}, are at {now}" if before != now else f"records are at {now} already")


@app.command()
def doctor(
    source: Annotated[
        list[str] | None, typer.Option(help="saved source, path or URL; by default all saved ones")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="target; by default that of the settings and of recent runs")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at the whole installation and say what is wrong, and what to do. Status 1 if something is."""
    from audience.app.doctor import examine
    from audience.settings import read_settings

    findings = list(examine(read_settings(), source or (), target or ()))
    show.as_json([asdict(finding) for finding in findings]) if as_json else show.findings(findings)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command("version")
def show_version() -> None:
    """Say which version this is."""
    from importlib.metadata import version

    console.print(version("audience"))


def _version(wanted: bool) -> None:
    if wanted:
        show_version()
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say the version")] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `audience` program."""
    logging.getLogger("audience").addHandler(logging.NullHandler())  # errors are told once, below
    try:
        check_arguments(sys.argv[1:])
        app()
    except AudienceError as error:
        errors.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)
