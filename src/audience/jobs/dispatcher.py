"""The dispatcher sends a message for each job that waits, to workers that take jobs from a broker.

Our own records stay the truth. A message only says that a job may be claimed; one that comes late or twice is refused
there (`Jobs.claim`), one that never arrived is sent again. Several dispatchers do no harm: of two that want to send a
message one does (`Jobs.send_next`). Nothing heavy is imported: a dispatcher also lives in processes that only start
others."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from audience.errors import AudienceError, Transient
from audience.jobs.leases import Ages, LeaseMonitor, RetryPolicy
from audience.jobs.worker import BEATS_A_LEASE, LOOK_AGAIN_S, POLL_S, give_up_lost
from audience.process import SystemThread
from audience.store.database import Record
from audience.store.jobs import Sent
from audience.store.queues import Lane, parse_lanes
from audience.store.records import Store
from audience.store.workers import LOCAL

log = logging.getLogger(__name__)

AHEAD = 2
"""Messages under way for each thread that could take them. Few: an urgent job waits behind them."""
LONGEST_SILENCE = 16
"""In leases: the longest pause between two messages for one job."""


class Dispatcher:
    """Sends messages until it is stopped. It also gives up lost workers, so that their jobs go on when all of a
    worker's processes but the one of its dispatcher are dead."""

    def __init__(self, store: Store, send: Callable[[Sent], None], policy: RetryPolicy) -> None:
        """`send` raises Transient when the broker cannot be reached."""
        beat_s = max(policy.lease_s / BEATS_A_LEASE, POLL_S)
        self._store = store
        self._send = send
        self._policy = policy
        self._ages: Ages[int] = Ages(beat_s)
        self._sight = LeaseMonitor(policy.lease_s, beat_s)
        self._stopping = threading.Event()
        self._thread = SystemThread(self._keep_sending, "dispatcher")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(self._policy.stop_s)

    def _keep_sending(self) -> None:
        pause_s, failures = POLL_S, 0
        while not self._stopping.wait(pause_s):
            try:
                self.look(time.monotonic())
                pause_s, failures = POLL_S, 0
            except Transient as error:
                pause_s, failures = self._policy.delay_s(failures), failures + 1
                log.warning("action=send_failed again_in_s=%s reason=%s", pause_s, error)
            except AudienceError as error:
                pause_s = LOOK_AGAIN_S
                log.warning("action=send_failed again_in_s=%s reason=%s", pause_s, error)
            except Exception:
                log.exception("action=dispatcher_crashed")

    def look(self, now_s: float) -> None:
        """Does one round: gives up lost workers, and sends the messages that are due."""
        workers = self._store.workers.all()
        give_up_lost(self._store, self._sight, {worker["id"]: worker["beat"] for worker in workers}, now_s)
        self._send_lost_again(now_s)
        for lane, most in window(workers).items():
            while sent := self._store.jobs.send_next(lane, most):  # counts it first, else two would send
                self._deliver(sent)

    def _send_lost_again(self, now_s: float) -> None:
        """Sends a message again when no worker has claimed its job for a lease. The message may be lost, or all threads
        may be busy, so the pause doubles each time."""
        sent = {each.job: each for each in self._store.jobs.sent()}
        ages = self._ages.of({job: (each.attempts, each.times) for job, each in sent.items()}, now_s)
        for job, age_s in ages.items():
            silence = min(2 ** (min(sent[job].times, 10) - 1), LONGEST_SILENCE)
            if age_s >= silence * self._policy.lease_s and (again := self._store.jobs.send_again(sent[job])):
                log.info("action=sent_again job=%s times=%s", again.job, again.times)
                self._deliver(again)

    def _deliver(self, sent: Sent) -> None:
        try:
            self._send(sent)
        except Transient:
            self._store.jobs.not_sent(sent)
            raise


def window(workers: list[Record]) -> Mapping[Lane, int]:
    """Returns lane -> how many messages may be under way for it: `AHEAD` for each thread that serves it."""
    found: dict[Lane, int] = {}
    for worker in workers:
        for lane in parse_lanes(worker["queues"].split(",")) if worker["pool"] != LOCAL else ():
            found[lane] = found.get(lane, 0) + AHEAD * worker["threads"]
    return found
