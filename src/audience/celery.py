"""The entry of `celery -A audience ...`, which looks for an application here. The only module that does its work when
it is imported, because Celery expects that; everybody else calls the functions below."""

import os
import sys
from typing import TYPE_CHECKING

from audience.errors import AudienceError, BadInput
from audience.jobs.celery_app import make_celery
from audience.jobs.celery_worker import CeleryWorker
from audience.jobs.leases import RetryPolicy
from audience.jobs.worker import Worker
from audience.settings import Settings, read_settings
from audience.store.queues import Lane, parse_lanes
from audience.store.records import Store, open_store

if TYPE_CHECKING:
    from audience.jobs.celery_app import Celery

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as in __main__, for this process and its children


def celery_of(settings: Settings) -> "Celery":
    """Returns the Celery application of the broker that the settings name."""
    if settings.broker_url is None:
        raise BadInput("there is no broker: set AUDIENCE_BROKER_URL, redis://... or amqp://...")
    return make_celery(
        settings.broker_url.get_secret_value(),
        prefix=settings.queue_prefix,
        lanes=parse_lanes(settings.queues),
        visibility_timeout_s=settings.visibility_timeout_s,
        stop_s=settings.stop_s,
    )


def worker_of(celery: "Celery", s: Settings) -> CeleryWorker:
    """Returns our part of its workers. Heavy modules are imported in the processes that carry out jobs."""
    policy = RetryPolicy.of(s)

    def store() -> Store:
        return open_store(s.home, s.resolved_store_url, s.resolved_blobs_url)

    def worker(name: str, threads: int, lanes: tuple[Lane, ...], pool: str) -> Worker:
        from audience.app.root import App

        app = App(s)
        return Worker(app.store, app.job_kinds, threads=threads, policy=policy, lanes=lanes, pool=pool, name=name)

    return CeleryWorker(celery, store, worker, policy)


def _made() -> "Celery":
    try:
        settings = read_settings()
        celery = celery_of(settings)
    except AudienceError as error:
        sys.exit(f"error {error}")
    celery.conf.include = [__name__]  # a spawned child finds us by it
    worker_of(celery, settings).connect()
    return celery


app = _made()
