"""`/v1/groups` and `/v1/conflict-groups`: saved under names, for runs to refer to."""

from fastapi import APIRouter, Response

from audience.api.bodies.mappings import ConflictGroupsList, GroupsList, NamedConflictGroups, NamedGroups
from audience.api.context import Actor, Audience, Name
from audience.api.errors import answers
from audience.app.types import GroupMap, Panels, Record

groups = APIRouter(prefix="/v1/groups", tags=["groups"])
conflict_groups = APIRouter(prefix="/v1/conflict-groups", tags=["groups"])


def _named(record: Record) -> Record:
    return {**record["definition"], **{name: record[name] for name in ("name", "created_by", "created_at")}}


@groups.put("/{name}")
def save_groups(app: Audience, actor: Actor, name: Name, body: GroupMap) -> NamedGroups:
    """Save which channel goes to which result table, or replace it; runs keep what they were made with."""
    app.mappings.save_groups(name, body, actor)
    return NamedGroups.model_validate(_named(app.mappings.get("groups", name)))


@groups.get("")
def list_groups(app: Audience) -> GroupsList:
    """List the saved groups."""
    return GroupsList.model_validate({"items": [_named(record) for record in app.mappings.all("groups")]})


@groups.get("/{name}", responses=answers(404))
def show_groups(app: Audience, name: Name) -> NamedGroups:
    """Show saved groups."""
    return NamedGroups.model_validate(_named(app.mappings.get("groups", name)))


@groups.delete("/{name}", status_code=204, responses=answers(404))
def delete_groups(app: Audience, actor: Actor, name: Name) -> Response:
    """Forget saved groups."""
    app.mappings.remove("groups", name, actor)
    return Response(status_code=204)


@conflict_groups.put("/{name}")
def save_conflict_groups(app: Audience, actor: Actor, name: Name, body: Panels) -> NamedConflictGroups:
    """Save names of labels, and which of them contradict each other, or replace them."""
    app.mappings.save_conflict_groups(name, body, actor)
    return NamedConflictGroups.model_validate(_named(app.mappings.get("conflict_groups", name)))


@conflict_groups.get("")
def list_conflict_groups(app: Audience) -> ConflictGroupsList:
    """List the saved conflict groups."""
    found = [_named(record) for record in app.mappings.all("conflict_groups")]
    return ConflictGroupsList.model_validate({"items": found})


@conflict_groups.get("/{name}", responses=answers(404))
def show_conflict_groups(app: Audience, name: Name) -> NamedConflictGroups:
    """Show saved conflict groups."""
    return NamedConflictGroups.model_validate(_named(app.mappings.get("conflict_groups", name)))


@conflict_groups.delete("/{name}", status_code=204, responses=answers(404))
def delete_conflict_groups(app: Audience, actor: Actor, name: Name) -> Response:
    """Forget saved conflict groups."""
    app.mappings.remove("conflict_groups", name, actor)
    return Response(status_code=204)
