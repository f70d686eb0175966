"""Who may change something: no web page of another origin, which a browser on this machine would carry here."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audience.api.errors import problem

SAFE = ("GET", "HEAD", "OPTIONS")
OURS = ("same-origin", "none")
"""What browsers say of a request (`Sec-Fetch-Site`) that this origin's own page made, or the user by hand."""
SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
"""What a form of any page may send without asking."""


class SameOrigin:
    """Middleware: refuses changes that a page of another origin asks for, and bodies that only a form would send.
    Programs send neither `Origin` nor `Sec-Fetch-Site`, and are not concerned."""

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
    """Whether a browser says that another origin's page sends this. The port counts: it is another origin's too."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    return headers.get("sec-fetch-site", OURS[0]) not in OURS


class HeadAsGet:
    """Middleware: answers HEAD as GET would be answered, without the body."""

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
