"""`audience operation ...`: whatever somebody waits for and may stop; and how commands wait for an operation."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audience.app.actors import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.show import console
from audience.errors import Conflict, NotFound
from audience.process import told_of_ctrl_c

if TYPE_CHECKING:
    from audience.app.requests import ExportRequest
    from audience.app.root import App

commands = typer.Typer(
    help="Operations: runs, publications, exports, source tests, and whatever else goes on in the background.",
    no_args_is_help=True,
)

Operation = Annotated[str, typer.Argument(help="id of an operation, the beginning of one, or `last`")]


@commands.command("list")
def list_(
    kind: Annotated[list[o.Kind] | None, typer.Option(help="only of this kind; may be repeated")] = None,
    state: Annotated[list[o.State] | None, typer.Option(help="only in this state; may be repeated")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many, newest first")] = 50,
    as_json: o.Json = False,
) -> None:
    """List the operations, newest first."""
    found = o.open_app().operations.page(
        limit, [each.value for each in kind or ()], [each.value for each in state or ()]
    )
    if as_json:
        show.as_json(found)
        return
    rows = [(r["id"][:12], r["kind"], r["subject"], r["state"], r["created_by"], r["created_at"][:19]) for r in found]
    show.table("", ("operation", "kind", "about", "state", "by", "at"), rows)


@commands.command("show")
def show_(operation: Operation, as_json: o.Json = False) -> None:
    """Show an operation: how far it is, what stands in its way, what came of it."""
    found = o.open_app().operations.get(operation)
    show.as_json(found) if as_json else show.operation(found)


@commands.command()
def cancel(operation: Operation) -> None:
    """Stop an operation, whoever works on it."""
    app = o.open_app()
    operation_id = app.operations.cancel(operation, LOCAL)
    app.operations.work_on(
        operation_id, lambda: app.operations.get(operation_id)["progress"]["waiting_for"] is not None
    )
    show.operation(app.operations.get(operation_id))


@commands.command()
def wait(operation: Operation, as_json: o.Json = False) -> None:
    """Wait for an operation, and work on it here too until it has ended."""
    app = o.open_app()
    operation_id = app.operations.find(operation)
    carried_out(app, operation_id, hidden=as_json)
    found = app.operations.get(operation_id)
    show.as_json(found) if as_json else show.operation(found)
    if found["state"] != "done":
        raise typer.Exit(1)


def carried_out(app: "App", operation_id: str, *, hidden: bool = False) -> bool:
    """Works on an operation behind a progress bar until it has ended; returns whether Ctrl-C has cancelled it."""
    found = app.operations.get(operation_id)
    name, stopped = f"{found['kind'].replace('_', ' ')} {found['subject'] or ''}".strip(), False
    with show.Bars([name], hidden=hidden) as bars, told_of_ctrl_c() as pressed:

        def watch() -> None:
            nonlocal stopped
            if pressed.is_set():
                pressed.clear()
                stopped = True
                bars.note("stopping")
                with contextlib.suppress(Conflict):  # it ended by itself just now
                    app.operations.cancel(operation_id, LOCAL)
            with contextlib.suppress(NotFound):  # what it was about was deleted, and it too
                progress = app.operations.get(operation_id)["progress"]
                bars.show(progress)
                bars.say(progress["waiting_for"])

        app.operations.work_on(operation_id, watch)
    return stopped


def finished(app: "App", operation_id: str, *, hidden: bool = False) -> dict[str, Any]:
    """Works on an operation until it is done, and returns it with its result. Raises Conflict when it failed or
    somebody else stopped it; KeyboardInterrupt when Ctrl-C did."""
    if carried_out(app, operation_id, hidden=hidden) and app.operations.get(operation_id)["state"] != "done":
        raise KeyboardInterrupt
    return app.operations.check_done(operation_id)


def written(app: "App", request: "ExportRequest", to: Path | None) -> None:
    """Writes rows to a file, or as JSON lines to standard output."""
    if to is None:
        for piece in app.exports.pieces(request):
            sys.stdout.buffer.write(piece)
        return
    operation_id = app.exports.begin(request.model_copy(update={"to": str(to.absolute())}), LOCAL)
    result = finished(app, operation_id)["result"]
    console.print(f"{result['rows']:,} rows in {to}")
