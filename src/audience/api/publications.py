"""`/v1/publications`: production of done runs, merged with what was published before."""

import logging
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, BackgroundTasks, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from audience.api.bodies.publications import (
    NewPublication,
    PublicationCreated,
    PublicationList,
    PublicationSummary,
    PublicationView,
    PublishBody,
)
from audience.api.context import Actor, Audience, Key, Name, create_once
from audience.api.errors import answers
from audience.api.files import confined
from audience.api.runs import FILE, MEDIA_TYPES, started
from audience.app import App
from audience.errors import AudienceError
from audience.labeling.export import encoded
from audience.labeling.publish import PublicationSpec
from audience.store.database import Record

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/publications", tags=["publications"])


@router.post("", status_code=201, response_model=PublicationCreated, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewPublication, key: Key = None) -> JSONResponse:
    """Say where a publication is kept. Nothing is published yet."""

    def answer(row: Record) -> Record:
        href = f"/v1/publications/{quote(row['name'])}"
        return {"name": row["name"], "created_at": row["created_at"], "href": href}

    def save(once: Any) -> None:
        roots = app.settings.resolved_files_roots
        panels = _conflicts(app, body.conflict_groups)
        spec = PublicationSpec(
            target=confined(body.target, roots, "target")
            if body.target
            else app.locations.default_publication_target(),
            target_within=tuple(map(str, roots)),
            indexes=body.indexes,
            conflicts=panels,
        )
        app.publications.add(body.name, spec, actor, once)

    return create_once(app, key, {"POST": "/v1/publications", **body.model_dump(mode="json")}, save, answer, 201)


def _conflicts(app: App, given: str | dict[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]] | None:
    return app.mappings.conflict_groups(given).conflicts if isinstance(given, str) else given


@router.get("")
def list_(app: Audience) -> PublicationList:
    """List the publications."""
    return PublicationList(items=[PublicationSummary.of(record) for record in app.publications.all()])


@router.get("/{name}", responses=answers(404, 409))
def show(app: Audience, name: Name) -> PublicationView:
    """Show a publication: what is under way, the last preview, and its versions with what each changed."""
    return PublicationView.of(app.publications.get(name))


@router.post("/{name}/preview", status_code=202, responses=answers(404, 409))
def preview(app: Audience, actor: Actor, name: Name, body: PublishBody, after: BackgroundTasks) -> PublicationSummary:
    """Find out what publishing these runs would change. The answer is `preview` of the publication."""
    return _begun(app, after, _begin(app, actor, name, body, preview=True))


@router.post("/{name}/publish", status_code=202, responses=answers(404, 409))
def publish(app: Audience, actor: Actor, name: Name, body: PublishBody, after: BackgroundTasks) -> PublicationSummary:
    """Merge the production of done runs with what is published, and swap it in when it is whole."""
    return _begun(app, after, _begin(app, actor, name, body, preview=False))


@router.post("/{name}/resume", status_code=202, responses=answers(404, 409))
def resume(app: Audience, actor: Actor, name: Name, after: BackgroundTasks) -> PublicationSummary:
    """Go on with what is under way, in the place of a process that died."""
    return _begun(app, after, app.publications.resume(name, actor))


def _begin(app: App, actor: str, name: str, body: PublishBody, *, preview: bool) -> Record:
    conflicts = _conflicts(app, body.conflict_groups)
    asked: dict[str, Any] = {"indexes": body.indexes, "conflicts": conflicts, "replace": body.replace}
    return app.publications.begin(name, body.runs, actor, **asked, base=body.base, preview=preview)


def _begun(app: App, after: BackgroundTasks, begun: Record) -> PublicationSummary:
    """It is carried out after the reply. Where this process dies, it can be gone on with."""
    after.add_task(_carry_out, app, begun)
    return PublicationSummary.of(begun)


def _carry_out(app: App, begun: Record) -> None:
    try:
        app.publications.carry_out(begun)
    except AudienceError as error:  # it is in the record too
        log.warning("action=publishing_failed name=%s reason=%s", begun["name"], error)
    except Exception:
        log.exception("action=publishing_crashed name=%s", begun["name"])


@router.post("/{name}/rollback", responses=answers(404, 409))
def rollback(app: Audience, actor: Actor, name: Name) -> PublicationView:
    """Bring the former version back; once more undoes it."""
    app.publications.roll_back(name, actor)
    return PublicationView.of(app.publications.get(name))


@router.delete("/{name}", status_code=204, responses=answers(404, 409))
def delete(
    app: Audience,
    actor: Actor,
    name: Name,
    forget: Annotated[bool, Query(description="also when its target is gone for good")] = False,
) -> Response:
    """Delete a publication with its tables, the present and the former ones."""
    app.publications.delete(name, actor, forget=forget)
    return Response(status_code=204)


@router.get("/{name}/export", response_class=Response, responses={**FILE, **answers(404, 409)})
def export(
    app: Audience,
    name: Name,
    layout: Annotated[Literal["csv", "jsonl", "parquet"], Query(alias="format")] = "jsonl",
    index: Annotated[str | None, Query(max_length=40, description="of this index only")] = None,
) -> StreamingResponse:
    """All published rows, as a file."""
    rows = app.publications.exported(name, index)
    headers = {"Content-Disposition": f'attachment; filename="published.{layout}"'}
    return StreamingResponse(started(encoded(rows, layout)), media_type=MEDIA_TYPES[layout], headers=headers)
