"""`audience label`, `sample`, `production`, `export` and `audience run ...`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audience.app import LOCAL, App
from audience.cli import models as m
from audience.cli import options as o
from audience.cli import show
from audience.cli.show import console, errors
from audience.errors import BadInput
from audience.labeling.groups import GroupMap, load_groups
from audience.labeling.panels import default_panels, load_panels
from audience.labeling.plan import RunSpec, TaskSpec
from audience.tables.times import parse_bound

commands = typer.Typer(help="Runs: what was labelled, when, and what came of it.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(help="id of a run, the beginning of one, or `last`")]


def label(
    source: Annotated[list[str], typer.Argument(help="saved sources, or SQLite, CSV, JSONL or Parquet paths")],
    target: Annotated[str, typer.Option(help="SQLite file or folder for the results")],
    rules: Annotated[list[str] | None, typer.Option(help="rules as CSV or JSON; FIELD=FILE names the field")] = None,
    model: Annotated[list[str] | None, typer.Option(help="saved models, after the rules in priority")] = None,
    start: Annotated[str | None, typer.Option("--from", help="first day or time")] = None,
    end: Annotated[str | None, typer.Option("--to", help="the day or time before which to end")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV of s_id,group: which channel goes to which table")] = None,
    default_group: Annotated[str | None, typer.Option(help="group of the channels that no group has")] = None,
    panels: Annotated[Path | None, typer.Option(help="JSON of label names and conflict groups")] = None,
    first_wins: Annotated[bool, typer.Option(help="a row keeps the label of the first model that has one")] = False,
    make_production: Annotated[bool, typer.Option("--production/--no-production")] = True,
    seed: Annotated[int, typer.Option(help="of the sample")] = 0,
    table: o.Table = None,
    role: o.Roles = None,
    option: o.Details = None,
    field: m.Fields = None,
    case: m.CaseOption = None,
    width: m.Width = None,
    labels: m.Labels = None,
    as_json: o.Json = False,
) -> None:
    """Label every row of one or several sources; results and production tables go to the target."""
    app = o.open_app()
    fields = tuple(field.split(",")) if field else None
    chosen = [_saved(app, item, fields=fields, case=case, width=width, labels=labels) for item in rules or []]
    if not chosen and not model:
        raise BadInput("nothing to label with: give --rules FILE, or --model NAME")
    given = o.source_options(table, role, option)
    group_map = load_groups(groups, default_group) if groups else GroupMap.checked({}, default_group)
    first, last = parse_bound(start, "--from"), parse_bound(end, "--to")
    tasks = [TaskSpec(name=s, source=app.source_spec(s, **given), start=first, end=last) for s in source]
    spec = RunSpec(
        models=(*chosen, *(model or ())),
        target=target,
        first_wins=first_wins,
        groups=group_map,
        panels=load_panels(panels) if panels else default_panels(),
        seed=seed,
        production=make_production,
        partition_rows=app.settings.partition_rows,
    )
    run = execute(app, tasks, spec, hidden=as_json)
    if as_json:
        show.as_json(run)
    else:
        report(app, run)
    if run["state"] != "done":
        raise typer.Exit(1)


def _saved(app: App, item: str, **given: Any) -> str:
    """Rules from a file as a model named after the file."""
    field, path = o.rules_argument(item)
    if field:
        given["fields"] = (field,)
    saved, warnings = app.add_model(path.stem.replace(" ", "_"), path, LOCAL, **given)
    for warning in warnings:
        errors.print(f"[yellow]warning[/] {escape(warning)}")
    return saved


def execute(app: App, tasks: list[TaskSpec], spec: RunSpec, *, hidden: bool = False) -> dict[str, Any]:
    """Creates a run and carries it out behind progress bars; the run."""
    run_id = app.create_run(tasks, spec, LOCAL)
    with show.Bars([task.name for task in tasks], hidden=hidden) as bars:
        app.execute(run_id, LOCAL, bars)
    return app.run(run_id)


def report(app: App, run: dict[str, Any]) -> None:
    """What a run did, and where its tables are."""
    target = app.open_target(run["spec"]["target"])
    groups = dict.fromkeys(g for task in run["tasks"] for g in (task["report"] or {}).get("groups", {}))
    made = run["spec"]["production"]
    show.run_report(run, {g: (target.where(g), target.where(g, production=True) if made else None) for g in groups})


@commands.command("list")
def list_(as_json: o.Json = False) -> None:
    """List the runs, newest first."""
    runs = o.open_app().runs()
    if as_json:
        show.as_json(runs)
        return
    rows = [
        (
            r["id"][:12],
            r["state"],
            ", ".join(r["spec"]["models"]),
            r["spec"]["target"],
            r["created_by"],
            r["created_at"][:19],
        )
        for r in runs
    ]
    show.table("", ("run", "state", "models", "target", "by", "at"), rows)


@commands.command("show")
def show_(run: Run, as_json: o.Json = False) -> None:
    """Show a run with the numbers of every task and group."""
    app = o.open_app()
    found = app.run(run)
    show.as_json(found) if as_json else report(app, found)


@commands.command()
def delete(run: Run) -> None:
    """Delete a run with its results and production rows."""
    console.print(f"deleted run {o.open_app().delete_run(run, LOCAL)[:12]} and all its rows")


def sample(
    run: Run = "last",
    size: Annotated[int, typer.Option("--size", "-n", min=1, max=20, help="rows a group and label")] = 3,
    seed: Annotated[int | None, typer.Option(help="another sample; by default that of the run")] = None,
    group: Annotated[str | None, typer.Option(help="of this group only")] = None,
    label: Annotated[str | None, typer.Option(help="of this label or panel only")] = None,
    as_json: o.Json = False,
) -> None:
    """Show sampled results with the matched text marked; the same ones for the same seed."""
    rows = o.open_app().sample(run, size, seed, group, label)
    if as_json:
        show.as_json(rows)
    elif rows:
        show.sample(rows)
    else:
        console.print("no results to sample")


def production(run: Run = "last", as_json: o.Json = False) -> None:
    """Make the production tables of a run once more; the same rows come out."""
    app = o.open_app()
    found = app.produce(run, LOCAL)
    show.as_json(found) if as_json else report(app, found)


def export(
    path: Annotated[Path, typer.Argument(help="file to write: .csv (safe for spreadsheets), .jsonl or .parquet")],
    run: Run = "last",
    of_production: Annotated[bool, typer.Option("--production", help="production rows instead of results")] = False,
    group: Annotated[str | None, typer.Option(help="of this group only")] = None,
) -> None:
    """Write all results or production rows of a run into one file."""
    n = o.open_app().export(run, path, production=of_production, group=group)
    console.print(f"{n:,} rows in {path}")
