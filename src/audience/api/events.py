"""`/v1/runs/{run_id}/events`: what happens to a run, as server-sent events.

Every move of the run and its tasks is an event with an id; who connects again with `Last-Event-ID` gets those that
were missed. Between them come `progress` events, which are snapshots and have no id, and comments as heartbeats."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from audience.api.bodies.runs import Moved, RunView
from audience.api.context import Audience
from audience.api.errors import answers
from audience.api.runs import Id
from audience.app import App
from audience.errors import NotFound, Transient
from audience.store.database import Record
from audience.store.states import FINAL

router = APIRouter(prefix="/v1/runs", tags=["runs"])

LOOK_S = 0.5
HEARTBEAT_S = 15.0
"""Shorter than the idle timeouts of usual proxies."""
GONE = "run.delete"

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "`moved` and `progress` events until the run has ended"},
    204: {"description": "the run has ended and every event was received: do not connect again"},
}


@router.get("/{run_id}/events", response_class=Response, responses={**STREAM, **answers(404)})
def events(
    request: Request,
    app: Audience,
    run_id: Id,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, description="the last event received")] = None,
) -> Response:
    """JobControl a run. `moved`: the run or a task changed its state; `progress`: the run as it stands."""
    run = app.runs.get(run_id)
    subjects = [run_id, *(task["id"] for task in run["tasks"])]
    watched = Watched(app, run_id, subjects, last_event_id or 0, request.app.state.stopping)
    if last_event_id is not None and run["state"] in FINAL and not watched.moves():
        return Response(status_code=204)
    return EventSourceResponse(stream(watched), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


@dataclass
class Watched:
    """A run that somebody watches, and the last move they were told of. `stopping`: this process ends, they will ask
    another one."""

    app: App
    run_id: str
    subjects: list[str]
    last: int
    stopping: threading.Event

    def moves(self) -> list[Record]:
        """What was not told yet."""
        return self.app.store.audit(self.subjects, after=self.last)

    def look(self) -> tuple[list[Record], Record | None]:
        """The new moves, and the run as it stands; None when it is deleted."""
        try:
            run: Record | None = self.app.runs.get(self.run_id)
        except NotFound:
            run = None
        found = self.moves()
        self.last = found[-1]["id"] if found else self.last
        return found, run


async def stream(watched: Watched) -> AsyncIterator[bytes]:
    """Events as they are sent, until the run has ended."""
    told, told_at = "", time.monotonic()
    while not watched.stopping.is_set():
        try:
            moves, run = await run_in_threadpool(watched.look)
        except Transient:  # our own records cannot be reached: who watches waits with us
            await asyncio.sleep(LOOK_S)
            continue
        for move in moves:
            yield _moved(watched.run_id, move)
        now = RunView.of(run).model_dump_json() if run else told
        if now != told:
            yield format_sse_event(event="progress", data_str=now)
        if now != told or moves:
            told, told_at = now, time.monotonic()
        if run is None or (run["state"] in FINAL and not moves):
            return
        if time.monotonic() - told_at > HEARTBEAT_S:
            yield format_sse_event(comment="still here")
            told_at = time.monotonic()
        await asyncio.sleep(LOOK_S)


def _moved(run_id: str, move: Record) -> bytes:
    state = move["action"].partition(".")[2]
    told = Moved(
        kind="run" if move["subject"] == run_id else "task",
        subject=move["subject"],
        state=state if move["action"] != GONE else "deleted",
        at=move["at"],
        actor=move["actor"],
        error=move["details"].get("error"),
    )
    return format_sse_event(event="moved", data_str=told.model_dump_json(), id=str(move["id"]))
