"""`/v1/sources`: saved sources."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse

from audience.api.bodies.operations import OperationCreated
from audience.api.bodies.sources import Created, DescriptionView, NewSource, SourceBody, SourceList, SourceView
from audience.api.context import LATER, Actor, Audience, Key, Name, created, key_of
from audience.api.errors import answers
from audience.api.operations import begun
from audience.app.requests import SourceRequest

router = APIRouter(prefix="/v1/sources", tags=["sources"])


def requested(body: SourceBody) -> SourceRequest:
    """Returns the source that a body describes; its files must lie where HTTP may read them."""
    return SourceRequest(location=body.url, options=body.options(), confined=True)


@router.post("", status_code=201, response_model=Created, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewSource, key: Key = None) -> JSONResponse:
    """Save a source, after looking at what is there."""
    made = app.sources.add(body.name, requested(body), actor, key_of(key, "/v1/sources", body))
    made = {name: made[name] for name in ("name", "created_at")}
    return created(made, f"/v1/sources/{quote(made['name'])}", 201)


@router.get("")
def list_(app: Audience) -> SourceList:
    """List the saved sources, by name."""
    return SourceList(items=[SourceView.of(record) for record in app.sources.all()])


@router.get("/{name}", responses=answers(404))
def show(app: Audience, name: Name) -> SourceView:
    """Show a saved source."""
    return SourceView.of(app.sources.get(name))


@router.post(
    "/{name}/test",
    response_model=DescriptionView,
    responses={202: {"model": OperationCreated, "description": "it goes on in the background"}, **answers(404, 409)},
)
def describe(
    app: Audience,
    actor: Actor,
    name: Name,
    prefer: Annotated[str | None, Header(max_length=200, description="respond-async: do not wait for it")] = None,
) -> Response:
    """Look at what a source holds: columns, rows, time span, index, first rows. What takes longer goes on in the
    background, as an operation that can be cancelled."""
    operation_id = app.sources.begin_test(SourceRequest(saved=name), actor)
    if LATER in (prefer or "") or not app.operations.ends_soon(operation_id):
        return begun(app, operation_id)
    result = app.operations.check_done(operation_id)["result"]
    return JSONResponse(DescriptionView.model_validate(result).model_dump(mode="json"))


@router.delete("/{name}", status_code=204, responses=answers(404))
def delete(app: Audience, actor: Actor, name: Name) -> Response:
    """Forget a saved source; its data and the runs that used it stay as they are."""
    app.sources.remove(name, actor)
    return Response(status_code=204)
