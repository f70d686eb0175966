"""What routes share: the app, who asks, pages, and requests that may come twice."""

import base64
import binascii
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse

from audience.app import LOCAL, App
from audience.errors import BadInput
from audience.store.database import Record, digest_of
from audience.store.idempotency import Once


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


async def whole_characters(request: Request) -> None:
    """Refuses a body with half of a character (a lone surrogate), which no database and no file can hold."""
    body = await request.body()
    if b"\\ud" not in body.lower():
        return
    with suppress(ValueError):
        text = json.dumps(json.loads(body), ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput("a text of the request holds half of a character (a lone surrogate)") from None


def create_once(
    app: App,
    key: str | None,
    request: Record,
    create: Callable[[Once], Any],
    answer: Callable[[Any], Record],
    status: int,
) -> JSONResponse:
    """Creates something and answers with `answer`, whose `href` becomes the Location. With a key: once, however often
    it is asked for."""
    once = Once(answer, key, digest_of(request))
    if not app.store.answered(once):
        create(once)
    return JSONResponse(once.body, status, {"Location": once.body["href"]})


def page(cursor: str | None) -> list[str] | None:
    """What a cursor holds: the place after which a page begins."""
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
