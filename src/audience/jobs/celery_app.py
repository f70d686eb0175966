"""Celery as Audience uses it: its settings, its queues, and the message. Only this folder imports Celery, and only
inside of functions: an installation without a broker needs no Celery."""

import os
import ssl
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from audience.databases import urls
from audience.errors import BadInput, Transient
from audience.store.jobs import Sent
from audience.store.queues import Lane, parse_lanes

if TYPE_CHECKING:
    from celery import Celery as Celery

TASK = "audience.job"
APPLICATION = "audience.celery"
"""The module that Celery's program imports."""
SOCKET_TIMEOUT_S = 10
HEARTBEAT_S = 30
AHEAD_OF_GREENLETS = 4
"""The prefetch multiplier for gevent. Without Celery's event loop, a consumer whose prefetch is used up looks again
only after two seconds."""
REFUSALS = ("AccessRefused", "NotAllowed", "AuthenticationError", "AuthorizationError", "NoPermissionError")
"""Errors of the brokers' drivers that retrying does not cure."""
CHILD_STARTS_S = 60
"""How long a pool child may take to start: it imports a lot, on a machine that may be busy."""


class Queues:
    """Names and declares our queues at the broker, one for each lane."""

    def __init__(self, prefix: str, *, quorum: bool) -> None:
        self._prefix = f"{prefix}."
        self._quorum = quorum

    def name(self, lane: Lane) -> str:
        return f"{self._prefix}{lane}"

    def lane(self, name: str) -> Lane:
        """Returns the lane of a queue at the broker. Raises BadInput for a queue that is none of ours."""
        found = parse_lanes([name.removeprefix(self._prefix)]) if name.startswith(self._prefix) else ()
        if len(found) != 1:
            raise BadInput(f"{name!r} is none of our queues; they look like {self._prefix}default.label")
        return found[0]

    def queue(self, lane: Lane) -> Any:
        from kombu.entity import Queue

        name = self.name(lane)
        arguments = {"x-queue-type": "quorum"} if self._quorum else None
        return Queue(name, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


def check_installed() -> None:
    if find_spec("celery") is None:
        raise BadInput("a broker needs Celery: pip install 'audience[celery]'")


def check_broker(broker_url: str) -> None:
    """Refuses a URL that cannot be read, before a driver reports it with the password in it. Several brokers, of which
    one stands in for another, are separated by semicolons."""
    try:
        for url in broker_url.split(";"):
            urls.parse(url)
    except BadInput as error:
        raise BadInput(f"AUDIENCE_BROKER_URL: {error}") from None


def worker_arguments(prefix: str, pool: str, threads: int, lanes: Iterable[Lane]) -> list[str]:
    """Returns the arguments with which Celery's program starts a worker of these lanes. Mingle and gossip are off: our
    workers know each other from the records."""
    queues = Queues(prefix, quorum=False)
    asked = ["-Q", ",".join(queues.name(lane) for lane in lanes), "-P", pool, "-c", str(threads)]
    ahead = ["--prefetch-multiplier", str(AHEAD_OF_GREENLETS)] if pool == "gevent" else []
    named = ["-n", f"{prefix}-{os.getpid()}@%h"]
    return ["-q", "-A", APPLICATION, "worker", *asked, *ahead, *named, "--without-mingle", "--without-gossip"]


def make_celery(
    broker_url: str, *, prefix: str, lanes: Iterable[Lane], visibility_timeout_s: float, stop_s: float
) -> "Celery":
    """Makes a Celery application without tasks. `lanes`: what its workers serve unless `-Q` says otherwise."""
    check_installed()
    check_broker(broker_url)
    from celery import Celery

    celery = Celery("audience", broker=broker_url, set_as_current=True)
    rabbitmq = broker_url.startswith("amqp")
    queues = Queues(prefix, quorum=rabbitmq)
    celery.amqp.autoexchange = lambda _: None  # the broker's own, that brings a message to the queue of its key
    celery.conf.update(
        audience_prefix=prefix,
        task_queues=[queues.queue(lane) for lane in lanes],
        task_default_queue=queues.name(next(iter(lanes))),
        task_create_missing_queue_type="quorum" if rabbitmq else "classic",
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,  # a message that is acknowledged before its job ends is lost with the worker
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,  # a busy worker would keep messages from idle ones
        worker_pool_start_method="spawn",  # polars hangs in a child that was forked after it was used
        worker_proc_alive_timeout=CHILD_STARTS_S,
        worker_soft_shutdown_timeout=stop_s,
        worker_send_task_events=True,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # by default a worker ends when its broker is away for some minutes
        broker_heartbeat=HEARTBEAT_S,
        broker_transport_options=_rabbitmq() if rabbitmq else _redis(visibility_timeout_s),
        broker_use_ssl=_tls(broker_url),
    )
    return celery


def _rabbitmq() -> dict[str, Any]:
    return {"confirm_publish": True}


def _redis(visibility_timeout_s: float) -> dict[str, Any]:
    """Returns Redis' transport options. The timeouts of sockets make a broker that hangs an error that is retried."""
    policy = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    return {"visibility_timeout": visibility_timeout_s, "socket_keepalive": True, **policy}


def _tls(broker_url: str) -> dict[str, Any] | bool:
    """Returns the TLS options of a broker; its certificate is always checked."""
    if broker_url.startswith("rediss://"):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if broker_url.startswith("amqps://"):
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": urls.parse(broker_url.partition(";")[0]).host}
    return False


def queues_of(celery: "Celery") -> Queues:
    return Queues(celery.conf.audience_prefix, quorum=celery.conf.task_create_missing_queue_type == "quorum")


def sender(celery: "Celery") -> Callable[[Sent], None]:
    """Returns the function that sends the message of a job; it raises Transient when the broker cannot be reached."""
    from kombu.exceptions import OperationalError

    queues = queues_of(celery)

    def send(sent: Sent) -> None:
        try:
            queue = queues.queue(sent.lane)
            celery.send_task(TASK, [sent.job], queue=queue, retry=False, confirm_timeout=SOCKET_TIMEOUT_S)
        except (OperationalError, OSError) as error:
            raise Transient(f"the broker cannot be reached: {error}") from error

    return send


def lengths(celery: "Celery", asked: Iterable[Lane]) -> dict[str, int]:
    """Returns queue at the broker -> messages that no worker has yet; 0 where there is no such queue. Raises Transient
    when the broker cannot be reached, BadInput when it refuses us."""
    from kombu.exceptions import OperationalError

    queues = queues_of(celery)
    with celery.connection_for_read(connect_timeout=SOCKET_TIMEOUT_S) as connection:
        try:
            connection.ensure_connection(max_retries=1)
            return {queues.name(lane): _length(connection, queues.name(lane)) for lane in asked}
        except (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors) as error:
            if type(error.__cause__ or error).__name__ in REFUSALS:
                raise BadInput(f"the broker refuses us, look at AUDIENCE_BROKER_URL: {error}") from None
            raise Transient(f"the broker cannot be reached: {error}") from error


def _length(connection: Any, name: str) -> int:
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue=name, passive=True).message_count)
        except connection.channel_errors:  # nobody has asked for it yet
            return 0
