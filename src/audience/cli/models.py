"""`audience model ...`: models, saved as immutable versions, and their aliases."""

import datetime as dt
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from audience.app.actors import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.show import console
from audience.errors import BadInput

RULES = "rules"
"""The kind of model that rules files make."""
commands = typer.Typer(help="Models: rule sets and others, saved as name@version.", no_args_is_help=True)

Case = Literal["lower", "ignore", "exact"]
Fields = Annotated[str | None, typer.Option("--field", help="fields the rules look at, separated by commas")]
CaseOption = Annotated[Case | None, typer.Option(help="lower-case text first, ignore case, or compare exactly")]
Width = Annotated[bool | None, typer.Option("--width/--no-width", help="whether full-width ASCII equals ASCII")]
Labels = Annotated[Literal["one", "all"] | None, typer.Option(help="labels a row may get from this model")]
Encoding = Annotated[
    str | None, typer.Option(help="of files of rules, groups and panels that are not UTF-8: big5, cp950, gb18030 ...")
]


@commands.command()
def add(
    name: str,
    rules: Annotated[Path, typer.Argument(metavar="FILE", help="rules as CSV, TSV or JSON")],
    field: Fields = None,
    case: CaseOption = None,
    width: Width = None,
    labels: Labels = None,
    kind: Annotated[
        str, typer.Option(help="kind of model; of other kinds than rules, FILE has their parameters")
    ] = RULES,
    encoding: Encoding = None,
    notes: Annotated[str, typer.Option(help="why this version was made")] = "",
    as_json: o.Json = False,
) -> None:
    """Check a rule set and save it as a new version."""
    fields = tuple(field.split(",")) if field else None
    given = {"fields": fields, "case": case, "width": width, "labels": labels, "encoding": encoding}
    saved, warnings = o.open_app().models.add(name, rules, LOCAL, kind, notes, **given)
    if as_json:
        show.as_json({"model": saved, "warnings": warnings})
        return
    for warning in warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    console.print(f"saved as [bold]{saved}[/]; next: audience model try {saved} TEXT")


@commands.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="only names that begin so")] = None, as_json: o.Json = False
) -> None:
    """List the saved models, every version."""
    records = o.open_app().models.page(beginning=name)
    if as_json:
        show.as_json(records)
        return
    rows = [
        (f"{r['name']}@{r['version']}", r["kind"], _summary(r["summary"]), r["created_by"], r["created_at"][:19])
        for r in records
    ]
    show.table("", ("model", "kind", "what", "saved by", "at"), rows)


def _summary(summary: dict[str, Any] | None) -> str:
    told = {key.removeprefix("n_").replace("_", " "): value for key, value in (summary or {}).items()}
    return ", ".join(f"{key} {_value(value)}" for key, value in told.items()) or "-"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@commands.command("show")
def show_(model: str, limit: int = 20, as_json: o.Json = False) -> None:
    """Show a model: its settings, its aliases and its first rules."""
    app = o.open_app()
    record = app.models.get(model)
    if as_json:
        show.as_json(record)
        return
    console.print(
        f"[bold]{record['name']}@{record['version']}[/]  {record['kind']}  {escape(_summary(record['summary']))}"
    )
    if record["notes"]:
        console.print(f"notes    {escape(record['notes'])}")
    console.print(f"fields   {escape(', '.join(record['inputs']))}", soft_wrap=True)
    leads = ", ".join(f"{a['alias']} -> {a['name']}@{a['version']}" for a in app.models.aliases(record["name"]))
    if leads:
        console.print(f"aliases  {escape(leads)}", soft_wrap=True)
    for warning in record["warnings"][:limit]:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    contents = app.models.contents(f"{record['name']}@{record['version']}", limit)
    if contents.columns:
        show.table("", contents.columns, contents.rows)


@commands.command()
def alias(
    name: str,
    alias: Annotated[str | None, typer.Argument(help="such as champion")] = None,
    version: Annotated[int | None, typer.Argument(help="that it leads to from now on")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="let it lead nowhere")] = False,
    at: Annotated[
        str | None, typer.Option(help="what they led to at this moment, such as 2024-07-01T12:00+00:00")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Let an alias lead to a version of a model; without a version, show what it led to and when."""
    models = o.open_app().models
    if alias is not None and (version is not None or remove):
        if version is not None and remove:
            raise BadInput("give a version, or --remove, not both")
        if version is None:
            models.remove_alias(name, alias, LOCAL)
        else:
            models.set_alias(name, alias, version, LOCAL)
    elif remove:
        raise BadInput("--remove needs the alias: audience model alias NAME ALIAS --remove")
    found = models.aliases(name, _moment(at)) if at else models.alias_history(name, alias)
    if at and alias:
        found = [row for row in found if row["alias"] == alias]
    if as_json:
        show.as_json(found)
        return
    rows = [(r["alias"], f"{name}@{r['version']}" if r["version"] else None, r["set_by"], r["set_at"]) for r in found]
    show.table("", ("alias", "model", "set by", "at"), rows)


def _moment(text: str) -> dt.datetime:
    """Of the clock of this machine, where no offset is given."""
    try:
        return dt.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise BadInput(f"--at {text!r} is not a time such as 2024-07-01T12:00+00:00") from None


@commands.command()
def rename(name: str, new: str) -> None:
    """Rename a model, with all versions and aliases; refused as long as there are runs that used it."""
    o.open_app().models.rename(name, new, LOCAL)
    console.print(f"[bold]{escape(name)}[/] is now [bold]{escape(new)}[/]")


@commands.command()
def delete(model: Annotated[str, typer.Argument(help="NAME: all versions, or NAME@VERSION")]) -> None:
    """Delete a model or a version of it; refused as long as there are runs that used it."""
    o.open_app().models.delete(model, LOCAL)
    console.print(f"deleted [bold]{escape(model)}[/]")


@commands.command("try")
def try_(
    model: str,
    text: Annotated[list[str], typer.Argument(help="text for all fields, or FIELD=TEXT for one")],
    as_json: o.Json = False,
) -> None:
    """Show which rules of a model hit a text, and where."""
    app = o.open_app()
    fields = app.models.fields(model)
    kind = app.models.kind(model)
    texts: dict[str, str | None] = {}
    for item in text:
        field, separator, value = item.partition("=")
        texts |= {field: value} if separator and field in fields else {"": item}
    tried = app.models.try_out(model, texts)
    if as_json:
        show.as_json(asdict(tried))
        return
    if tried.value is not None:
        console.print(f"value  [bold]{tried.value:g}[/]")
    elif not tried.labels:
        console.print("no rule hits" if kind == RULES else "no label")
    else:
        unit = " hits" if kind == RULES else ""
        console.print(
            "label  " + ", ".join(f"[bold]{escape(g['label'])}[/] ({g['score']:g}{unit})" for g in tried.labels)
        )
    for why in tried.why:
        console.print(escape(json.dumps(why, ensure_ascii=False)), soft_wrap=True)
    if tried.hits:
        columns = ("rule", "label", "field", "match", "text", "at")
        show.table("", columns, [_hit(hit, texts.get(hit["field"], texts.get(""))) for hit in tried.hits])


def _hit(hit: dict[str, Any], text: str | None) -> tuple[Any, ...]:
    return (*(hit[name] for name in ("rule", "label", "field", "match")), show.marked(text, [hit]), hit["start"])
