"""Puts the HTTP API together: routes, errors, middleware and documentation. A thin edge over `App`."""

import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from audience.api import errors, limits, mappings, models, operations, origins, publications, runs, service, sources
from audience.api.context import unambiguous
from audience.api.metrics import Measured, Metrics
from audience.app.root import App
from audience.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")

DESCRIPTION = """
Labels for rows in a database. A **run** reads sources, labels their rows with models, and writes result and production
tables to a target; workers carry it out.

Creates take an `Idempotency-Key`: the same request with the same key is done once. Errors are problem details
(RFC 9457): `detail` says what was wrong and what would be right.
"""


def create_api(app: App, host: str = LOOPBACK[0]) -> FastAPI:
    """Makes the application. When it listens on this machine only, it answers to this machine's names only, so that no
    web page can reach it through a name of its own (DNS rebinding)."""
    api = FastAPI(
        title="Audience",
        version=version("audience"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=_lifespan,
        dependencies=[Depends(unambiguous)],
        responses=errors.answers(400, 403, 413, 415, 422, 503),
    )
    api.state.app = app
    api.state.stopping = threading.Event()
    api.state.metrics = Metrics(app)
    for module in (sources, models, runs, publications, operations, service):
        api.include_router(module.router)
    for router in (mappings.groups, mappings.conflict_groups):
        api.include_router(router)
    service.install_docs(api)
    errors.install(api)
    allowed = app.settings.allowed_hosts or (LOOPBACK if host in LOOPBACK else ("*",))
    api.add_middleware(limits.Limited, max_bytes=limits.MAX_BODY_BYTES)
    api.add_middleware(origins.SameOrigin)
    api.add_middleware(origins.HeadAsGet)
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed))
    api.add_middleware(Measured, metrics=api.state.metrics)
    _describe(api)
    return api


def application() -> FastAPI:
    """Makes the application from the settings, for servers that are told `audience.api.server:application()`."""
    settings = Settings()
    return create_api(App(settings), settings.host)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    gc.freeze()  # what was imported stays: collections need not look at it
    yield


def _describe(api: FastAPI) -> None:
    """Describes each route by its docstring, and adds the layout of problem details."""
    original = api.openapi

    def openapi() -> dict[str, Any]:
        described = original()
        for operation in (operation for path in described["paths"].values() for operation in path.values()):
            operation["summary"] = operation["description"].partition(".")[0]
        layouts = described["components"]["schemas"]
        if "ProblemDetails" not in layouts:
            layout = errors.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            layouts.update(layout.pop("$defs"))
            layouts["ProblemDetails"] = layout
            for unused in ("HTTPValidationError", "ValidationError"):
                layouts.pop(unused, None)
        return described

    api.openapi = openapi  # type: ignore[method-assign]
