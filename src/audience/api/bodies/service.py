"""Bodies of replies about the service itself."""

from typing import Literal

from pydantic import BaseModel


class WorkerView(BaseModel):
    """A process that takes jobs. `jobs`: those it works on. `queues`: what it serves. `pool`: how it works on several
    jobs at once; `local` looks for them itself, the others are sent them."""

    id: str
    name: str
    threads: int
    started_at: str
    jobs: int
    queues: str
    pool: str


class WorkerList(BaseModel):
    items: list[WorkerView]


class Ready(BaseModel):
    """Whether requests can be carried out."""

    store: Literal["ok"]
    workers: int


class Health(BaseModel):
    status: Literal["ok"]
    version: str
