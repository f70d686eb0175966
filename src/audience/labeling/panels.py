"""How labels are written into tables, and which of them contradict each other: data that a run may replace."""

from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audience.errors import BadInput, NotFound, Problem
from audience.models.base import label_fault
from audience.text.documents import decoded, json_document, pydantic_reason

NAMED = 10
"""Labels that one warning lists."""


class Panels(BaseModel):
    """`names` maps a label to its panel; a label that is not there is its own panel; a panel begins with a slash.
    In each of `conflicts` (name -> panels) an author keeps at most one panel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, str] = Field(default_factory=dict)
    conflicts: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def of(self, labels: pl.Series) -> pl.Series:
        return ("/" + labels.replace(self.names)).alias("panel")

    @property
    def conflict_of(self) -> dict[str, str]:
        """panel -> the conflict group it is in."""
        return {_slashed(panel): name for name, panels in self.conflicts.items() for panel in panels}

    def warnings(self, labels: Iterable[str]) -> Iterator[str]:
        """What no model of a run gives, whose labels these are: perhaps mistyped."""
        given = list(labels)
        if strange := [label for label in self.names if label not in given]:
            more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
            yield f"no model of this run gives the label {', '.join(strange[:NAMED])}{more}, which `names` renames"
        known = set(self.of(pl.Series(given, dtype=pl.String)))
        for panel in self.conflict_of:
            if panel not in known:
                yield f"no label of these models is written as {panel}"


def default_panels() -> Panels:
    text = resources.files("audience.labeling").joinpath("panels.json").read_text(encoding="utf-8")
    return Panels.model_validate_json(text)


def load_panels(path: Path, encoding: str | None = None) -> Panels:
    """From JSON such as `{"names": {"男性": "male"}, "conflicts": {"gender": ["male", "female"]}}`, in UTF-8 unless
    `encoding` says otherwise."""
    if not path.is_file():
        raise NotFound(f"there is no panels file {path}")
    text, warnings = decoded(path.read_bytes(), path.name, encoding)
    if warnings:
        raise BadInput(f"{warnings[0].partition(';')[0]}: save it as UTF-8, or say --encoding NAME")
    document = json_document(text, path.name)
    try:
        panels = Panels.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        faults = [
            Problem(".".join(map(str, e["loc"])) or path.name, pydantic_reason(e, Panels.model_fields)) for e in found
        ]
        raise BadInput(f"{path.name} was not used:", tuple(faults)) from None
    return checked(panels, path.name)


def checked(panels: Panels, where: str) -> Panels:
    """Refuses names that could be no labels, and a panel that is in two conflict groups."""
    problems = tuple(Problem(f"{where}: {place}", reason) for place, reason in _faults(panels))
    if problems:
        raise BadInput("these panels cannot be used:", problems)
    return panels


def _faults(panels: Panels) -> Iterator[tuple[str, str]]:
    """Yields (place, reason)."""
    for label, panel in panels.names.items():
        for fault in (label_fault(label), _panel_fault(panel)):
            if fault:
                yield f"names.{label[:40]}", fault
    seen: dict[str, str] = {}
    for name, members in panels.conflicts.items():
        for fault in (label_fault(name, "the name"), *map(_panel_fault, members)):
            if fault:
                yield f"conflicts.{name[:40]}", fault
        for panel in map(_slashed, members):
            if panel in seen:
                reason = f"{panel} is in two conflict groups, {seen[panel]} and {name}; it may be in one"
                yield f"conflicts.{name[:40]}", reason
            seen[panel] = name


def _panel_fault(panel: str) -> str | None:
    return label_fault(panel.removeprefix("/"), "the panel")


def _slashed(panel: str) -> str:
    return panel if panel.startswith("/") else f"/{panel}"
