"""Bodies of `/v1/operations`."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from audience.api.bodies.runs import State
from audience.app.types import Record

Kind = Literal["run", "publication", "source_test", "model", "export", "sweep"]


class OperationProgress(BaseModel):
    """How far an operation is: `done` of `total` (null: nobody knows), in rows or whatever its kind counts; how many of
    its jobs are worked on; what stands in the way of one that is tried again."""

    done: int
    total: int | None
    working: int
    waiting_for: str | None


class OperationCreated(BaseModel):
    """Something that goes on in the background."""

    id: str
    warnings: list[str] = Field(default=[], description="such as: no worker that is alive serves its queue")
    href: str


class OperationSummary(BaseModel):
    """Whatever somebody waits for and may stop. `subject`: what it is about."""

    id: str
    kind: str
    subject: str | None
    state: State
    queue: str
    error: str | None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    href: str

    @classmethod
    def of(cls, record: Record) -> "OperationSummary":
        return cls.model_validate({**record, "href": f"/v1/operations/{record['id']}"})


class OperationView(OperationSummary):
    """An operation, how far it is, and what came of it when it is done."""

    progress: OperationProgress
    warnings: list[str] = Field(description="such as: no worker that is alive serves its queue")
    result: Any = Field(
        description="of a source test its description, of a model its version, of a publication the changes, of an "
        "export rows"
    )

    @classmethod
    def of(cls, record: Record) -> "OperationView":
        return cls.model_validate({**record, "href": f"/v1/operations/{record['id']}"})


class OperationList(BaseModel):
    """Newest first. `next_cursor`: give it as `cursor` for the next page; null on the last."""

    items: list[OperationSummary]
    next_cursor: str | None
