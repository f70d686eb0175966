"""Saved groups and conflict groups, which runs and publications may name."""

from audience.app.references import check_name
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels, checked, default_panels
from audience.store.database import Record
from audience.store.records import Store


class Mappings:
    """Saves and resolves mappings. `kind` is `groups` or `conflict_groups`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def all(self, kind: str) -> list[Record]:
        return self.store.mappings.all(kind)

    def get(self, kind: str, name: str) -> Record:
        return self.store.mappings.get(kind, name)

    def remove(self, kind: str, name: str, actor: str) -> None:
        self.store.mappings.remove(kind, name, actor)

    def resolved_groups(self, given: str | GroupMap | None) -> GroupMap:
        """Returns saved groups by their name, or the given ones; by default one group for everything."""
        if isinstance(given, str):
            return self.groups(given)
        given = given or GroupMap()
        return GroupMap.checked(given.channels, given.default, tables=given.tables)

    def resolved_panels(self, given: str | Panels | None) -> Panels:
        """Returns saved conflict groups by their name, or the given ones; by default those of the package."""
        if isinstance(given, str):
            return self.conflict_groups(given)
        return checked(given, "conflict_groups") if given else default_panels()

    def save_groups(self, name: str, groups: GroupMap, actor: str) -> None:
        check_name(name, "group map")
        checked_groups = GroupMap.checked(groups.channels, groups.default, tables=groups.tables)
        self.store.mappings.save("groups", name, checked_groups.model_dump(mode="json"), actor)

    def groups(self, name: str) -> GroupMap:
        return GroupMap.model_validate(self.store.mappings.get("groups", name)["definition"])

    def save_conflict_groups(self, name: str, panels: Panels, actor: str) -> None:
        check_name(name, "set of conflict groups")
        panels = checked(panels, "conflicts")
        self.store.mappings.save("conflict_groups", name, panels.model_dump(mode="json"), actor)

    def conflict_groups(self, name: str) -> Panels:
        return Panels.model_validate(self.store.mappings.get("conflict_groups", name)["definition"])
