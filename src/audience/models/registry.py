"""The kinds of models, by name: our own, and those of installed packages through the entry point group
`audience.models`. A kind is imported when a model of it is used, not before."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from audience.errors import AudienceError, BadInput, Conflict, Elsewhere, NotFound
from audience.models.base import ModelKind, ModelRecord
from audience.models.faults import problems_of

GROUP = "audience.models"
OURS = "audience"
KINDS = {"rules": "audience.models.rules.kind:Rules"}
"""Built-in kinds: name -> where the class is. They are entry points as well (pyproject.toml), as those of others."""

CONTRACT = ("describe", "load", "trainer", "explain", "contents")


def known_kinds() -> dict[str, str]:
    """name -> where its class is, of every kind that is installed here; imports none of them."""
    return {name: places[0] for name, places in _places().items()}


@cache
def _places() -> dict[str, tuple[str, ...]]:
    """Read once: what is installed while a process runs is found by the next one."""
    found = {name: (place,) for name, place in KINDS.items()}
    for entry in entry_points(group=GROUP):
        # Ours are in `KINDS`: an installation that can be edited keeps the entry points of the day it was made.
        if (entry.dist is None or entry.dist.name != OURS) and entry.value not in found.get(entry.name, ()):
            found[entry.name] = (*found.get(entry.name, ()), entry.value)
    return dict(sorted(found.items()))


def kind_of(name: str) -> ModelKind:
    """Raises Elsewhere where it is not installed, or cannot be imported: another process may have it."""
    places = _places().get(name)
    if places is None:
        raise Elsewhere(
            f"the model kind {name!r} is not installed here; installed: {', '.join(_places())}. "
            "Install the package that has it, on every machine that works on models of it"
        )
    if len(places) > 1:
        raise Conflict(f"several packages have a model kind {name!r} ({', '.join(places)}): uninstall all but one")
    return _imported(name, places[0])


@cache
def _imported(name: str, place: str) -> ModelKind:
    module, _, attribute = place.partition(":")
    try:
        kind = getattr(import_module(module), attribute)()
    except Exception as error:  # whatever an import of somebody else's code may raise
        reason = f"{type(error).__name__}: {error}"
        raise Elsewhere(f"the model kind {name!r} cannot be imported from {place}: {reason}") from error
    lacking = [method for method in CONTRACT if not callable(getattr(kind, method, None))]
    parameters = getattr(kind, "parameters", None)
    if not (isinstance(parameters, type) and issubclass(parameters, BaseModel)):
        lacking.append("parameters, a pydantic model")
    if not isinstance(getattr(kind, "protocol", None), int):
        lacking.append("protocol, a whole number")
    if getattr(kind, "name", None) != name:
        lacking.append(f"the name {name!r}")
    if lacking:
        raise BadInput(f"the model kind {name!r} in {place} lacks {'; '.join(lacking)}: derive it from ModelKind")
    loaded: ModelKind = kind
    return loaded


def kind_for(record: ModelRecord) -> ModelKind:
    """The kind of a stored version, if it can read it."""
    kind = kind_of(record.kind)
    if record.protocol > kind.protocol:
        raise Elsewhere(
            f"{record.reference} was saved by a newer version of the model kind {record.kind!r} (protocol "
            f"{record.protocol}; here {kind.protocol}): update the package that has it"
        )
    return kind


def checked_parameters(name: str, given: Any) -> BaseModel:
    """Parameters of a kind, valid; every fault is told."""
    if name not in known_kinds():
        raise NotFound(f"no model kind {name!r} is installed here; known: {', '.join(known_kinds())}")
    try:
        return kind_of(name).parameters.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"the parameters are not those of a model of kind {name!r}:", problems_of(error)) from None


@contextmanager
def named_errors(kind: str) -> Iterator[None]:
    """Whatever the code of a plug-in raises is told as the fault of that plug-in."""
    try:
        yield
    except Exception as error:
        if isinstance(error, AudienceError) or kind in KINDS:
            raise
        raise BadInput(f"the model kind {kind!r} failed: {type(error).__name__}: {error}") from error
