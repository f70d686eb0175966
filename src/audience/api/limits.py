"""Limits the size of requests."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audience.api.errors import problem

MAX_BODY_BYTES = 64 * 2**20
"""Large enough for a model of the largest size that is allowed."""


class Limited:
    """Middleware that refuses a body that is too large, by its declared length or while it comes."""

    def __init__(self, application: ASGIApp, max_bytes: int) -> None:
        self.application = application
        self.max_bytes = max_bytes
        self._refusal = f"the body of a request may have up to {max_bytes:,} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self.max_bytes:
            await problem(413, self._refusal)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self._refusal)
            return message

        await self.application(scope, counted, send)
