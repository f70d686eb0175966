"""`/v1/runs`: create a run, watch it, stop it, resume it, fetch its results."""

import itertools
import json
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse

from audience.api.bodies.operations import OperationCreated
from audience.api.bodies.runs import (
    ExportBody,
    NewRun,
    ProductionBody,
    ResultRow,
    RunCreated,
    RunList,
    RunSummary,
    RunView,
    Sample,
    SetAsideList,
    State,
    TaskBody,
)
from audience.api.context import Actor, Audience, Cursor, Key, Limit, created, following, key_of, place_after
from audience.api.errors import answers
from audience.api.events import HEADERS, STREAM, Watched, stream
from audience.api.files import FILE, MEDIA_TYPES, started
from audience.api.operations import begun
from audience.api.sources import requested
from audience.app.requests import ExportRequest, RunRequest, SourceRequest, TaskRequest
from audience.app.types import FINAL

router = APIRouter(prefix="/v1/runs", tags=["runs"])

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="the whole id of a run")]
Group = Annotated[str | None, Query(max_length=40, description="of this group only")]


@router.post("", status_code=202, response_model=RunCreated, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewRun, key: Key = None) -> JSONResponse:
    """Create a run. It is checked and written down before the reply; workers carry it out."""
    fields = body.model_dump(exclude={"sources", "models", "groups", "conflict_groups"})
    request = RunRequest(
        tasks=tuple(_task(task, n) for n, task in enumerate(body.sources)),
        models=tuple(body.models),
        groups=body.groups,
        conflict_groups=body.conflict_groups,
        confined=True,
        **fields,
    )
    made = app.runs.create(request, actor, key_of(key, "/v1/runs", body))
    return created(made, f"/v1/runs/{made['id']}", 202)


def _task(body: TaskBody, number: int) -> TaskRequest:
    source = SourceRequest(saved=body.source) if isinstance(body.source, str) else requested(body.source)
    return TaskRequest(source=source, name=body.name, start=body.start, end=body.end, where=f"sources.{number}")


@router.get("")
def list_(
    app: Audience,
    state: Annotated[list[State] | None, Query(description="only runs in these states")] = None,
    created_by: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> RunList:
    """List runs, newest first."""
    found = app.runs.page(limit + 1, state or (), created_by, place_after(cursor))
    return RunList(items=[RunSummary.of(run) for run in found[:limit]], next_cursor=following(found, limit))


@router.get("/{run_id}/events", response_class=Response, responses={**STREAM, **answers(404)})
def events(
    request: Request,
    app: Audience,
    run_id: Id,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, description="the last event received")] = None,
) -> Response:
    """Watch a run. `moved`: the run or a task changed its state; `progress`: the run as it stands."""
    run = app.runs.get(run_id)
    watched = Watched(
        app,
        run_id,
        [run_id, *(task["id"] for task in run["tasks"])],
        lambda: app.runs.get(run_id),
        lambda record: RunView.of(record).model_dump_json(),
        last_event_id or 0,
        request.app.state.stopping,
    )
    if last_event_id is not None and run["state"] in FINAL and not watched.moves():
        return Response(status_code=204)
    return EventSourceResponse(stream(watched), headers=HEADERS)


@router.get("/{run_id}", responses=answers(404))
def show(app: Audience, run_id: Id) -> RunView:
    """Show a run: its state, how far each task is, its numbers by group."""
    return RunView.of(app.runs.get(run_id))


@router.get("/{run_id}/sample", responses=answers(404))
def sample(
    app: Audience,
    run_id: Id,
    size: Annotated[int, Query(ge=1, le=20, description="rows a task, group and label")] = 3,
    seed: Annotated[int | None, Query(ge=-(2**53), le=2**53, description="by default that of the run")] = None,
    group: Group = None,
    label: Annotated[str | None, Query(max_length=200, description="of this label or panel only")] = None,
) -> Sample:
    """Show sampled result rows, also while the run is at work; the same ones for the same seed."""
    rows = app.results.sample(run_id, size, seed, group, label)
    shown = [{**row, "evidence": json.loads(row["evidence"])} for row in rows]
    return Sample(items=[ResultRow.model_validate(row) for row in shown])


@router.get("/{run_id}/set-aside", responses=answers(404))
def set_aside(app: Audience, run_id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> SetAsideList:
    """List rows that could not be used, with the reason."""
    return SetAsideList.model_validate({"items": list(itertools.islice(app.results.set_aside(run_id), limit))})


@router.post("/{run_id}/abort", status_code=202, responses=answers(404, 409))
def abort(app: Audience, actor: Actor, run_id: Id) -> RunView:
    """Stop a run. Finished partitions are kept."""
    return RunView.of(app.runs.get(app.runs.abort(run_id, actor)))


@router.post("/{run_id}/resume", status_code=202, responses=answers(404, 409))
def resume(app: Audience, actor: Actor, run_id: Id) -> RunView:
    """Go on with a run that failed or was aborted."""
    return RunView.of(app.runs.get(app.runs.resume(run_id, actor)))


@router.post("/{run_id}/production", status_code=202, responses=answers(404, 409))
def production(app: Audience, actor: Actor, run_id: Id, body: ProductionBody | None = None) -> RunView:
    """Make the production tables once more; the same rows come out."""
    return RunView.of(app.runs.get(app.runs.produce(run_id, actor, partial=body is not None and body.partial)))


@router.delete("/{run_id}", status_code=202, responses=answers(404, 409))
def delete(
    app: Audience,
    actor: Actor,
    run_id: Id,
    forget: Annotated[bool, Query(description="also when its target is gone for good")] = False,
) -> RunSummary:
    """Delete a run with its results and production rows; when they are gone, so is the run."""
    run = app.runs.get(run_id)
    app.runs.delete(run_id, actor, forget=forget)
    return RunSummary.of({**run, "state": "deleting"})


@router.get("/{run_id}/export", response_class=Response, responses={**FILE, **answers(404)})
def export(
    app: Audience,
    run_id: Id,
    of: Literal["results", "production"] = "results",
    layout: Annotated[Literal["csv", "jsonl", "parquet"], Query(alias="format")] = "jsonl",
    group: Group = None,
    comparable: Annotated[bool, Query(description="without what differs between equal runs")] = False,
) -> StreamingResponse:
    """Fetch all result or production rows of a run, as a file."""
    request = ExportRequest(run=run_id, of=of, group=group, comparable=comparable, layout=layout)
    name = f"{of}-{run_id[:12]}.{layout}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    pieces = app.exports.pieces(request)
    return StreamingResponse(started(pieces), media_type=MEDIA_TYPES[layout], headers=headers)


@router.post("/{run_id}/exports", status_code=202, response_model=OperationCreated, responses=answers(404))
def export_later(app: Audience, actor: Actor, run_id: Id, body: ExportBody) -> JSONResponse:
    """Make a file of all result or production rows in the background; it is fetched from the operation when it is
    done."""
    request = ExportRequest(run=run_id, of=body.of, group=body.group, comparable=body.comparable, layout=body.format)
    return begun(app, app.exports.begin(request, actor))
