"""Bodies of `/v1/models`."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from audience.api.bodies.base import NAME, Request
from audience.app.requests import ModelRequest
from audience.app.types import Record

TEXT_LIMIT = 100_000
LARGE_CHARACTERS = 50_000
OPTIONS = ("fields", "case", "width", "labels")
EXAMPLE = {"rules": [{"label": "complaint", "any": ["refund", {"keyword": "why", "match": "start"}], "none": ["joke"]}]}


class NewModel(Request):
    """A model to be saved: rules as JSON, a rules file as text, or the parameters of another kind."""

    name: str = Field(pattern=NAME)
    kind: str = Field(default="rules", max_length=100, description="with `parameters`: a kind that is installed")
    rules: dict[str, Any] | list[Any] | None = Field(
        default=None,
        description="what a JSON rules file holds: an object with `rules`, or lists by label; or a list of rules alone",
        examples=[EXAMPLE, {"price": ["\\d+ ?元"], "gender": [["先生", "end"]]}],
    )
    csv: str | None = Field(default=None, max_length=50_000_000, description="a rules file: label, content, match_type")
    parameters: dict[str, Any] | None = Field(default=None, description="of the kind")
    fields: tuple[str, ...] | None = Field(default=None, description="of rules: the fields that they look at")
    case: Literal["lower", "ignore", "exact"] | None = Field(default=None, description="of rules")
    width: bool | None = Field(default=None, description="of rules: whether full-width ASCII equals ASCII")
    labels: Literal["one", "all"] | None = Field(default=None, description="of rules: labels a row may get")
    notes: str = Field(default="", max_length=10_000, description="for people: why this version was made")

    def request(self) -> ModelRequest:
        options = {name: getattr(self, name) for name in OPTIONS if getattr(self, name) is not None}
        return ModelRequest.model_validate({**self.model_dump(exclude=set(OPTIONS)), "options": options})

    def is_large(self) -> bool:
        """Returns whether a check may take more than a second."""
        return len(self.csv or "") > LARGE_CHARACTERS or len(json.dumps(self.rules)) > LARGE_CHARACTERS


class ModelCreated(BaseModel):
    """A saved version of a model."""

    model: str = Field(description="name@version")
    warnings: list[str]
    href: str


class ModelSummary(BaseModel):
    """A version of a model, told without building it."""

    name: str
    version: int
    kind: str
    digest: str
    inputs: list[str] | None = Field(description="fields it looks at; null of large ones from before 0006 in lists")
    labels: list[str] | None = Field(description="those it may give; of one that gives numbers, their name")
    summary: dict[str, Any] | None = Field(description="of rules: `n_rules`, and settings that are not the default")
    lineage: dict[str, Any] | None = Field(description="what it was trained on and how; null of rules")
    notes: str | None
    warnings: list[str]
    created_by: str
    created_at: str


class ModelView(ModelSummary):
    """A version of a model with its parameters. `aliases`: those that lead to it."""

    definition: dict[str, Any]
    aliases: list[str]


class ModelList(BaseModel):
    """By name and version. `next_cursor`: give it as `cursor` for the next page; null on the last."""

    items: list[ModelSummary]
    next_cursor: str | None


class Rename(Request):
    name: str = Field(pattern=NAME, description="the new name")


class NewAlias(Request):
    version: int = Field(ge=1, le=999_999_999)


class AliasView(BaseModel):
    """What an alias leads to, since when."""

    alias: str
    version: int
    model: str = Field(description="name@version")
    set_by: str
    set_at: str

    @classmethod
    def of(cls, record: Record) -> "AliasView":
        return cls.model_validate({**record, "model": f"{record['name']}@{record['version']}"})


class AliasList(BaseModel):
    items: list[AliasView]


class AliasChange(BaseModel):
    """What an alias was set to; null: it was removed."""

    version: int | None
    set_by: str
    set_at: str


class AliasHistory(BaseModel):
    """Oldest first."""

    name: str
    alias: str
    items: list[AliasChange]


class Texts(Request):
    """One row: its texts by field, or one text for every field."""

    text: str | None = Field(default=None, max_length=TEXT_LIMIT)
    fields: dict[str, Annotated[str, Field(max_length=TEXT_LIMIT)] | None] = Field(default_factory=dict)


class GivenLabel(BaseModel):
    label: str
    score: float


class Hit(BaseModel):
    """Where a rule hits: code points `start` to `end` of the field's text."""

    label: str
    rule: int | None
    field: str | None
    match: str | None
    text: str | None
    start: int | None
    end: int | None


class Tried(BaseModel):
    """What a model makes of one row. `value`: of one that gives numbers. `why`: what else its kind has to say."""

    labels: list[GivenLabel]
    value: float | None
    hits: list[Hit]
    why: list[dict[str, Any]]
