"""`/health`, `/ready`, `/metrics`, `/v1/workers`, `/docs`: for those who run the service."""

from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from audience.api.bodies.service import Health, Ready, WorkerList
from audience.api.context import Audience

router = APIRouter(tags=["service"])

ASSETS = "/docs/assets"


@router.get("/health")
def health() -> Health:
    """Say whether this process lives."""
    return Health(status="ok", version=version("audience"))


@router.get("/ready")
def ready(app: Audience) -> Ready:
    """Say whether requests can be carried out: our own records can be reached. `workers`: processes that take jobs;
    runs wait while there are none."""
    return Ready(store="ok", workers=len(app.operations.workers_alive()))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Show the metrics, for Prometheus."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/workers")
def workers(app: Audience) -> WorkerList:
    """List the processes that take jobs."""
    return WorkerList.model_validate({"items": app.operations.workers_alive()})


def install_docs(api: FastAPI) -> None:
    """Serves Swagger UI from files on this machine: the page loads nothing from elsewhere."""

    @api.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    @api.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        base = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{base}{api.openapi_url}",
            title=api.title,
            swagger_js_url=f"{base}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{base}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{base}{ASSETS}/favicon-32x32.png",
            swagger_ui_parameters=SHOWN,
        )

    api.mount(ASSETS, StaticFiles(directory=str(resources.files("fastapi_swagger") / "resources")), name="assets")


SHOWN: dict[str, Any] = {"tryItOutEnabled": True, "displayRequestDuration": True, "validatorUrl": None}
