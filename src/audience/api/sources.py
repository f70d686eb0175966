"""`/v1/sources`: saved sources."""

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from audience.api.bodies.sources import Created, DescriptionView, NewSource, SourceBody, SourceList, SourceView
from audience.api.context import Actor, Audience, Key, Name, create_once
from audience.api.errors import answers
from audience.api.files import confined
from audience.app import App
from audience.store.database import Record
from audience.tables.base import SourceSpec

router = APIRouter(prefix="/v1/sources", tags=["sources"])


def spec_of(app: App, body: SourceBody) -> SourceSpec:
    """A source as a request describes it; files only where they may be read."""
    roots = app.settings.resolved_files_roots
    url = confined(body.url, roots, "source") if body.url else app.locations.default_source()
    return app.sources.new(url, within=tuple(map(str, roots)), **body.options())


@router.post("", status_code=201, response_model=Created, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewSource, key: Key = None) -> JSONResponse:
    """Save a source, after looking at what is there."""

    def answer(row: Record) -> Record:
        return {"name": row["name"], "href": f"/v1/sources/{quote(row['name'])}", "created_at": row["created_at"]}

    def save(once: Any) -> None:
        app.sources.add(body.name, spec_of(app, body), actor, once)

    return create_once(app, key, {"POST": "/v1/sources", **body.model_dump(mode="json")}, save, answer, 201)


@router.get("")
def list_(app: Audience) -> SourceList:
    """List the saved sources, by name."""
    return SourceList(items=[SourceView.of(record) for record in app.sources.all()])


@router.get("/{name}", responses=answers(404))
def show(app: Audience, name: Name) -> SourceView:
    """Show a saved source."""
    return SourceView.of(app.store.sources.get(name))


@router.post("/{name}/test", responses=answers(404))
def test(app: Audience, name: Name) -> DescriptionView:
    """Look at what a source holds: columns, rows, time span, index, first rows."""
    spec = SourceSpec.model_validate(app.store.sources.get(name)["spec"])
    return DescriptionView.model_validate(asdict(app.locations.source(spec).describe()))


@router.delete("/{name}", status_code=204, responses=answers(404))
def delete(app: Audience, actor: Actor, name: Name) -> Response:
    """Forget a saved source; its data and the runs that used it stay as they are."""
    app.sources.remove(name, actor)
    return Response(status_code=204)
