"""`audience label`, `sample`, `production`, `export` and `audience run ...`."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from audience.app.actors import LOCAL
from audience.cli import models as m
from audience.cli import options as o
from audience.cli import show
from audience.cli.operations import written
from audience.cli.show import console
from audience.errors import BadInput, Conflict, NotFound
from audience.process import told_of_ctrl_c

if TYPE_CHECKING:
    from audience.app.root import App

commands = typer.Typer(help="Runs: what was labelled, when, and what came of it.", no_args_is_help=True)

SEEDS = 2**53
Priority = Literal["low", "normal", "high"]
EXAMPLES = """
[bold]Examples[/]

audience label posts.db --table posts --rules author=gender.csv --target labels.db

audience label mysql://me@db/forum --table posts --role content=body --model spam --from 2024-01-01 --to 2024-02-01

audience label --model spam@3 --target labels/ --detach
"""
"""The second: January of 2024, for the end is not included, to the target that the settings name. The third: from the
server that the settings name into a folder of Parquet files, by the workers of `audience up`."""

Run = Annotated[str, typer.Argument(help="id of a run, the beginning of one, or `last`")]
Detach = Annotated[
    bool, typer.Option("--detach", help="leave the work to the workers of `audience up`, and return at once")
]


def label(
    source: Annotated[
        list[str] | None,
        typer.Argument(help="saved sources, paths or URLs; by default the server of AUDIENCE_SOURCE_URL"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="SQLite file, folder or URL for the results; by default AUDIENCE_TARGET_URL")
    ] = None,
    rules: Annotated[list[str] | None, typer.Option(help="rules as CSV or JSON; FIELD=FILE names the field")] = None,
    model: Annotated[list[str] | None, typer.Option(help="saved models, after the rules in priority")] = None,
    start: Annotated[str | None, typer.Option("--from", help="first day or time")] = None,
    end: Annotated[str | None, typer.Option("--to", help="the day or time before which to end")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV of s_id,group: which channel goes to which table")] = None,
    default_group: Annotated[str | None, typer.Option(help="group of the channels that no group has")] = None,
    panels: Annotated[Path | None, typer.Option(help="JSON of label names and conflict groups")] = None,
    first_wins: Annotated[bool, typer.Option(help="a row keeps the label of the first model that has one")] = False,
    make_production: Annotated[bool, typer.Option("--production/--no-production")] = True,
    production_delay: Annotated[float | None, typer.Option(min=0, help="seconds before production begins")] = None,
    bad_rows: Annotated[int, typer.Option(min=0, help="rows the models may fail on before the run fails")] = 1_000,
    priority: Annotated[Priority, typer.Option(help="runs of a higher one go first")] = "normal",
    queue: Annotated[str, typer.Option(help="only workers that serve it take the run's jobs")] = o.DEFAULT_QUEUE,
    detach: Detach = False,
    seed: Annotated[int, typer.Option(min=-SEEDS, max=SEEDS, help="of the sample")] = 0,
    table: o.Table = None,
    role: o.Roles = None,
    option: o.Details = None,
    field: m.Fields = None,
    case: m.CaseOption = None,
    width: m.Width = None,
    labels: m.Labels = None,
    encoding: m.Encoding = None,
    as_json: o.Json = False,
) -> None:
    """Label every row of one or several sources; results and production tables go to the target."""
    from audience.app.requests import RunRequest, TaskRequest
    from audience.app.types import GroupMap, load_groups, load_panels, parse_bound

    app = o.open_app()
    fields = tuple(field.split(",")) if field else None
    how = {"fields": fields, "case": case, "width": width, "labels": labels, "encoding": encoding}
    chosen = [_saved(app, item, **how) for item in rules or []]
    if not chosen and not model:
        raise BadInput("nothing to label with: give --rules FILE, or --model NAME")
    first, last = parse_bound(start, "--from"), parse_bound(end, "--to")
    references: list[str | None] = [*source] if source else [None]
    sources = [o.source_request(reference, table, role, option) for reference in references]
    request = RunRequest(
        tasks=tuple(TaskRequest(source=each, start=first, end=last) for each in sources),
        models=(*chosen, *(model or ())),
        target=target,
        groups=load_groups(groups, default_group, encoding) if groups else GroupMap.checked({}, default_group),
        conflict_groups=load_panels(panels, encoding) if panels else None,
        first_wins=first_wins,
        seed=seed,
        production=make_production,
        production_delay_s=production_delay,
        bad_rows_limit=bad_rows,
        priority=priority,
        queue=queue,
        attended=not detach,
    )
    made = app.runs.create(request, LOCAL)
    for warning in made["warnings"]:
        show.warning(warning)
    finish(app, made["id"], detach=detach, as_json=as_json, warned=made["warnings"])


def finish(app: "App", run_id: str, *, detach: bool, as_json: bool, warned: Sequence[str] = ()) -> None:
    """Works on a run until it has ended, unless it is left to others, and prints it, with the warnings that were not
    printed yet; exits with status 1 if it is not done."""
    run = app.runs.get(run_id) if detach else carry_out(app, run_id, hidden=as_json)
    show.as_json(run) if as_json else report(app, run)
    _warn(run, warned)
    if not detach and run["state"] != "done":
        raise typer.Exit(1)


def _saved(app: "App", item: str, **given: Any) -> str:
    """Saves rules from a file as a model named after the file; returns its reference."""
    field, path = o.rules_argument(item)
    if field:
        given["fields"] = (field,)
    saved, warnings = app.models.add(path.stem.replace(" ", "_"), path, LOCAL, **given)
    for warning in warnings:
        show.warning(warning)
    return saved


def carry_out(app: "App", run_id: str, *, hidden: bool = False) -> dict[str, Any]:
    """Works on a run behind progress bars until it has ended, and returns it. Ctrl-C aborts it."""
    names = [task["spec"]["name"] for task in app.runs.get(run_id)["tasks"]]
    with show.Bars(names, hidden=hidden) as bars, told_of_ctrl_c() as pressed:

        def watch() -> None:
            if pressed.is_set():
                pressed.clear()
                bars.note("stopping; what is finished is kept")
                with contextlib.suppress(Conflict):  # it ended by itself just now
                    app.runs.abort(run_id, LOCAL)
            with contextlib.suppress(NotFound):  # somebody deletes it
                run = app.runs.get(run_id)
                bars.update(run)
                reasons = [run["waiting_for"], *(task["progress"]["waiting_for"] for task in run["tasks"])]
                bars.say(next(filter(None, reasons), None))

        app.operations.work_on(run_id, watch)
    return app.runs.get(run_id)


def _warn(run: dict[str, Any], warned: Sequence[str] = ()) -> None:
    for warning in run["warnings"]:
        if warning not in warned:
            show.warning(warning)


def report(app: "App", run: dict[str, Any]) -> None:
    """Prints what a run did, and where its tables are."""
    show.run_report(run, app.results.where(run))


@commands.command("list")
def list_(
    state: Annotated[list[o.State] | None, typer.Option(help="only runs in this state; may be repeated")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many, newest first")] = 50,
    as_json: o.Json = False,
) -> None:
    """List the runs, newest first."""
    runs = o.open_app().runs.page(limit, [each.value for each in state or ()])
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
    found = app.runs.get(run)
    if as_json:
        show.as_json(found)
        return
    report(app, found)
    _warn(found)


@commands.command()
def abort(run: Run, detach: Detach = False, as_json: o.Json = False) -> None:
    """Stop a run, whoever works on it. Finished partitions are kept; `resume` goes on from there."""
    app = o.open_app()
    run_id = app.runs.abort(run, LOCAL)
    if not detach:
        app.operations.work_on(run_id)
    found = app.runs.get(run_id)
    show.as_json(found) if as_json else report(app, found)
    if detach:
        _warn(found)


@commands.command()
def resume(run: Run, detach: Detach = False, as_json: o.Json = False) -> None:
    """Go on with a run that failed, was aborted, or lost its worker."""
    app = o.open_app()
    run_id = app.runs.find(run)
    if app.runs.get(run_id)["state"] not in ("planned", "running", "producing", "aborting"):
        app.runs.resume(run_id, LOCAL)
    finish(app, run_id, detach=detach, as_json=as_json)


@commands.command()
def delete(
    run: Run,
    detach: Detach = False,
    forget: Annotated[bool, typer.Option("--forget", help="also when its target is gone for good")] = False,
) -> None:
    """Delete a run with its results and production rows."""
    app = o.open_app()
    run_id = app.runs.delete(run, LOCAL, forget=forget)
    if detach:
        _warn(app.runs.get(run_id))
    waiting_for: list[str] = []

    def stuck() -> bool:
        with contextlib.suppress(NotFound):  # it is deleted
            waiting_for.extend(filter(None, [app.runs.get(run_id)["waiting_for"]]))
        return bool(waiting_for)

    if not detach:
        app.operations.work_on(run_id, None if forget else stuck)
    name = run_id[:12]
    if waiting_for:
        console.print(f"run {name} is being deleted; its rows wait: {waiting_for[0]}", soft_wrap=True)
        console.print("workers of `audience up` go on trying; so does this command, when it is given again")
    elif detach:
        console.print(f"deleting run {name}")
    elif forget:
        console.print(f"forgot run {name}; rows of it in a target that could not be reached stay there")
    else:
        console.print(f"deleted run {name} and all its rows")


@commands.command("set-aside")
def set_aside(run: Run = "last", limit: Annotated[int, typer.Option(min=1)] = 100, as_json: o.Json = False) -> None:
    """List rows that could not be used, with the reason."""
    found = list(itertools.islice(o.open_app().results.set_aside(run), limit))
    if as_json:
        show.as_json(found)
    else:
        show.table("", ("task", "row", "reason"), [(r["task"], r["id"], r["reason"]) for r in found])


def sample(
    run: Run = "last",
    size: Annotated[int, typer.Option("--size", "-n", min=1, max=20, help="rows a group and label")] = 3,
    seed: Annotated[
        int | None, typer.Option(min=-SEEDS, max=SEEDS, help="another sample; by default that of the run")
    ] = None,
    group: Annotated[str | None, typer.Option(help="of this group only")] = None,
    label: Annotated[str | None, typer.Option(help="of this label or panel only")] = None,
    as_json: o.Json = False,
) -> None:
    """Show sampled results with the matched text marked; the same ones for the same seed."""
    rows = o.open_app().results.sample(run, size, seed, group, label)
    if as_json:
        show.as_json(rows)
    elif rows:
        show.sample(rows)
    else:
        console.print("no results to sample")


def production(
    run: Run = "last",
    partial: Annotated[
        bool, typer.Option("--partial", help="also of a run that failed or was aborted, of what is finished")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Make the production tables of a run once more; the same rows come out."""
    app = o.open_app()
    run_id = app.runs.produce(run, LOCAL, partial=partial)
    app.operations.work_on(run_id)
    found = app.runs.get(run_id)
    show.as_json(found) if as_json else report(app, found)
    if found["error"]:
        raise typer.Exit(1)


def export(
    run: Run = "last",
    to: Annotated[
        Path | None, typer.Option(help="file to write: .csv (safe for spreadsheets), .jsonl or .parquet")
    ] = None,
    of_production: Annotated[bool, typer.Option("--production", help="production rows instead of results")] = False,
    group: Annotated[str | None, typer.Option(help="of this group only")] = None,
    comparable: Annotated[
        bool,
        typer.Option("--comparable", "--sort", help="without ids of the run: two runs compare byte for byte"),
    ] = False,
) -> None:
    """Write all results or production rows of a run: to a file, or as JSON lines to standard output."""
    from audience.app.requests import ExportRequest

    app = o.open_app()
    of: Literal["results", "production"] = "production" if of_production else "results"
    request = ExportRequest(run=run, of=of, group=group, comparable=comparable)
    written(app, request, to)
