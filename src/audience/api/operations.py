"""`/v1/operations`: whatever goes on in the background, of every kind: list, show, watch, cancel, fetch."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse

from audience.api.bodies.operations import Kind, OperationList, OperationSummary, OperationView
from audience.api.bodies.runs import State
from audience.api.context import Actor, Audience, Cursor, Limit, created, following, place_after
from audience.api.errors import answers
from audience.api.events import HEADERS, STREAM, Watched, stream
from audience.api.files import FILE, MEDIA_TYPES, started
from audience.app.root import App
from audience.app.types import FINAL, Record

router = APIRouter(prefix="/v1/operations", tags=["operations"])

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="the whole id of an operation")]


@router.get("")
def list_(
    app: Audience,
    kind: Annotated[list[Kind] | None, Query(description="only operations of these kinds")] = None,
    state: Annotated[list[State] | None, Query(description="only operations in these states")] = None,
    created_by: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> OperationList:
    """List operations, newest first."""
    found = app.operations.page(limit + 1, kind or (), state or (), created_by, place_after(cursor))
    items = [OperationSummary.of(record) for record in found[:limit]]
    return OperationList(items=items, next_cursor=following(found, limit))


@router.get("/{operation_id}", responses=answers(404))
def show(app: Audience, operation_id: Id) -> OperationView:
    """Show an operation: how far it is, what stands in its way, what came of it."""
    return OperationView.of(app.operations.get(operation_id))


@router.post("/{operation_id}/cancel", status_code=202, responses=answers(404, 409))
def cancel(app: Audience, actor: Actor, operation_id: Id) -> OperationView:
    """Stop an operation, whoever works on it."""
    return OperationView.of(app.operations.get(app.operations.cancel(operation_id, actor)))


@router.get("/{operation_id}/events", response_class=Response, responses={**STREAM, **answers(404)})
def events(
    request: Request,
    app: Audience,
    operation_id: Id,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, description="the last event received")] = None,
) -> Response:
    """Watch an operation. `moved`: it changed its state; `progress`: the operation as it stands."""
    found = app.operations.get(operation_id)
    watched = Watched(
        app,
        operation_id,
        [operation_id],
        lambda: app.operations.get(operation_id),
        lambda record: OperationView.of(record).model_dump_json(),
        last_event_id or 0,
        request.app.state.stopping,
    )
    if last_event_id is not None and found["state"] in FINAL and not watched.moves():
        return Response(status_code=204)
    return EventSourceResponse(stream(watched), headers=HEADERS)


@router.get("/{operation_id}/file", response_class=Response, responses={**FILE, **answers(404, 409)})
def file(app: Audience, operation_id: Id) -> StreamingResponse:
    """Fetch the file that an export has made. It is kept for a week."""
    layout, pieces = app.operations.fetch(operation_id)
    headers = {"Content-Disposition": f'attachment; filename="export-{operation_id[:12]}.{layout}"'}
    return StreamingResponse(started(pieces), media_type=MEDIA_TYPES[layout], headers=headers)


def begun(app: App, operation_id: str) -> JSONResponse:
    """Returns the reply to a request that has begun an operation."""
    made: Record = {"id": operation_id, "warnings": app.operations.get(operation_id)["warnings"]}
    return created(made, f"/v1/operations/{operation_id}", 202)
