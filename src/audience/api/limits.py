"""How large a request may be."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audience.api.errors import problem

MAX_BODY_BYTES = 64 * 2**20
"""A model of the largest size that is allowed fits."""


class Limited:
    """Middleware: refuses a body that is too large, said beforehand or found while it comes."""

    def __init__(self, application: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.application = application
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self.max_bytes:
            refusal = problem(413, f"the body of a request may have up to {self.max_bytes >> 20} MB")
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= self.max_bytes else {"type": "http.disconnect"}

        await self.application(scope, counted, send)
