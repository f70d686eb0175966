"""`audience source ...`: named tables and files."""

from typing import Annotated

import typer

from audience.app.actors import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.operations import finished

commands = typer.Typer(help="Named sources: tables and files that rows are read from.", no_args_is_help=True)


@commands.command()
def add(
    name: str,
    url: Annotated[str, typer.Argument(help="SQLite file; CSV, TSV, JSONL or Parquet file, folder or glob")],
    table: o.Table = None,
    role: o.Roles = None,
    option: o.Details = None,
    as_json: o.Json = False,
) -> None:
    """Save a source, after looking at what is there."""
    from audience.app.requests import SourceRequest

    app = o.open_app()
    request = SourceRequest(location=url, options=o.source_options(table, role, option))
    found = app.sources.add(name, request, LOCAL)["description"]
    if as_json:
        show.as_json(found)
    else:
        show.description(app.sources.described(found))
        show.console.print(
            f"\nsaved as [bold]{name}[/]; next: audience label {name} --rules RULES.csv --target labels.db"
        )


@commands.command("test")
def describe(
    source: Annotated[
        str | None,
        typer.Argument(help="name of a saved source, path or URL; by default the server of AUDIENCE_SOURCE_URL"),
    ] = None,
    table: o.Table = None,
    role: o.Roles = None,
    option: o.Details = None,
    as_json: o.Json = False,
) -> None:
    """Say what a source holds: columns, roles, rows, time span, index, null keys, first rows."""
    app = o.open_app()
    found = finished(app, app.sources.begin_test(o.source_request(source, table, role, option), LOCAL), hidden=as_json)
    show.as_json(found["result"]) if as_json else show.description(app.sources.described(found["result"]))


@commands.command("list")
def list_(as_json: o.Json = False) -> None:
    """List the saved sources."""
    records = o.open_app().sources.all()
    if as_json:
        show.as_json(records)
    else:
        columns = ("name", "url", "table", "saved by", "at")
        rows = [
            (r["name"], r["spec"]["url"], r["spec"]["table"], r["created_by"], r["created_at"][:19]) for r in records
        ]
        show.table("", columns, rows)


@commands.command()
def remove(name: str) -> None:
    """Forget a saved source; its data stays as it is."""
    o.open_app().sources.remove(name, LOCAL)
    show.console.print(f"forgot the source {name}")
