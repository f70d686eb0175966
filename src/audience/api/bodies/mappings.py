"""Bodies of `/v1/groups` and `/v1/conflict-groups`."""

from pydantic import BaseModel

from audience.app.types import GroupMap, Panels


class NamedGroups(GroupMap):
    """Saved groups."""

    name: str
    created_by: str
    created_at: str


class NamedConflictGroups(Panels):
    """Saved conflict groups."""

    name: str
    created_by: str
    created_at: str


class GroupsList(BaseModel):
    items: list[NamedGroups]


class ConflictGroupsList(BaseModel):
    items: list[NamedConflictGroups]
