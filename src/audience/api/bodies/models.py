"""Bodies of `/v1/models`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from audience.api.bodies.base import NAME, Request
from audience.app.types import Record, RuleSet

TEXT_LIMIT = 100_000


class NewModel(Request):
    """A rule set to be saved: its rules, or a rules file as text."""

    name: str = Field(pattern=NAME)
    rules: RuleSet | None = None
    csv: str | None = Field(default=None, max_length=50_000_000, description="a rules file: label, content, match_type")
    fields: tuple[str, ...] | None = Field(default=None, description="with `csv`: the fields the rules look at")
    case: Literal["lower", "ignore", "exact"] | None = Field(default=None, description="with `csv`")
    width: bool | None = Field(default=None, description="with `csv`: whether full-width ASCII equals ASCII")
    labels: Literal["one", "all"] | None = Field(default=None, description="with `csv`: labels a row may get")


class ModelCreated(BaseModel):
    """A saved version of a model."""

    model: str = Field(description="name@version")
    warnings: list[str]
    href: str


class ModelView(BaseModel):
    """A version of a model."""

    name: str
    version: int
    kind: str
    digest: str
    n_rules: int | None = Field(description="null in the list of models, of those that have many")
    warnings: list[str]
    created_by: str
    created_at: str
    definition: dict[str, Any] | None = Field(default=None, description="when one model is asked for")

    @classmethod
    def of(cls, record: Record, *, whole: bool = False) -> "ModelView":
        definition = record["definition"]
        return cls.model_validate(
            {
                **record,
                "n_rules": len(definition["rules"]) if definition else None,
                "definition": definition if whole else None,
            }
        )


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
    rule: int
    field: str
    match: str
    text: str
    start: int
    end: int


class Tried(BaseModel):
    """What a model makes of one row."""

    labels: list[GivenLabel]
    hits: list[Hit]


class ModelList(BaseModel):
    items: list[ModelView]
