"""`audience up`, `api` and `worker`: Audience as a service."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from audience.cli import options as o
from audience.cli.show import console
from audience.errors import BadInput

Host = Annotated[str | None, typer.Option(help="address to listen on; by default only this machine can ask")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="port to listen on")]
Threads = Annotated[int | None, typer.Option(min=1, max=64, help="partitions worked on at once in one process")]
Tied = Annotated[bool, typer.Option("--tied", hidden=True, help="end when standard input is closed")]


def up(
    host: Host = None,
    port: Port = None,
    workers: Annotated[int | None, typer.Option(min=0, max=64, help="worker processes")] = None,
    threads: Threads = None,
) -> None:
    """Start the API and workers, and keep them running. Brings our own records to this version's layout first."""
    from audience.app import migrate_store
    from audience.jobs.supervisor import Child, Supervisor
    from audience.jobs.worker import give_up_process

    settings = o.read_settings()
    host, port = host or settings.host, port or settings.port
    check_port(host, port)
    migrate_store(settings)
    store = o.open_app().store
    log_to_stderr()
    ending = ["--threads", str(threads or settings.threads)]
    children = [Child("api", ["api", "--host", host, "--port", str(port)])]
    children += [
        Child(f"worker {n + 1}", ["worker", *ending], polite=True)
        for n in range(settings.workers if workers is None else workers)
    ]
    supervisor = Supervisor(children, settings.stop_s, ended=partial(give_up_process, store))
    end_on_signals(supervisor.stop)
    console.print(f"http://{host}:{port}/docs   {len(children) - 1} workers   Ctrl-C stops", soft_wrap=True)
    supervisor.run()


def api(host: Host = None, port: Port = None, tied: Tied = False) -> None:
    """Start the API alone."""
    import uvicorn

    from audience.api.server import create_api

    settings = o.read_settings()
    host, port = host or settings.host, port or settings.port
    check_port(host, port)
    application = create_api(o.open_app(), host)
    log_to_stderr()
    config = uvicorn.Config(
        application, host=host, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    if tied:
        end_with_parent()
    server.run()
    if not server.started:
        raise typer.Exit(1)


def worker(threads: Threads = None, tied: Tied = False) -> None:
    """Start one worker process: it takes jobs of every run until it is told to stop (Ctrl-C, SIGTERM)."""
    app = o.open_app()
    log_to_stderr()
    stop = threading.Event()
    end_on_signals(stop.set)
    if tied:
        end_with_parent()
    working = app.worker(threads)
    working.start()
    stop.wait()
    working.stop()


def check_port(host: str, port: int) -> None:
    """Says at once what would keep the API from listening."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        message = f"the API cannot listen on {host}, port {port} ({reason}): choose others with --host and --port"
        raise BadInput(message) from None


def log_to_stderr() -> None:
    """One line a record, for people and for log collectors."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
    )


def end_on_signals(stop: Callable[[], None]) -> None:
    """Ctrl-C and SIGTERM end the program in good order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


def end_with_parent() -> None:
    """Ends this process as SIGTERM does when the one that started it is gone, however it ended: its end of our
    standard input is closed then."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read(): its lock would be held when this process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="tied", daemon=True).start()
