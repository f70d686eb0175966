"""Saved groups and conflict groups, which runs and publications may name."""

from audience.app.references import check_name
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels
from audience.store.records import Store


class Mappings:
    def __init__(self, store: Store) -> None:
        self.store = store

    def save_groups(self, name: str, groups: GroupMap, actor: str) -> None:
        check_name(name, "group map")
        self.store.mappings.save("groups", name, groups.model_dump(mode="json"), actor)

    def groups(self, name: str) -> GroupMap:
        return GroupMap.model_validate(self.store.mappings.get("groups", name)["definition"])

    def save_conflict_groups(self, name: str, panels: Panels, actor: str) -> None:
        check_name(name, "set of conflict groups")
        self.store.mappings.save("conflict_groups", name, panels.model_dump(mode="json"), actor)

    def conflict_groups(self, name: str) -> Panels:
        return Panels.model_validate(self.store.mappings.get("conflict_groups", name)["definition"])
