"""`audience up`, `api` and `worker`: Audience as a service."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer

from audience.cli import options as o
from audience.cli import show
from audience.cli.show import console
from audience.errors import AudienceError, BadInput, Transient
from audience.process import end_on_signals, end_with_parent, log_to_stderr

BACKLOG = 128
STREAMS_END_S = 5
LOOK_S = 0.5

workers = typer.Typer()

Host = Annotated[str | None, typer.Option(help="address to listen on; by default only this machine can ask")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="port to listen on")]
Threads = Annotated[
    int | None, typer.Option("--threads", "--concurrency", min=1, max=64, help="jobs worked on at once by one worker")
]
Pool = Literal["prefork", "threads", "solo", "gevent"]
Queues = Annotated[
    str | None, typer.Option("--queue", help="queues to serve: NAME, NAME.label or NAME.manage; several with commas")
]
Tied = Annotated[bool, typer.Option("--tied", hidden=True, help="end when standard input is closed")]


def up(
    host: Host = None,
    port: Port = None,
    workers: Annotated[int | None, typer.Option(min=0, max=64, help="worker processes")] = None,
    threads: Threads = None,
) -> None:
    """Start the API and workers, and keep them running. Brings our own records to this version's layout first."""
    from audience.app.root import migrate_store
    from audience.app.service import Child, check_broker, supervisor
    from audience.settings import read_settings

    settings = read_settings()
    host, port = settings.listening_host(host), port or settings.port
    listener = listening(host, port)  # first: a second service on this port must end before it migrates
    check_broker(settings)
    migrate_store(settings)
    app = o.open_app()
    log_to_stderr()
    ending = ["--threads", str(threads or settings.threads)]
    number = listener.fileno()
    children = [Child("api", ["api", "--host", host, "--socket", str(number)], inherits=[number])]
    children += [
        Child(f"worker {n + 1}", ["worker", *ending], polite=True)
        for n in range(settings.workers if workers is None else workers)
    ]
    supervised = supervisor(app, children)
    end_on_signals(supervised.stop)
    console.print(f"http://{host}:{port}/docs   {len(children) - 1} workers   Ctrl-C stops", soft_wrap=True)
    supervised.run()


def api(
    host: Host = None,
    port: Port = None,
    inherited: Annotated[int | None, typer.Option("--socket", hidden=True, help="number of a listening socket")] = None,
    tied: Tied = False,
) -> None:
    """Start the API alone."""
    import uvicorn

    from audience.api.server import create_api
    from audience.settings import read_settings

    settings = read_settings()
    host, port = settings.listening_host(host), port or settings.port
    listener = listening(host, port) if inherited is None else socket.socket(fileno=inherited)
    application = create_api(o.open_app(), host)
    log_to_stderr()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            application.state.stopping.set()  # who watches runs is let go
            super().handle_exit(sig, frame)

    config = uvicorn.Config(application, log_config=None, access_log=False, timeout_graceful_shutdown=STREAMS_END_S)
    if tied:
        end_with_parent()
    Server(config).run(sockets=[listener])


@workers.callback(invoke_without_command=True)
def worker(
    context: typer.Context,
    threads: Threads = None,
    queue: Queues = None,
    pool: Annotated[Pool | None, typer.Option(help="how a worker of a broker works on several jobs at once")] = None,
    tied: Tied = False,
) -> None:
    """Start one worker: it takes jobs of its queues until it is told to stop (Ctrl-C, SIGTERM)."""
    if context.invoked_subcommand:
        return
    from audience.settings import read_settings

    settings = read_settings()
    names = tuple(queue.split(",")) if queue else settings.queues
    if settings.broker_url is not None:
        from audience.app.service import celery_arguments, messages

        arguments = celery_arguments(settings, pool or "prefork", threads, names)
        with suppress(Transient):  # a broker that is away for a while is waited for
            messages(settings, ())
        become_celery([*arguments, *(["--tied"] if tied else [])])
    if pool is not None:
        raise BadInput("--pool is for workers of a broker: set AUDIENCE_BROKER_URL, or leave it out")
    app = o.open_app()
    log_to_stderr()
    stop = threading.Event()
    end_on_signals(stop.set)
    if tied:
        end_with_parent()
    working = app.operations.worker(threads, queues=names)
    working.start()
    while not stop.wait(LOOK_S):  # a signal that another thread was given wakes nobody
        pass
    working.stop()


def become_celery(arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by a Celery worker, whose main process must not have imported anything heavy, or anything
    that `gevent` would have to patch."""
    os.execv(sys.executable, [sys.executable, "-m", "celery", *arguments])  # noqa: S606 - no shell is wanted


@workers.command(hidden=True)
def gevent_bridge(threads: int, queues: str) -> None:
    """Carry out the jobs that a worker of greenlets hands on through standard input."""
    from audience.app.types import parse_lanes
    from audience.celery import app as celery
    from audience.celery import worker_of
    from audience.settings import read_settings

    log_to_stderr()
    worker_of(celery, read_settings()).work_behind_bridge(threads, parse_lanes(queues.split(",")))


@workers.command(hidden=True)
def job(number: int) -> None:
    """Carry out one job for a worker, which speaks for it."""
    from audience.app.service import carry_out_job

    logging.basicConfig(level=logging.WARNING)
    end_with_parent()
    carry_out_job(o.open_app(), number)


@workers.command()
def status(as_json: o.Json = False) -> None:
    """Show the workers that are alive, what they work on, and how many messages wait at the broker."""
    from audience.app.service import messages
    from audience.app.types import parse_lanes

    app = o.open_app()
    found: dict[str, Any] = {"workers": app.operations.workers(), "messages": None, "trouble": None}
    queues = [queue for one in found["workers"] for queue in one["queues"].split(",")]
    try:
        found["messages"] = messages(app.settings, parse_lanes([*queues, *app.settings.queues]))
    except AudienceError as error:
        found["trouble"] = str(error)
    show.as_json(found) if as_json else show.status(found)


def listening(host: str, port: int) -> socket.socket:
    """Opens a socket that listens already: of two that want one port, the second fails at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        message = f"the API cannot listen on {host}, port {port} ({reason}): choose others with --host and --port"
        raise BadInput(message) from None
    return listener
