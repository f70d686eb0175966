"""Kinds of jobs and kinds of operations, as data. The worker and the queue know no kind by name; the app fills two
dicts of these, and a new kind is one more entry there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audience.store.database import Record
from audience.store.operations import Cancelling

if TYPE_CHECKING:
    import sqlalchemy as sa

    from audience.jobs.control import JobControl


@dataclass(frozen=True)
class Outcome:
    """What a job found. `result`, JSON, is kept with the job; `progress` is how much it did; `details` is for `done` of
    a kind that is not killable, and is not kept."""

    result: Any = None
    progress: int | None = None
    details: Any = None


@dataclass(frozen=True)
class JobKind:
    """How jobs of one kind are carried out. `run` does the work and may be done twice, or at once by two workers that
    both believe to own the job. `done` writes down what follows, in the transaction that ends the job, which happens
    once; `failed` likewise after an error that will not pass. A kind that is `never_give_up` is tried until it succeeds
    or is cancelled; a `killable` one runs in a process of its own, which is killed when its job is cancelled."""

    run: "Callable[[Record, JobControl], Outcome]"
    done: "Callable[[sa.Connection, Record, Outcome], None]"
    failed: "Callable[[sa.Connection, Record, str], None]"
    never_give_up: bool = False
    killable: bool = False


@dataclass(frozen=True)
class OperationKind:
    """How operations of one kind are cancelled. `cancelling` adds, in the same transaction, the jobs that bring the
    operation to its end; without it nothing is left to do."""

    cancelling: Cancelling | None = None
