"""A worker keeps its lease, and carries out the jobs that it has claimed.

Whether another worker is lost is judged by its heartbeat: a worker whose heartbeat does not change for the length of a
lease, on this process's own clock, is given up, and others take its jobs. A wrong guess is harmless (see `kinds`), and
no two clocks are compared."""

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from audience.errors import AudienceError, Conflict, Elsewhere, Transient
from audience.jobs.backoff import OperationBackoff
from audience.jobs.child import run_in_child
from audience.jobs.control import JobCancelled, JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.jobs.leases import LONGEST_DELAY_S, LeaseMonitor, RetryPolicy
from audience.process import SystemThread
from audience.store.database import Record
from audience.store.jobs import TakenAway
from audience.store.queues import Lane, text_of
from audience.store.records import Store
from audience.store.workers import LOCAL

log = logging.getLogger(__name__)

POLL_S = 0.2
LOOK_AGAIN_S = 2.0
"""The pause after our own records could not be reached."""
BEATS_A_LEASE = 15


def process_name(pid: int) -> str:
    """Returns the name of the worker in this process of this machine."""
    return f"{platform.node()}:{pid}"


def give_up_process(store: Store, pid: int) -> None:
    """Gives up the workers of a process that is known to have ended, at once: nobody needs to wait for their lease."""
    try:
        for worker in store.workers.named(process_name(pid)):
            n_jobs = store.workers.remove(worker, lost=True)
            log.warning("action=worker_lost worker=%s jobs=%s", worker, n_jobs)
    except AudienceError as error:  # then its lease decides
        log.warning("action=worker_not_given_up pid=%s reason=%s", pid, error)


def give_up_lost(store: Store, monitor: LeaseMonitor, beats: Mapping[str, int], now_s: float) -> None:
    """Gives up the workers whose heartbeat has not changed for a lease: their jobs go to others."""
    for worker in monitor.lost(beats, now_s):
        n_jobs = store.workers.remove(worker, lost=True)
        log.warning("action=worker_lost worker=%s jobs=%s", worker, n_jobs)


class Worker:
    """One process's part in the work: its name among the others, its heartbeat, and the jobs that it has claimed."""

    lasts = True
    """Whether it takes whatever comes, and not the jobs of one operation only."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        *,
        threads: int,
        policy: RetryPolicy,
        lanes: tuple[Lane, ...],
        pool: str = LOCAL,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment`: variables for the processes that it starts for single jobs, beside its own."""
        self.store = store
        self.kinds = kinds
        self.threads = threads
        self.policy = policy
        self.lanes = lanes
        self.pool = pool
        self.name = name or process_name(os.getpid())
        self.environment = environment or {}
        self._beat_s = policy.lease_s / BEATS_A_LEASE
        self._id = ""
        self._active: dict[int, JobControl] = {}
        self._idle: dict[int, int] = {}
        self._backoff = OperationBackoff()
        self._ended = threading.Event()
        self._threads: list[SystemThread] = []

    def start(self) -> None:
        """Registers the worker, and starts its heartbeat."""
        self._id = self._add()
        self._start_thread(self._keep_alive)
        if self.lasts:
            self.store.sweeps.ensure()
        log.info("action=worker_started worker=%s threads=%s", self._id, self.threads)

    def _add(self) -> str:
        return self.store.workers.add(self.name, self.threads, text_of(self.lanes), self.pool)

    def _start_thread(self, body: Callable[[], None]) -> None:
        self._threads.append(SystemThread(body, body.__name__))
        self._threads[-1].start()

    def stop(self, grace_s: float | None = None) -> None:
        """Waits for the jobs under way, `stop_s` of the policy unless `grace_s` is given; leaves the rest to others."""
        deadline = time.monotonic() + (self.policy.stop_s if grace_s is None else grace_s)
        while self._active and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        self._drop_all()
        self._ended.set()
        for thread in self._threads:
            thread.join(self.policy.stop_s)
        try:
            self.store.workers.remove(self._id, lost=False)
        except AudienceError as error:  # others will notice
            log.warning("action=worker_left_without_saying worker=%s reason=%s", self._id, error)
        log.info("action=worker_stopped worker=%s", self._id)

    # jobs

    def receive(self, job_id: int) -> None:
        """Claims and carries out the job of a message, unless it is taken or has ended: a message may come late or
        twice. A job that cannot be claimed now gets another message later."""
        try:
            job = self.store.jobs.claim(job_id, self._id, self._backoff.operations(time.monotonic()))
        except AudienceError as error:
            log.warning("action=claim_failed job=%s reason=%s", job_id, error)
            return
        if job is None:
            log.info("action=message_in_vain job=%s", job_id)
            return
        self.handle(job)

    def handle(self, job: Record) -> None:
        """Carries out a claimed job, and ends it one way or another."""
        control = JobControl()
        self._active[job["id"]] = control
        try:
            self._attempt(job, control)
        except (JobCancelled, KeyboardInterrupt):  # polars raises the latter in whatever thread is in it on Ctrl-C
            self._end(job, self.store.jobs.give_back, job["worker"], [job["id"]])
        except Elsewhere as error:
            self._leave_to_others(job, str(error))
        except Transient as error:
            self._try_later(job, str(error))
        except AudienceError as error:
            self._fail(job, str(error))
        except BaseException as error:
            log.exception("action=job_crashed kind=%s operation_id=%s", job["kind"], job["operation_id"])
            self._fail(job, f"unexpected {type(error).__name__} in the job {job['kind']}: {error}")
        finally:
            if self._active.get(job["id"]) is control:  # it may have been taken away, and claimed again by this worker
                del self._active[job["id"]]

    def _attempt(self, job: Record, control: JobControl) -> None:
        kind = self.kinds.get(job["kind"])
        if kind is None:
            raise Elsewhere(f"this worker does not know jobs of the kind {job['kind']}: it is of another version")
        if job["losses"] >= self.policy.losses and not kind.never_give_up:
            raise Conflict(f"{job['losses']} workers vanished while they worked on it: look for what kills them")
        outcome = run_in_child(job, control, self.environment) if kind.killable else kind.run(job, control)
        self._end(job, self._finish, job, kind, outcome)

    def _finish(self, job: Record, kind: JobKind, outcome: Outcome) -> None:
        """Ends a job that succeeded, with whatever follows."""
        values: Record = {"result": outcome.result}
        if outcome.progress is not None:
            values["progress"] = outcome.progress
        with self.store.jobs.finishing(job, **values) as connection:
            kind.done(connection, job, outcome)

    def _try_later(self, job: Record, reason: str) -> None:
        if job["failures"] >= self.policy.retries and not self._never_gives_up(job):
            self._fail(job, f"given up after {job['failures'] + 1} attempts: {reason}")
            return
        delay_s = self.policy.delay_s(job["failures"])
        log.warning("action=job_delayed kind=%s operation_id=%s reason=%s", job["kind"], job["operation_id"], reason)
        self._end(job, self.store.jobs.put_back, job, delay_s, reason)

    def _leave_to_others(self, job: Record, reason: str) -> None:
        """Leaves a job to others, which is no failure of it; this worker takes no job of that operation for a while."""
        if self._backoff.leave(job["operation_id"], time.monotonic()):
            said = "action=operation_left_to_others operation_id=%s worker=%s reason=%s"
            log.warning(said, job["operation_id"], self._id, reason)
        self._end(job, self.store.jobs.leave, job, reason)

    def _fail(self, job: Record, reason: str) -> None:
        if self._never_gives_up(job):
            self._end(job, self.store.jobs.put_back, job, LONGEST_DELAY_S, reason)
            return
        self._end(job, self._finish_failed, job, reason)

    def _finish_failed(self, job: Record, reason: str) -> None:
        """Ends a job after an error that retrying does not cure, with whatever follows."""
        with self.store.jobs.finishing(job, "failed", error=reason) as connection:
            self.kinds[job["kind"]].failed(connection, job, reason)

    def _never_gives_up(self, job: Record) -> bool:
        kind = self.kinds.get(job["kind"])
        return kind is None or kind.never_give_up

    def _end(self, job: Record, how: Callable[..., None], *arguments: Any) -> None:
        """Writes down how a job ended, and retries while our records cannot be reached; nothing when it was taken
        away."""
        failures = 0
        while True:
            try:
                how(*arguments)
            except Transient as error:
                log.warning("action=end_delayed job=%s reason=%s", job["id"], error)
                if self._ended.wait(self.policy.delay_s(failures)):
                    return
                failures += 1
            except TakenAway:
                log.info("action=job_taken_away job=%s kind=%s", job["id"], job["kind"])
                return
            else:
                return

    # being alive

    def _keep_alive(self) -> None:
        monitor = LeaseMonitor(self.policy.lease_s, self._beat_s)
        while not self._ended.wait(self._beat_s):
            try:
                self._beat()
                others = {worker: beat for worker, beat in self.store.workers.beats().items() if worker != self._id}
                give_up_lost(self.store, monitor, others, time.monotonic())
            except AudienceError as error:
                log.warning("action=beat_failed worker=%s reason=%s", self._id, error)
            except Exception:
                log.exception("action=beat_crashed worker=%s", self._id)

    def _beat(self) -> None:
        """Counts one heartbeat with the progress of all jobs, and stops the jobs that are no more this worker's."""
        active = dict(self._active)  # before the heartbeat: a job that is claimed in between must not look taken away
        progress = {job: (control.progress, control.total) for job, control in active.items()}
        mine = self.store.workers.beat(self._id, progress)
        if mine is None:
            log.warning("action=worker_was_given_up worker=%s", self._id)
            self._drop_all()
            self._id = self._add()
            return
        for job, control in active.items():
            if job not in mine:
                control.stop.set()
        self._give_back_idle(mine - set(active))

    def _give_back_idle(self, idle: set[int]) -> None:
        """Gives back jobs that were claimed, but that no thread has worked on for a lease: whatever went wrong, others
        may try. Sooner it may be a thread that claims one: on a busy machine the claim is seen beats before the thread
        goes on."""
        self._idle = {job: self._idle.get(job, 0) + 1 for job in idle}
        if stuck := {job for job, beats in self._idle.items() if beats > BEATS_A_LEASE}:
            log.error("action=jobs_given_back worker=%s jobs=%s", self._id, sorted(stuck))
            self.store.jobs.give_back(self._id, stuck)

    def _drop_all(self) -> None:
        for control in list(self._active.values()):
            control.stop.set()
