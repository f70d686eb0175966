"""`audience model ...`: rule sets, saved as immutable versions."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from audience.app import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.show import console

commands = typer.Typer(help="Models: rule sets saved as name@version.", no_args_is_help=True)

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
    rules: Annotated[Path, typer.Argument(help="rules as CSV, TSV or JSON")],
    field: Fields = None,
    case: CaseOption = None,
    width: Width = None,
    labels: Labels = None,
    encoding: Encoding = None,
    as_json: o.Json = False,
) -> None:
    """Check a rule set and save it as a new version."""
    fields = tuple(field.split(",")) if field else None
    given = {"fields": fields, "case": case, "width": width, "labels": labels, "encoding": encoding}
    saved, warnings = o.open_app().models.add(name, rules, LOCAL, **given)
    if as_json:
        show.as_json({"model": saved, "warnings": warnings})
        return
    for warning in warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    console.print(f"saved as [bold]{saved}[/]; next: audience model try {saved} TEXT")


@commands.command("list")
def list_(as_json: o.Json = False) -> None:
    """List the saved models, every version."""
    records = o.open_app().models.all()
    if as_json:
        show.as_json([{k: v for k, v in r.items() if k != "definition"} for r in records])
        return
    rows = [
        (f"{r['name']}@{r['version']}", r["kind"], _n_rules(r["definition"]), r["created_by"], r["created_at"][:19])
        for r in records
    ]
    show.table("", ("model", "kind", "rules", "saved by", "at"), rows)


def _n_rules(definition: dict[str, Any] | None) -> str:
    return f"{len(definition['rules']):,}" if definition else "many"


@commands.command("show")
def show_(model: str, limit: int = 20, as_json: o.Json = False) -> None:
    """Show a model: its settings and its first rules."""
    record = o.open_app().models.get(model)
    if as_json:
        show.as_json(record)
        return
    definition = record["definition"]
    settings = {k: v for k, v in definition.items() if k != "rules"}
    console.print(
        f"[bold]{record['name']}@{record['version']}[/]  {len(definition['rules']):,} rules  {settings or ''}"
    )
    for warning in record["warnings"][:limit]:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    rows = [(i, rule["label"], *_clauses(rule)) for i, rule in enumerate(definition["rules"][:limit], 1)]
    show.table("", ("#", "label", "any", "all", "none"), rows)


def _clauses(rule: dict[str, list[dict[str, str]]]) -> list[str]:
    return [", ".join(_pattern(p) for p in rule.get(clause, ())) for clause in ("any", "all", "none")]


def _pattern(pattern: dict[str, str]) -> str:
    if pattern.get("regex"):
        return f"/{pattern['regex']}/"
    return f"{pattern['keyword']} ({pattern['match']})" if "match" in pattern else pattern["keyword"]


@commands.command("try")
def try_(
    model: str,
    text: Annotated[list[str], typer.Argument(help="text for all fields, or FIELD=TEXT for one")],
    as_json: o.Json = False,
) -> None:
    """Show which rules of a model hit a text, and where."""
    app = o.open_app()
    fields = app.models.fields(model)
    texts: dict[str, str | None] = {}
    for item in text:
        field, separator, value = item.partition("=")
        texts |= {field: value} if separator and field in fields else {"": item}
    given, hits = app.models.try_out(model, texts)
    if as_json:
        show.as_json({"labels": given, "hits": hits})
        return
    if not given:
        console.print("no rule hits")
        return
    console.print("label  " + ", ".join(f"[bold]{escape(g['label'])}[/] ({g['score']:.0f} hits)" for g in given))
    rows = [
        (
            h["rule"],
            h["label"],
            h["field"],
            h["match"],
            show.marked(texts.get(h["field"], texts.get("")), [h]),
            h["start"],
        )
        for h in hits
    ]
    show.table("", ("rule", "label", "field", "match", "text", "at"), rows)
