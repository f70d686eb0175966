"""`audience publish` and `audience publication ...`: production of done runs, merged with what was published before."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from audience.app.actors import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.operations import carried_out, finished, written
from audience.cli.show import console
from audience.errors import AudienceError, BadInput, NotFound

if TYPE_CHECKING:
    from audience.app.requests import PublishRequest
    from audience.app.root import App

commands = typer.Typer(help="Publications: what is published, since when, and from which runs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="name of the publication")]


def publish(
    name: Name,
    run: Annotated[list[str], typer.Option(help="a done run; may be repeated, the one made last wins")],
    target: Annotated[
        str | None,
        typer.Option(help="where a new publication is kept: SQLite file, folder or URL; else as the settings say"),
    ] = None,
    index: Annotated[list[str] | None, typer.Option(help="groups published as one: INDEX=GROUP,GROUP")] = None,
    conflict_groups: Annotated[Path | None, typer.Option(help="JSON as for --panels; else those of the runs")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="drop what was published before")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="only show what would change")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="publish without asking")] = False,
    as_json: o.Json = False,
) -> None:
    """Merge the production of runs with what is published, show what changes, and swap it in."""
    from audience.app.requests import PublishRequest
    from audience.app.types import load_panels

    app = o.open_app()
    asks = not (yes or preview)
    if asks and (as_json or not sys.stdin.isatty()):
        raise BadInput("nobody is there to be asked: give --yes to publish, or --preview to see what would change")
    conflicts = load_panels(conflict_groups).conflicts if conflict_groups else None
    request = PublishRequest(
        runs=tuple(run), replace=replace, indexes=o.index_options(index), conflict_groups=conflicts, preview=not yes
    )
    version, is_new = _present_version(app, name, target, request)
    try:
        begun = app.publications.publish(name, request, LOCAL)
    except AudienceError:
        if is_new:
            _forget(app, name)
        raise
    changes = finished(app, begun, hidden=as_json)["result"]
    if asks or preview:
        _show(app, name, changes, as_json=as_json and preview)
    if preview or (asks and not typer.confirm("publish this?")):
        return
    if asks:
        begun = app.publications.publish(name, request.model_copy(update={"preview": False, "base": version}), LOCAL)
        finished(app, begun, hidden=as_json)
    _report(app, name, None if asks else changes, as_json=as_json)


def _forget(app: "App", name: str) -> None:
    """Deletes a new publication when nothing could begin with it, so that the next attempt may make it anew. One that
    somebody else has begun with meanwhile stays."""
    with contextlib.suppress(AudienceError):
        record = app.publications.get(name)
        if record["doing"] is None and not record["numbered"]:
            finished(app, app.publications.delete(name, LOCAL, forget=True), hidden=True)


def _present_version(app: "App", name: str, target: str | None, request: "PublishRequest") -> tuple[int, bool]:
    """Returns (version, whether it is new) of a publication. Makes it when there is none, or only one that never had a
    version."""
    try:
        record = app.publications.get(name)
    except NotFound:
        _add(app, name, target, request)
        return 0, True
    if target is not None and not app.publications.is_target(record["spec"]["target"], target):
        if record["version"]:
            raise BadInput(
                f"{name!r} is kept in {record['spec']['target']}: leave --target out, or choose another name"
            )
        finished(app, app.publications.delete(name, LOCAL, forget=True), hidden=True)
        _add(app, name, target, request)
        return 0, True
    return int(record["version"]), False


def _add(app: "App", name: str, target: str | None, request: "PublishRequest") -> None:
    from audience.app.requests import PublicationRequest

    made = PublicationRequest(
        name=name, target=target, indexes=request.indexes or {}, conflict_groups=request.conflict_groups
    )
    app.publications.add(made, LOCAL)


def _show(app: "App", name: str, changes: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show.as_json(changes)
        return
    columns = ("index", "panel", "added", "changed", "kept", "dropped")
    show.table("", columns, [[change[column] for column in columns] for change in changes])


def _report(app: "App", name: str, changes: list[dict[str, Any]] | None, *, as_json: bool) -> None:
    """Prints what is published now, and where it is."""
    found = app.publications.get(name)
    if as_json:
        show.as_json({**_plain(found), "changes": changes})
        return
    if changes is not None:
        _show(app, name, changes, as_json=False)
    console.print(f"[bold]{escape(name)}[/]  version {found['version']}")
    for index, where in found["where"].items():
        console.print(f"  {index}  {escape(where)}", soft_wrap=True)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a publication without its sealed password."""
    spec = {key: value for key, value in found["spec"].items() if key != "target_secret"}
    return {**found, "spec": spec}


@commands.command("list")
def list_(as_json: o.Json = False) -> None:
    """List the publications."""
    found = o.open_app().publications.all()
    if as_json:
        show.as_json([_plain(record) for record in found])
        return
    rows = [
        (r["name"], "busy" if r["doing"] else "idle", r["version"] or None, r["previous"] or None, r["spec"]["target"])
        for r in found
    ]
    show.table("", ("publication", "state", "version", "previous", "target"), rows)


@commands.command("show")
def show_(name: Name, as_json: o.Json = False) -> None:
    """Show a publication: its indexes, and its versions with what each changed."""
    from audience.app.types import under_way

    found = o.open_app().publications.get(name)
    if as_json:
        show.as_json(_plain(found))
        return
    console.print(
        f"[bold]{escape(name)}[/]  {'busy' if found['doing'] else 'idle'}  {escape(found['spec']['target'])}",
        soft_wrap=True,
    )
    if found["doing"]:
        doing = found["operation_id"][:12]
        console.print(f"{escape(under_way(found))}; to go on with it here: audience operation wait {doing}")
    if found["error"]:
        console.print(f"[red]{escape(found['error'])}[/]", soft_wrap=True)
    for index, where in found["where"].items():
        console.print(f"  {index}  {escape(where)}", soft_wrap=True)
    columns = ("version", "", "published", "by", "runs", "added", "changed", "kept", "dropped")
    show.table("", columns, [_version(found, version) for version in found["versions"]])


def _version(found: dict[str, Any], version: dict[str, Any]) -> list[Any]:
    number = version["version"]
    standing = "published" if number == found["version"] else "previous" if number == found["previous"] else ""
    runs = ", ".join(run[:12] for run in version["request"]["runs"])
    fates = ("added", "changed", "kept", "dropped")
    counts = [sum(change[fate] for change in version["changes"]) for fate in fates]
    return [number, standing, version["created_at"][:19], version["created_by"], runs, *counts]


@commands.command()
def rollback(name: Name, as_json: o.Json = False) -> None:
    """Bring the previous version back; once more undoes it."""
    app = o.open_app()
    finished(app, app.publications.roll_back(name, LOCAL), hidden=as_json)
    _report(app, name, None, as_json=as_json)


@commands.command()
def export(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="file to write: .csv, .jsonl or .parquet")] = None,
    index: Annotated[str | None, typer.Option(help="of this index only")] = None,
) -> None:
    """Write all published rows: to a file, or as JSON lines to standard output."""
    from audience.app.requests import ExportRequest

    written(o.open_app(), ExportRequest(publication=name, index=index), to)


@commands.command()
def delete(
    name: Name,
    forget: Annotated[bool, typer.Option("--forget", help="also when its target is gone for good")] = False,
) -> None:
    """Delete a publication with its tables, the present and the previous ones."""
    app = o.open_app()
    carried_out(app, app.publications.delete(name, LOCAL, forget=forget))
    console.print(f"deleted {name}")
