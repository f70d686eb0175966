"""`/v1/models`: models, saved as immutable versions, and the aliases that lead to them."""

import re
from dataclasses import asdict
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime

from audience.api.bodies.models import (
    AliasHistory,
    AliasList,
    AliasView,
    ModelCreated,
    ModelList,
    ModelSummary,
    ModelView,
    NewAlias,
    NewModel,
    Rename,
    Texts,
    Tried,
)
from audience.api.bodies.operations import OperationCreated
from audience.api.context import LATER, Actor, Audience, Cursor, Key, Limit, Name, created, cursor_of, key_of, page
from audience.api.errors import answers
from audience.api.operations import begun
from audience.errors import BadInput

router = APIRouter(prefix="/v1/models", tags=["models"])

NAME = r"\w[\w.\-]{0,99}"
Reference = Annotated[
    str,
    Path(pattern=rf"^{NAME}(@{NAME})?$", description="name: the newest version; or name@version, name@alias"),
]
Alias = Annotated[str, Path(pattern=rf"^{NAME}$", description="such as champion")]


@router.post(
    "",
    status_code=201,
    response_model=ModelCreated,
    responses={202: {"model": OperationCreated, "description": "it goes on in the background"}, **answers(404, 409)},
)
def create(
    app: Audience,
    actor: Actor,
    body: NewModel,
    key: Key = None,
    prefer: Annotated[str | None, Header(max_length=200, description="respond-async: do not wait for it")] = None,
) -> JSONResponse:
    """Check a model and save it as a new version; the same rules again are the same version. A large set that takes
    longer goes on in the background, as an operation that can be cancelled."""
    once = key_of(key, "/v1/models", body)
    if LATER not in (prefer or "") and not body.is_large():
        made = app.models.create(body.request(), actor, once)
    else:
        operation_id = app.models.begin_create(body.request(), actor, once)
        if LATER in (prefer or "") or not app.operations.ends_soon(operation_id):
            return begun(app, operation_id)
        if (ended := app.operations.get(operation_id))["state"] == "failed":
            raise BadInput(ended["error"])
        made = app.operations.check_done(operation_id)["result"]
    return created(made, f"/v1/models/{quote(made['model'], safe='@')}", 201)


@router.get("")
def list_(
    app: Audience,
    name: Annotated[str | None, Query(max_length=100, description="only names that begin so")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ModelList:
    """List the saved models by name, every version."""
    found = app.models.page(limit + 1, name, _place(cursor))
    last = found[limit - 1] if len(found) > limit else None
    following = cursor_of(quote(last["name"]), str(last["version"])) if last else None
    return ModelList(items=[ModelSummary.model_validate(record) for record in found[:limit]], next_cursor=following)


def _place(cursor: str | None) -> tuple[str, int] | None:
    place = page(cursor)
    if place is None:
        return None
    if len(place) != 2 or not re.fullmatch("[0-9]{1,9}", place[1]):
        raise BadInput("the cursor is of another list: take `next_cursor` of the page before, or leave it out")
    return unquote(place[0]), int(place[1])


@router.get("/{model}", responses=answers(404))
def show(app: Audience, model: Reference) -> ModelView:
    """Show a version of a model with its rules, and the aliases that lead to it."""
    return ModelView.model_validate(app.models.get(model))


@router.delete("/{model}", status_code=204, responses=answers(404, 409))
def delete(app: Audience, actor: Actor, model: Reference) -> None:
    """Delete a version, or by its name a whole model; refused as long as there are runs that used it."""
    app.models.delete(model, actor)


@router.post("/{model}/try", responses=answers(404))
def try_(app: Audience, model: Reference, body: Texts) -> Tried:
    """Show what a model makes of a row, and why: of rules, which hit it, and where."""
    fields = app.models.fields(model)
    unknown = [name for name in body.fields if name not in fields]
    if unknown:
        raise BadInput(f"the model does not look at {', '.join(unknown)}; it looks at: {', '.join(fields)}")
    return Tried.model_validate(asdict(app.models.try_out(model, {"": body.text, **body.fields})))


@router.post("/{name}/rename", responses=answers(404, 409))
def rename(app: Audience, actor: Actor, name: Name, body: Rename) -> ModelView:
    """Rename a model with all versions and aliases; refused as long as there are runs that used it."""
    app.models.rename(name, body.name, actor)
    return ModelView.model_validate(app.models.get(body.name))


# aliases


@router.get("/{name}/aliases", responses=answers(404))
def aliases(
    app: Audience,
    name: Name,
    at: Annotated[AwareDatetime | None, Query(description="as of this moment; by default now")] = None,
) -> AliasList:
    """What each alias of a model leads to, now or at a moment of the past."""
    return AliasList(items=[AliasView.of(record) for record in app.models.aliases(name, at)])


@router.get("/{name}/aliases/{alias}", responses=answers(404))
def alias_history(app: Audience, name: Name, alias: Alias) -> AliasHistory:
    """Everything that an alias ever led to, oldest first."""
    return AliasHistory.model_validate({"name": name, "alias": alias, "items": app.models.alias_history(name, alias)})


@router.put("/{name}/aliases/{alias}", responses=answers(404))
def set_alias(app: Audience, actor: Actor, name: Name, alias: Alias, body: NewAlias) -> AliasView:
    """Let an alias lead to a version from now on. Runs that were made before keep theirs."""
    app.models.set_alias(name, alias, body.version, actor)
    return AliasView.of(next(record for record in app.models.aliases(name) if record["alias"] == alias))


@router.delete("/{name}/aliases/{alias}", status_code=204, responses=answers(404))
def remove_alias(app: Audience, actor: Actor, name: Name, alias: Alias) -> None:
    """Let an alias lead nowhere from now on. Its history stays."""
    app.models.remove_alias(name, alias, actor)
