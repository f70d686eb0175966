"""Jobs in a process of their own, which can be killed whatever it waits for: `audience worker job ID`.

The worker's thread keeps the lease and speaks for the job; the child does the work, and writes to its standard output,
a JSON document a line, how far it is, and at last the outcome."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from audience import errors
from audience.errors import AudienceError, NotFound
from audience.jobs.control import JobCancelled, JobControl
from audience.jobs.kinds import JobKind, Outcome
from audience.store.database import Record

log = logging.getLogger(__name__)

LOOK_S = 0.1
ENDS_S = 2.0
"""Seconds that a child has to end after SIGTERM; then it is killed."""


def run_in_child(job: Record, control: JobControl, environment: Mapping[str, str]) -> Outcome:
    """Runs a job in a child and returns its outcome; raises its error. Kills the child when the job is cancelled.
    `environment`: the variables that lead the child to the same records, beside those of this process."""
    command = [sys.executable, "-m", "audience", "worker", "job", str(job["id"])]
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as child:
        said = _Said(control)
        listener = threading.Thread(target=said.listen, args=(child,), name="child", daemon=True)
        listener.start()
        try:
            while child.poll() is None:
                if control.stop.wait(LOOK_S):
                    raise JobCancelled
            listener.join(ENDS_S)
        finally:
            _end(child)
    if said.outcome is None:
        log.warning("action=child_ended_without_outcome job=%s status=%s", job["id"], child.returncode)
        raise AudienceError(
            f"the process that did it ended with status {child.returncode}, and said nothing: "
            "was it killed, is there enough memory?"
        )
    return said.outcome_or_error()


class _Said:
    """Collects what a child writes: its progress and its outcome."""

    def __init__(self, control: JobControl) -> None:
        self.control = control
        self.outcome: Record | None = None

    def listen(self, child: "subprocess.Popen[str]") -> None:
        assert child.stdout is not None
        for line in child.stdout:
            said = json.loads(line)
            if "progress" in said:
                self.control.progress, self.control.total = said["progress"]
            else:
                self.outcome = said

    def outcome_or_error(self) -> Outcome:
        assert self.outcome is not None
        if "error" in self.outcome:
            raise getattr(errors, self.outcome["error"])(self.outcome["message"])
        return Outcome(self.outcome["result"])


def _end(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            child.kill()


def carry_out(job_id: int, get: Callable[[int], Record | None], kinds: Mapping[str, JobKind]) -> None:
    """Does the child's part: the work alone. The job stays its worker's, which ends it."""
    control = JobControl()
    done = threading.Event()

    def tell() -> None:
        before: Any = None
        while not done.wait(LOOK_S):
            if (now := (control.progress, control.total)) != before:
                _say({"progress": now})
                before = now

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        said: Record = {"result": _run(job_id, get, kinds, control).result}
    except AudienceError as error:
        known = type(error).__name__ if type(error).__name__ in errors.__all__ else "AudienceError"
        said = {"error": known, "message": str(error)}
    done.set()
    teller.join()
    _say(said)


def _run(
    job_id: int, get: Callable[[int], Record | None], kinds: Mapping[str, JobKind], control: JobControl
) -> Outcome:
    job = get(job_id)
    if job is None or job["kind"] not in kinds or not kinds[job["kind"]].killable:
        raise NotFound(f"there is no job {job_id} for a process of its own")
    return kinds[job["kind"]].run(job, control)


def _say(document: Record) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
