"""The events of an operation, as server-sent events.

Every move of the operation, and of the tasks of a run, is an event with an id; a client that connects again with
`Last-Event-ID` gets those that it missed. Between them come `progress` events, which are snapshots and have no id, and
comments as heartbeats."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from audience.api.bodies.runs import Moved
from audience.app.root import App
from audience.app.types import FINAL, Record
from audience.errors import NotFound, Transient

LOOK_S = 0.5
HEARTBEAT_S = 15.0
"""Shorter than the idle timeouts of common proxies."""
GONE = "run.delete"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "`moved` and `progress` events until it has ended"},
    204: {"description": "it has ended and every event was received: do not connect again"},
}


@dataclass
class Watched:
    """An operation that a client watches, and the last move that was sent. `get` reads the operation, `shown` returns
    it as JSON. `stopping` is set when this process ends; the client then connects to another one."""

    app: App
    operation_id: str
    subjects: list[str]
    get: Callable[[], Record]
    shown: Callable[[Record], str]
    last: int
    stopping: threading.Event

    def moves(self) -> list[Record]:
        """Returns the moves that were not sent yet."""
        return self.app.operations.moves(self.subjects, after=self.last)

    def look(self) -> tuple[list[Record], Record | None]:
        """Returns the new moves, and the operation as it stands; None when it is deleted."""
        try:
            found: Record | None = self.get()
        except NotFound:
            found = None
        moves = self.moves()
        self.last = moves[-1]["id"] if moves else self.last
        return moves, found


async def stream(watched: Watched) -> AsyncIterator[bytes]:
    """Yields events until the operation has ended."""
    shown, shown_at = "", time.monotonic()
    while not watched.stopping.is_set():
        try:
            moves, found = await run_in_threadpool(watched.look)
        except Transient:  # our own records cannot be reached: who watches waits with us
            await asyncio.sleep(LOOK_S)
            continue
        for move in moves:
            yield _moved(watched.operation_id, move)
        now = watched.shown(found) if found else shown
        if now != shown:
            yield format_sse_event(event="progress", data_str=now)
        if now != shown or moves:
            shown, shown_at = now, time.monotonic()
        if found is None or (found["state"] in FINAL and not moves):
            return
        if time.monotonic() - shown_at > HEARTBEAT_S:
            yield format_sse_event(comment="still here")
            shown_at = time.monotonic()
        await asyncio.sleep(LOOK_S)


def _moved(operation_id: str, move: Record) -> bytes:
    kind, _, state = move["action"].partition(".")
    moved = Moved(
        kind=kind,
        subject=move["subject"],
        state=state if move["action"] != GONE else "deleted",
        at=move["at"],
        actor=move["actor"],
        error=move["details"].get("error"),
    )
    return format_sse_event(event="moved", data_str=moved.model_dump_json(), id=str(move["id"]))
