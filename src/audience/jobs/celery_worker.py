"""A Celery worker: its main process runs the dispatcher, each process that carries out jobs a `Worker`.

With the pool `prefork` the children carry out jobs, and the main process imports nothing heavy; with `threads` and
`solo` the main process carries them out itself; with `gevent` all of ours runs in one other process (see
`gevent_bridge`). A message leads to the same as what a local worker's thread does."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from audience.errors import AudienceError
from audience.jobs.celery_app import TASK, queues_of, sender
from audience.jobs.dispatcher import Dispatcher
from audience.jobs.gevent_bridge import GeventBridge, carry_out
from audience.jobs.leases import RetryPolicy
from audience.jobs.worker import POLL_S, Worker, process_name
from audience.process import SystemThread, end_with_parent, log_to_stderr
from audience.store.queues import Lane, parse_lanes, text_of
from audience.store.records import Store

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

POOLS = ("prefork", "threads", "solo", "gevent")
HAND_ON_S = 1.0
Receive = Callable[[int], None]
OpenWorker = Callable[[str, int, tuple[Lane, ...], str], Worker]


@dataclass
class CeleryWorker:
    """Our part of one process of a Celery worker. `open_worker` makes a `Worker` from a name, a number of threads,
    lanes and a pool."""

    celery: "Celery"
    open_store: Callable[[], Store]
    open_worker: OpenWorker
    policy: RetryPolicy
    options: dict[str, Any] | None = None
    receive: Receive | None = None
    worker: Worker | None = None
    dispatcher: Dispatcher | None = None
    bridge: GeventBridge | None = None
    _leaving: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> None:
        """Registers the task, and connects the methods below to Celery's signals."""
        import click
        from celery import signals

        self.celery.task(name=TASK)(self._job())
        self.celery.user_options["worker"].add(click.Option(["--tied"], is_flag=True, hidden=True))
        called = {
            signals.setup_logging: self.on_logging,
            signals.celeryd_init: self.on_options,
            signals.celeryd_after_setup: self.on_start,
            signals.worker_process_init: self.on_child_start,
            signals.worker_process_shutdown: self.on_child_end,
            signals.worker_shutting_down: self.on_stop,
            signals.worker_shutdown: self.on_end,
        }
        for signal, method in called.items():
            signal.connect(method, weak=False)

    def _job(self) -> Receive:
        def job(job_id: int) -> None:
            """Carries out a job of our records, if it still waits."""
            assert self.receive is not None, "a message came before the worker was ready"
            self.receive(job_id)

        return job

    # the main process

    def on_logging(self, **_: Any) -> None:
        log_to_stderr()
        for noisy in ("celery.worker.strategy", "celery.app.trace"):  # a line for each message
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("kombu.transport.native_delayed_delivery").setLevel(logging.ERROR)  # we have our own delays

    def on_options(self, options: dict[str, Any], **_: Any) -> None:
        self.options = options

    def on_start(self, instance: Any, **_: Any) -> None:
        """Starts our part, before any message is delivered."""
        pool = str(instance.pool_cls.__module__).rpartition(".")[2].replace("thread", "threads")
        with _fatal():
            queues = queues_of(self.celery)
            lanes = tuple(sorted(queues.lane(name) for name in self.celery.amqp.queues.consume_from))
            self.celery.conf.audience_queues = text_of(lanes)  # children are handed this
            if pool == "gevent":
                self._start_bridge(instance.concurrency, lanes)
            else:
                if pool != "prefork":
                    threads = 1 if pool == "solo" else instance.concurrency
                    self._start_worker(process_name(os.getpid()), threads, lanes, pool)
                self._start_dispatcher()
        if self.options and self.options.get("tied"):
            end_with_parent()

    def _start_bridge(self, threads: int, lanes: tuple[Lane, ...]) -> None:
        command = ["-m", "audience", "worker", "gevent-bridge", str(threads), text_of(lanes)]
        self.bridge = GeventBridge(command)
        self.receive = self.bridge.receive
        threading.Thread(target=self._end_bridge, name="leave").start()  # a greenlet

    def _start_dispatcher(self) -> None:
        store = self.open_store()
        self.dispatcher = Dispatcher(store, sender(self.celery), self.policy)
        self.dispatcher.start()
        SystemThread(partial(self._leave_to_others, store), "leave").start()

    def _start_worker(self, name: str, threads: int, lanes: tuple[Lane, ...], pool: str) -> None:
        self.worker = self.open_worker(name, threads, lanes, pool)
        self.worker.start()
        self.receive = self.worker.receive

    def on_stop(self, **_: Any) -> None:
        self._leaving.set()  # no more than that: this is called from within a signal

    def _end_bridge(self) -> None:
        """Stops the other process, which then does what `_leave_to_others` does here; kills it if it hangs."""
        assert self.bridge is not None
        while not self._leaving.wait(POLL_S):
            pass
        self.bridge.hang_up()
        time.sleep(2 * self.policy.stop_s + 2 * HAND_ON_S)
        self.bridge.kill()

    def _leave_to_others(self, store: Store) -> None:
        """Gives jobs under way some time when the worker is to stop, then leaves them to others. Celery alone would
        wait for them for ever. A thread that works on one hears of it at its next heartbeat, or ends with the
        process."""
        while not self._leaving.wait(POLL_S):
            pass
        began = time.monotonic()
        time.sleep(self.policy.stop_s)
        while time.monotonic() < began + 2 * self.policy.stop_s + HAND_ON_S:
            try:
                store.workers.relieve(process_name(os.getpid()))
            except AudienceError as error:
                log.warning("action=relieve_failed reason=%s", error)
            time.sleep(min(self.policy.stop_s, HAND_ON_S) or HAND_ON_S)
        log.warning("action=worker_left_work_behind")
        self._say_that_it_left(store)
        os._exit(0)

    def _say_that_it_left(self, store: Store) -> None:
        try:
            for worker in store.workers.named(process_name(os.getpid())):
                store.workers.remove(worker, lost=False)
        except AudienceError as error:  # others will notice
            log.warning("action=worker_left_without_saying reason=%s", error)

    def on_end(self, **_: Any) -> None:
        if self.dispatcher is not None:
            self.dispatcher.stop()
        self.on_child_end()

    # the process apart from greenlets

    def work_behind_bridge(self, threads: int, lanes: tuple[Lane, ...]) -> NoReturn:
        """Runs our part in a process that receives jobs through its standard input, until the other side hangs up."""
        with _fatal():
            self._start_worker(_child_name(), threads, lanes, "gevent")
            assert self.worker is not None
            self.dispatcher = Dispatcher(self.open_store(), sender(self.celery), self.policy)
            self.dispatcher.start()
        carry_out(self.worker.receive, threads)
        self.on_end()
        os._exit(0)  # a thread may still be in a long call

    # the children of the pool prefork

    def on_child_start(self, **_: Any) -> None:
        from celery import current_app

        if self.options is not None:  # the pool `solo` calls this too, in the main process
            return
        with _fatal():
            lanes = parse_lanes(str(current_app.conf.audience_queues).split(","))
            self._start_worker(_child_name(), 1, lanes, "prefork")

    def on_child_end(self, **_: Any) -> None:
        if self.worker is not None:
            self.worker.stop()


class _fatal:  # noqa: N801
    """Ends the process on any error inside: Celery would only log it, and go on without our part."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, (AudienceError, EOFError)):
            log.error("action=worker_cannot_start reason=%s", error)
            raise SystemExit(1) from None
        if isinstance(error, Exception):
            log.exception("action=worker_cannot_start")
            raise SystemExit(1) from error


def _child_name() -> str:
    return f"{process_name(os.getppid())}:{os.getpid()}"
