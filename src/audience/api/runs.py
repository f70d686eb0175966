"""`/v1/runs`: ask for a run, watch it, stop it, go on with it, take its results."""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from audience.api.bodies.runs import (
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
from audience.api.context import Actor, Audience, Cursor, Key, Limit, create_once, cursor_of, page
from audience.api.errors import answers
from audience.api.files import confined
from audience.api.sources import spec_of
from audience.app import App
from audience.errors import BadInput
from audience.labeling.export import encoded
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels, checked, default_panels
from audience.labeling.plan import PRIORITIES, RunSpec, TaskSpec
from audience.store.database import Record
from audience.tables.base import SourceSpec

router = APIRouter(prefix="/v1/runs", tags=["runs"])

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="the whole id of a run")]
Group = Annotated[str | None, Query(max_length=40, description="of this group only")]
MEDIA_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}, "description": "the rows"}
}


@router.post("", status_code=202, response_model=RunCreated, responses=answers(404, 409))
def create(app: Audience, actor: Actor, body: NewRun, key: Key = None) -> JSONResponse:
    """Ask for a run. It is checked and written down before the reply; workers carry it out."""

    def answer(row: Record) -> Record:
        return {
            "id": row["id"],
            "state": row["state"],
            "created_at": row["created_at"],
            "href": f"/v1/runs/{row['id']}",
        }

    def save(once: Any) -> None:
        tasks = [_task(app, task, n) for n, task in enumerate(body.sources)]
        app.runs.create(tasks, _spec(app, body), actor, PRIORITIES[body.priority], once, body.queue)

    return create_once(app, key, {"POST": "/v1/runs", **body.model_dump(mode="json")}, save, answer, 202)


def _task(app: App, body: TaskBody, number: int) -> TaskSpec:
    for name, bound in (("start", body.start), ("end", body.end)):
        if bound is not None and bound.tzinfo is not None:
            raise BadInput(
                f"sources.{number}.{name} has an offset; write the time as clocks in the source's timezone show it"
            )
    if isinstance(body.source, str):
        source, name = SourceSpec.model_validate(app.store.sources.get(body.source)["spec"]), body.source
    else:
        source = spec_of(app, body.source)
        name = source.table or source.url  # as it is saved: without a password
    return TaskSpec(name=body.name or name, source=source, start=body.start, end=body.end)


def _spec(app: App, body: NewRun) -> RunSpec:
    s = app.settings
    delay_s = s.production_delay_s if body.production_delay_s is None else body.production_delay_s
    return RunSpec(
        models=tuple(body.models),
        target=confined(body.target, s.resolved_files_roots, "target")
        if body.target
        else app.locations.default_target(),
        target_within=tuple(map(str, s.resolved_files_roots)),
        first_wins=body.first_wins,
        groups=_groups(app, body.groups),
        panels=_conflict_groups(app, body.conflict_groups),
        seed=body.seed,
        production=body.production,
        production_delay_s=delay_s,
        partition_rows=body.partition_rows or s.partition_rows,
        bad_rows_limit=body.bad_rows_limit,
    )


def _groups(app: App, given: str | GroupMap | None) -> GroupMap:
    if isinstance(given, str):
        return app.mappings.groups(given)
    return GroupMap.checked(given.channels, given.default) if given else GroupMap.checked({}, None)


def _conflict_groups(app: App, given: str | Panels | None) -> Panels:
    if isinstance(given, str):
        return app.mappings.conflict_groups(given)
    return checked(given, "conflict_groups") if given else default_panels()


@router.get("")
def list_(
    app: Audience,
    state: Annotated[list[State] | None, Query(description="only runs in these states")] = None,
    created_by: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> RunList:
    """List runs, newest first."""
    place = page(cursor)
    if place is not None and len(place) != 2:
        raise BadInput("the cursor is of another list: take `next_cursor` of the page before, or leave it out")
    before = (place[0], place[1]) if place else None
    found = app.store.runs.page(limit + 1, state or (), created_by, before)
    last = found[limit - 1] if len(found) > limit else None
    following = cursor_of(last["created_at"], last["id"]) if last else None
    return RunList(items=[RunSummary.of(run) for run in found[:limit]], next_cursor=following)


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
    """Sampled result rows, also while the run is at work; the same ones for the same seed."""
    rows = app.runs.sample(run_id, size, seed, group, label)
    shown = [{**row, "evidence": json.loads(row["evidence"])} for row in rows]
    return Sample(items=[ResultRow.model_validate(row) for row in shown])


@router.get("/{run_id}/set-aside", responses=answers(404))
def set_aside(app: Audience, run_id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> SetAsideList:
    """Rows that could not be used, with the reason."""
    return SetAsideList.model_validate({"items": list(itertools.islice(app.runs.set_aside(run_id), limit))})


@router.post("/{run_id}/abort", status_code=202, responses=answers(404, 409))
def abort(app: Audience, actor: Actor, run_id: Id) -> RunView:
    """Stop a run. Finished partitions are kept."""
    return RunView.of(app.runs.get(app.runs.abort(run_id, actor)))


@router.post("/{run_id}/resume", status_code=202, responses=answers(404, 409))
def resume(app: Audience, actor: Actor, run_id: Id) -> RunView:
    """Go on with a run that failed or was aborted."""
    return RunView.of(app.runs.get(app.runs.resume(run_id, actor)))


@router.post("/{run_id}/production", status_code=202, responses=answers(404, 409))
def production(app: Audience, actor: Actor, run_id: Id, body: ProductionBody) -> RunView:
    """Make the production tables once more; the same rows come out."""
    return RunView.of(app.runs.get(app.runs.produce(run_id, actor, partial=body.partial)))


@router.delete("/{run_id}", status_code=202, responses=answers(404, 409))
def delete(
    app: Audience,
    actor: Actor,
    run_id: Id,
    forget: Annotated[bool, Query(description="at once, though its target is gone for good")] = False,
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
    """All result or production rows of a run, as a file."""
    rows = app.runs.exported(run_id, production=of == "production", group=group, comparable=comparable)
    name = f"{of}-{run_id[:12]}.{layout}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(started(encoded(rows, layout)), media_type=MEDIA_TYPES[layout], headers=headers)


def started(pieces: Iterator[bytes]) -> Iterable[bytes]:
    """The pieces, the first one ready: what cannot begin is answered with a problem, not with half a file."""
    first = next(pieces, b"")
    return itertools.chain([first], pieces)
