"""A worker: takes jobs, carries them out in a few threads, and shows that it is alive.

Whether another worker is lost is judged by its beat: one that does not change for the length of a lease, as this
worker counts time, is given up, and its jobs are taken by others. A wrong guess is harmless (see `steps`), and no
clock is compared with another."""

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from audience.errors import AudienceError, Conflict, Transient
from audience.jobs.steps import Steps, Stopped, Watch
from audience.store.database import Record
from audience.store.records import Store

log = logging.getLogger(__name__)

POLL_S = 0.2
BEATS_A_LEASE = 15
LONGEST_DELAY_S = 30.0
FOR_EVER = ("abort", "delete")
"""Jobs that are tried until they succeed."""


@dataclass(frozen=True)
class Patience:
    """How long a worker waits for what. `lease_s`: after so long without a beat a worker is given up; `retry_s`: the
    pause after a first failure that may pass, doubled up to half a minute; `retries`: how many such failures a job
    may have; `losses`: how many workers may vanish with it; `stop_s`: the time that jobs under way are given when the
    worker is told to stop."""

    lease_s: float = 15.0
    retry_s: float = 1.0
    retries: int = 60
    losses: int = 10
    stop_s: float = 10.0

    def delay_s(self, failures: int) -> float:
        return float(min(self.retry_s * 2 ** min(failures, 16), LONGEST_DELAY_S))


class Sight:
    """What one worker sees of the others: which beats have not changed for a lease. Time in which this worker itself
    did not look does not count: it may have been asleep."""

    def __init__(self, lease_s: float, interval_s: float) -> None:
        self._lease_s = lease_s
        self._most_s = 2 * interval_s
        self._looked_at: float | None = None
        self._unchanged: dict[str, tuple[int, float]] = {}

    def lost(self, beats: dict[str, int], now_s: float) -> list[str]:
        """Those to be given up; `now_s` is of a clock that only goes forward."""
        passed_s = min(now_s - self._looked_at, self._most_s) if self._looked_at is not None else 0.0
        self._looked_at = now_s
        before = self._unchanged
        self._unchanged = {}
        for worker, beat in beats.items():
            known, age_s = before.get(worker, (beat, 0.0))
            self._unchanged[worker] = (beat, age_s + passed_s if known == beat else 0.0)
        return [worker for worker, (_, age_s) in self._unchanged.items() if age_s >= self._lease_s]


@dataclass
class Delays:
    """Which delayed jobs have waited long enough since this worker first saw them."""

    seen: dict[tuple[int, int], float] = field(default_factory=dict)

    def ripe(self, delayed: dict[tuple[int, int], float], now_s: float) -> list[int]:
        self.seen = {key: self.seen.get(key, now_s) for key in delayed}
        return [job for (job, attempts), seen in self.seen.items() if now_s - seen >= delayed[(job, attempts)]]


def process_name(pid: int) -> str:
    """What the worker in this process of this machine is called."""
    return f"{platform.node()}:{pid}"


def give_up_process(store: Store, pid: int) -> None:
    """The worker of a process that is known to have ended is given up at once: nobody needs to wait for its lease."""
    try:
        for worker in store.workers.named(process_name(pid)):
            n_jobs = store.workers.remove(worker, lost=True)
            log.warning("action=worker_lost worker=%s jobs=%s", worker, n_jobs)
    except AudienceError as error:  # then its lease decides
        log.warning("action=worker_not_given_up pid=%s reason=%s", pid, error)


class Worker:
    """Takes jobs until it is stopped; those of one run only, if one is given."""

    def __init__(
        self, store: Store, steps: Steps, *, threads: int, patience: Patience, run_id: str | None = None
    ) -> None:
        self.store = store
        self.steps = steps
        self.threads = threads
        self.patience = patience
        self.run_id = run_id
        self.name = process_name(os.getpid())
        self._beat_s = patience.lease_s / BEATS_A_LEASE
        self._id = ""
        self._active: dict[int, Watch] = {}
        self._idle: set[int] = set()
        self._delays = Delays()
        self._looking = threading.Lock()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to take jobs, in threads of its own."""
        self._id = self.store.workers.add(self.name, self.threads)
        bodies = [self._keep_alive, *[self._keep_working] * self.threads]
        self._threads = [threading.Thread(target=body, name=body.__name__, daemon=True) for body in bodies]
        for thread in self._threads:
            thread.start()
        log.info("action=worker_started worker=%s threads=%s", self._id, self.threads)

    def stop(self) -> None:
        """Takes no more jobs. What is under way is given some time; what is not done then is left to others."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + self.patience.stop_s
        while self._active and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        self._drop_all()
        for thread in self._threads[1:]:
            thread.join(self.patience.stop_s)
        self._ended.set()
        self._threads[0].join()
        try:
            self.store.workers.remove(self._id, lost=False)
        except AudienceError as error:  # others will notice
            log.warning("action=worker_left_without_saying worker=%s reason=%s", self._id, error)
        log.info("action=worker_stopped worker=%s", self._id)

    # jobs

    def _keep_working(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._take()
                if job is not None:
                    self.handle(job)
                    continue
            except AudienceError as error:
                log.warning("action=take_failed worker=%s reason=%s", self._id, error)
            except Exception:
                log.exception("action=worker_thread_crashed worker=%s", self._id)
            with self._changed:
                self._changed.wait(POLL_S)

    def _take(self) -> Record | None:
        """The next job. One thread looks at a time; when it finds one, the others look too."""
        if not self._looking.acquire(blocking=False):
            return None
        try:
            ripe = self._delays.ripe(self.store.jobs.delayed(), time.monotonic())
            job = self.store.jobs.take(self._id, ripe, self.run_id)
        finally:
            self._looking.release()
        if job is not None:
            with self._changed:
                self._changed.notify_all()
        return job

    def handle(self, job: Record) -> None:
        """Carries out a job that was taken, and ends it one way or another."""
        watch = Watch()
        self._active[job["id"]] = watch
        try:
            self._attempt(job, watch)
        except (Stopped, KeyboardInterrupt):  # polars raises the latter in whatever thread is in it on Ctrl-C
            self._end(job, self.store.jobs.give_back, job["worker"], [job["id"]])
        except Transient as error:
            self._try_later(job, str(error))
        except AudienceError as error:
            self._fail(job, str(error))
        except BaseException as error:
            log.exception("action=job_crashed kind=%s task_id=%s", job["kind"], job["task_id"])
            self._fail(job, f"unexpected {type(error).__name__} in the step {job['kind']}: {error}")
        finally:
            if self._active.get(job["id"]) is watch:
                del self._active[job["id"]]
            with self._changed:
                self._changed.notify_all()

    def _attempt(self, job: Record, watch: Watch) -> None:
        if job["losses"] >= self.patience.losses and job["kind"] not in FOR_EVER:
            raise Conflict(f"{job['losses']} workers vanished while they worked on it: look for what kills them")
        self.steps.carry_out(job, watch)

    def _try_later(self, job: Record, reason: str) -> None:
        if job["failures"] >= self.patience.retries and job["kind"] not in FOR_EVER:
            self._fail(job, f"given up after {job['failures'] + 1} attempts: {reason}")
            return
        delay_s = self.patience.delay_s(job["failures"])
        log.warning("action=job_delayed kind=%s task_id=%s reason=%s", job["kind"], job["task_id"], reason)
        self._end(job, self.store.jobs.put_back, job, delay_s, reason)

    def _fail(self, job: Record, reason: str) -> None:
        if job["kind"] in FOR_EVER:
            self._end(job, self.store.jobs.put_back, job, LONGEST_DELAY_S, reason)
            return
        self._end(job, self.steps.fail, job, reason)

    def _end(self, job: Record, how: Callable[..., None], *arguments: Any) -> None:
        """Writes down how a job ended, as soon as our records can be reached; not when it was taken away."""
        failures = 0
        while True:
            try:
                how(*arguments)
            except Transient as error:
                log.warning("action=end_delayed job=%s reason=%s", job["id"], error)
                if self._ended.wait(self.patience.delay_s(failures)):
                    return
                failures += 1
            except Conflict:
                log.info("action=job_taken_away job=%s kind=%s", job["id"], job["kind"])
                return
            else:
                return

    # being alive

    def _keep_alive(self) -> None:
        sight = Sight(self.patience.lease_s, self._beat_s)
        while not self._ended.wait(self._beat_s):
            try:
                self._beat()
                self._give_up_lost(sight)
            except AudienceError as error:
                log.warning("action=beat_failed worker=%s reason=%s", self._id, error)
            except Exception:
                log.exception("action=beat_crashed worker=%s", self._id)

    def _beat(self) -> None:
        """Tells the others of this worker, and hears which jobs are no more its own."""
        active = dict(self._active)
        mine = self.store.workers.beat(self._id, {job: watch.n_read for job, watch in active.items()})
        if mine is None:
            log.warning("action=worker_was_given_up worker=%s", self._id)
            self._drop_all()
            self._id = self.store.workers.add(self.name, self.threads)
            return
        for job, watch in active.items():
            if job not in mine:
                watch.stop.set()
        self._give_back_idle(mine - set(active))

    def _give_back_idle(self, idle: set[int]) -> None:
        """Jobs that were taken, but that no thread has worked on for a beat: whatever went wrong, others may try."""
        if stuck := idle & self._idle:
            log.error("action=jobs_given_back worker=%s jobs=%s", self._id, sorted(stuck))
            self.store.jobs.give_back(self._id, stuck)
        self._idle = idle

    def _give_up_lost(self, sight: Sight) -> None:
        beats = self.store.workers.beats()
        beats.pop(self._id, None)
        for worker in sight.lost(beats, time.monotonic()):
            n_jobs = self.store.workers.remove(worker, lost=True)
            log.warning("action=worker_lost worker=%s jobs=%s", worker, n_jobs)

    def _drop_all(self) -> None:
        for watch in list(self._active.values()):
            watch.stop.set()
