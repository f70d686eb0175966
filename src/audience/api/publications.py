"""`/v1/publications`: production of done runs, merged with what was published before."""

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from audience.api.bodies.operations import OperationCreated
from audience.api.bodies.publications import (
    NewPublication,
    PublicationCreated,
    PublicationExportBody,
    PublicationList,
    PublicationSummary,
    PublicationView,
    PublishBody,
)
from audience.api.context import Actor, Audience, Key, Name, created, key_of
from audience.api.errors import answers
from audience.api.files import FILE, MEDIA_TYPES, started
from audience.api.operations import begun
from audience.app.requests import ExportRequest, PublicationRequest, PublishRequest

router = APIRouter(prefix="/v1/publications", tags=["publications"])


@router.post("", status_code=201, response_model=PublicationCreated, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewPublication, key: Key = None) -> JSONResponse:
    """Say where a publication is kept. Nothing is published yet."""
    request = PublicationRequest(**body.model_dump(), confined=True)
    made = app.publications.add(request, actor, key_of(key, "/v1/publications", body))
    return created(made, f"/v1/publications/{quote(made['name'])}", 201)


@router.get("")
def list_(app: Audience) -> PublicationList:
    """List the publications."""
    return PublicationList(items=[PublicationSummary.of(record) for record in app.publications.all()])


@router.get("/{name}", responses=answers(404, 409))
def show(app: Audience, name: Name) -> PublicationView:
    """Show a publication: what is under way, the last preview, and its versions with what each changed."""
    return PublicationView.of(app.publications.get(name))


@router.post("/{name}/preview", status_code=202, response_model=OperationCreated, responses=answers(404, 409))
def preview(app: Audience, actor: Actor, name: Name, body: PublishBody) -> JSONResponse:
    """Find out what publishing these runs would change. The answer is the operation's result, and `preview` of the
    publication."""
    return begun(app, app.publications.publish(name, PublishRequest(**body.model_dump(), preview=True), actor))


@router.post("/{name}/publish", status_code=202, response_model=OperationCreated, responses=answers(404, 409))
def publish(app: Audience, actor: Actor, name: Name, body: PublishBody) -> JSONResponse:
    """Merge the production of done runs with what is published, and swap it in when it is whole."""
    return begun(app, app.publications.publish(name, PublishRequest(**body.model_dump()), actor))


@router.post("/{name}/rollback", status_code=202, response_model=OperationCreated, responses=answers(404, 409))
def rollback(app: Audience, actor: Actor, name: Name) -> JSONResponse:
    """Bring the previous version back; once more undoes it."""
    return begun(app, app.publications.roll_back(name, actor))


@router.delete("/{name}", status_code=202, response_model=OperationCreated, responses=answers(404, 409))
def delete(
    app: Audience,
    actor: Actor,
    name: Name,
    forget: Annotated[bool, Query(description="also when its target is gone for good")] = False,
) -> JSONResponse:
    """Delete a publication with its tables, the present and the previous ones."""
    return begun(app, app.publications.delete(name, actor, forget=forget))


@router.get("/{name}/export", response_class=Response, responses={**FILE, **answers(404, 409)})
def export(
    app: Audience,
    name: Name,
    layout: Annotated[Literal["csv", "jsonl", "parquet"], Query(alias="format")] = "jsonl",
    index: Annotated[str | None, Query(max_length=40, description="of this index only")] = None,
) -> StreamingResponse:
    """Fetch all published rows, as a file."""
    pieces = app.exports.pieces(ExportRequest(publication=name, index=index, layout=layout))
    headers = {"Content-Disposition": f'attachment; filename="published.{layout}"'}
    return StreamingResponse(started(pieces), media_type=MEDIA_TYPES[layout], headers=headers)


@router.post("/{name}/exports", status_code=202, response_model=OperationCreated, responses=answers(404, 409))
def export_later(app: Audience, actor: Actor, name: Name, body: PublicationExportBody) -> JSONResponse:
    """Make a file of all published rows in the background; it is fetched from the operation when it is done."""
    return begun(app, app.exports.begin(ExportRequest(publication=name, index=body.index, layout=body.format), actor))
