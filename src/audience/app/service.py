"""The processes of the service: starts them, keeps them running, and hands jobs to them."""

from collections.abc import Collection, Sequence
from functools import partial

from audience.app.root import App
from audience.jobs import celery_app, child
from audience.jobs.supervisor import Child, Supervisor
from audience.jobs.worker import give_up_process
from audience.settings import Settings
from audience.store.queues import Lane, parse_lanes

__all__ = ["Child", "Supervisor", "carry_out_job", "celery_arguments", "check_broker", "messages", "supervisor"]


def supervisor(app: App, children: Sequence[Child]) -> Supervisor:
    """Makes the supervisor of these processes; the jobs of one that ends go to others at once."""
    return Supervisor(children, app.settings.stop_s, ended=partial(give_up_process, app.store))


def check_broker(settings: Settings) -> None:
    """Refuses a broker that cannot be used because Celery is not installed."""
    if settings.broker_url is not None:
        celery_app.check_installed()


def celery_arguments(settings: Settings, pool: str, threads: int | None, queues: Sequence[str]) -> list[str]:
    """Returns the arguments with which Celery's program starts a worker of these queues."""
    celery_app.check_installed()
    lanes = parse_lanes(queues)
    return celery_app.worker_arguments(settings.queue_prefix, pool, threads or settings.threads, lanes)


def messages(settings: Settings, lanes: Collection[Lane]) -> dict[str, int] | None:
    """Returns queue at the broker -> messages that wait there; None without a broker. Raises BadInput when it refuses
    us, Transient when it is away."""
    if settings.broker_url is None:
        return None
    served = parse_lanes(settings.queues)
    celery = celery_app.make_celery(
        settings.broker_url.get_secret_value(),
        prefix=settings.queue_prefix,
        lanes=served,
        visibility_timeout_s=settings.visibility_timeout_s,
        stop_s=settings.stop_s,
    )
    return celery_app.lengths(celery, sorted(lanes))


def carry_out_job(app: App, job_id: int) -> None:
    """Does the part of a process that was started for one job."""
    child.carry_out(job_id, app.store.jobs.get, app.job_kinds)
