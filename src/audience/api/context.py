"""What routes share: the app, the actor, pages, and requests that may come twice."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from audience.app.actors import LOCAL
from audience.app.root import App
from audience.app.types import IdempotencyKey, Record, digest_of, json_document
from audience.errors import BadInput


def _app(request: Request) -> App:
    app: App = request.app.state.app
    return app


def _actor() -> str:
    return LOCAL


Audience = Annotated[App, Depends(_app)]
Actor = Annotated[str, Depends(_actor)]
Name = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^\w[\w.\-]*$")]
Limit = Annotated[int, Query(ge=1, le=200, description="how many at most")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="any text of your own; the same request with the same key again is answered the same and done once",
    ),
]


LATER = "respond-async"
"""In the header Prefer: do not wait for what is begun."""


async def unambiguous(request: Request) -> None:
    """Refuses a body in which a key stands twice, of which one would be dropped, and one with half of a character (a
    lone surrogate), which no database and no file can hold."""
    body = await request.body()
    if body and "json" in request.headers.get("content-type", "").lower():
        try:
            text = body.decode(json.detect_encoding(body))
        except UnicodeDecodeError as error:
            raise HTTPException(400, f"the body is not UTF-8 (at byte {error.start})") from None
        await run_in_threadpool(json_document, text, "body")  # seconds for the largest, in which others are answered


def created(made: Record, href: str, status: int) -> JSONResponse:
    """Returns the reply to a create: what was made, and where it is."""
    return JSONResponse({**made, "href": href}, status, {"Location": href})


def key_of(key: str | None, path: str, body: BaseModel) -> IdempotencyKey | None:
    """Returns the client's key with the digest of this request; None when it sent none."""
    return IdempotencyKey(key, digest_of({"POST": path, **body.model_dump(mode="json")})) if key else None


def place_after(cursor: str | None) -> tuple[str, str] | None:
    """Returns (created_at, id) after which a page of a list that is newest first begins."""
    place = page(cursor)
    if place is None:
        return None
    if len(place) != 2:
        raise BadInput("the cursor is of another list: take `next_cursor` of the page before, or leave it out")
    return place[0], place[1]


def following(found: Sequence[Record], limit: int) -> str | None:
    """Returns the cursor of the page after this one; None when there is no more than `limit` in `found`."""
    return cursor_of(found[limit - 1]["created_at"], found[limit - 1]["id"]) if len(found) > limit else None


def page(cursor: str | None) -> list[str] | None:
    """Returns the place that a cursor holds, after which a page begins."""
    if cursor is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if isinstance(place, list) and place and all(isinstance(part, str) and part.isascii() for part in place):
            return place
    except (ValueError, binascii.Error):
        pass
    raise BadInput("the cursor is none of ours: take `next_cursor` of the page before, or leave it out")


def cursor_of(*place: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
