"""Refuses changes that a web page of another origin asks for through a browser on this machine."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audience.api.errors import problem

SAFE = ("GET", "HEAD", "OPTIONS")
OURS = ("same-origin", "none")
"""Values of `Sec-Fetch-Site` for a request of this origin's own page, or of the user by hand."""
SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
"""Content types that a form of any page may send without a preflight."""


class SameOrigin:
    """Middleware that refuses changes that a page of another origin asks for, and bodies that only a form would send.
    Programs send neither `Origin` nor `Sec-Fetch-Site`, and pass."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self.application(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if is_foreign(headers):
            reason = "pages of another origin may not change anything here: send it from a program, or from this origin"
            await problem(403, reason)(scope, receive, send)
        elif (kind := headers.get("content-type", "").partition(";")[0].strip().lower()) in SIMPLE_TYPES:
            reason = f"a body of the type {kind} is not read: send JSON, with the header Content-Type: application/json"
            await problem(415, reason)(scope, receive, send)
        else:
            await self.application(scope, receive, send)


def is_foreign(headers: Headers) -> bool:
    """Returns whether a browser says that another origin's page sends this. The port is part of the origin."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", OURS[0]) not in OURS
    try:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:  # such as http://[x
        return True


class HeadAsGet:
    """Middleware that answers HEAD as GET would be answered, without the body."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.application(scope, receive, send)
            return

        async def bodiless(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})  # at once: a stream may never end

        await self.application({**scope, "method": "GET"}, receive, bodiless)
