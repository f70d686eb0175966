"""Errors as problem details (RFC 9457). No other module knows which error is which status."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from audience.errors import AudienceError, BadInput, BadRow, Conflict, NotFound, Transient

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
STATUS: dict[type[AudienceError], int] = {BadInput: 422, BadRow: 422, NotFound: 404, Conflict: 409, Transient: 503}


class Fault(BaseModel):
    """One thing wrong with a request: where (a field, or a place in a file), and why."""

    where: str
    reason: str


class ProblemDetails(BaseModel):
    """What went wrong, in the form of RFC 9457."""

    type: str = "about:blank"
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what was wrong, and what would be right")
    errors: list[Fault] = Field(default=[], description="every fault of the request, with its place")
    state: str | None = Field(default=None, description="the present state, where that forbids the request")


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the problems that a route may answer with, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(api: FastAPI) -> None:
    """Lets every error of this application be answered with problem details."""
    api.add_exception_handler(AudienceError, _ours)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _bug)


def problem(
    status: int,
    detail: str,
    faults: list[Fault] | None = None,
    state: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    details = ProblemDetails(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=faults or [], state=state
    )
    body = details.model_dump(exclude_defaults=True) | {"type": details.type}
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


ROUTES = (
    (re.compile(r"`?audience production (\w+)`?"), r"POST /v1/runs/\1/production"),
    (re.compile(r"`audience publication list`"), "GET /v1/publications"),
    (re.compile(r"`audience source list`"), "GET /v1/sources"),
    (re.compile(r"cancel the operation (\w+)"), r"POST /v1/operations/\1/cancel"),
)
"""Commands in messages of the app -> the routes that take their place over HTTP."""


def _said(message: str) -> str:
    for command, route in ROUTES:
        message = command.sub(route, message)
    return message


def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AudienceError)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    faults = [Fault(where=p.where, reason=p.reason) for p in error.problems] if isinstance(error, BadInput) else []
    detail = _said(error.message if isinstance(error, BadInput) else str(error))
    state = error.state if isinstance(error, Conflict) else None
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, detail, faults, state, headers)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Answers a request that does not have the form that its route requires."""
    assert isinstance(error, RequestValidationError)
    faults = [Fault(where=".".join(map(str, e["loc"])), reason=_reason(e)) for e in error.errors()]
    return problem(422, "the request does not have the form that is asked for; see errors", faults)


def _reason(found: Mapping[str, Any]) -> str:
    """Returns pydantic's finding, in plain words where its own speak of Python."""
    if found["type"] == "model_attributes_type" and found["loc"] == ("body",):
        return "is not a JSON object: send one, with the header Content-Type: application/json"
    if found["type"] == "json_invalid":
        return f"is not JSON at this character: {found['ctx']['error']}"
    plain = {"extra_forbidden": "there is no such field", "tuple_type": "Input should be a list"}
    return plain.get(found["type"], str(found["msg"]))


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return problem(error.status_code, str(error.detail), headers=error.headers)
    allowed = ", ".join(_allowed(request))
    return problem(405, f"{request.method} is not for this path; it answers to: {allowed}", headers={"Allow": allowed})


def _allowed(request: Request) -> list[str]:
    """Returns the methods that a path answers to, by all routes that match it, and HEAD where GET is one of them."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matching = (methods for path, methods in paths.items() if compile_path(path)[0].match(request.url.path))
    found = {method.upper() for methods in matching for method in methods} or {"GET"}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("action=request_crashed method=%s path=%s", request.method, request.url.path, exc_info=error)
    return problem(500, "this is a mistake of ours; the log of the API tells more")
