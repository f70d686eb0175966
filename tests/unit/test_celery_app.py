"""What holds of Celery without a broker."""

import subprocess
import sys

import pytest
from pydantic import SecretStr, ValidationError

from audience.errors import BadInput
from audience.jobs.celery_app import Queues, make_celery, worker_arguments
from audience.jobs.dispatcher import window
from audience.settings import Inherited, Settings
from audience.store.queues import Lane, parse_lanes

HEAVY = ("polars", "pyarrow", "numpy", "audience.app", "fastapi")
POSIX_ONLY = ("fcntl", "resource", "pwd", "grp", "termios", "posix")
FORMER = ("RABBITMQ_HOST", "RABBITMQ_PORT", "RABBITMQ_USER", "RABBITMQ_PASS", "RABBITMQ_VHOST", "REDIS_HOST")


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def celery(url: str = "redis://h/0"):
    return make_celery(url, prefix="p", lanes=parse_lanes(["default"]), visibility_timeout_s=5, stop_s=1)


def test_nothing_heavy_is_imported_by_a_main_process_that_does_not_work_itself(tmp_path):
    program = f"import audience.celery, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = python(program, AUDIENCE_BROKER_URL="redis://h/0", AUDIENCE_HOME=str(tmp_path))
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_nothing_of_posix_alone_is_imported_or_used_when_modules_are_imported(tmp_path):
    """Ours do not ask for it, although others do on this system."""
    program = f"""
import audience, builtins, os, pkgutil, signal
real = builtins.__import__
def guarded(name, globals=None, *rest, **more):
    asked_by = (globals or {{}}).get("__name__", "")
    if name in {POSIX_ONLY} and asked_by.startswith("audience"):
        raise ImportError(f"{{asked_by}} imports {{name}}")
    return real(name, globals, *rest, **more)
import asyncio, subprocess, socket, multiprocessing, tempfile, logging.handlers
import sqlalchemy, pyarrow, polars, fastapi, uvicorn, typer, celery, alembic.command
import pymysql, psycopg, connectorx, adbc_driver_postgresql.dbapi
builtins.__import__ = guarded
for name in ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP", "SIGQUIT", "SIGUSR1"):
    delattr(signal, name)
for name in ("fork", "register_at_fork", "getuid", "setpriority", "PRIO_PROCESS", "geteuid"):
    delattr(os, name)
for module in pkgutil.walk_packages(audience.__path__, "audience."):
    if ".migrations" not in module.name and module.name != "audience.__main__":
        real(module.name)
"""
    done = python(program, AUDIENCE_BROKER_URL="redis://h/0", AUDIENCE_HOME=str(tmp_path), PATH="")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_celery_a_broker_is_refused_with_what_to_install(tmp_path):
    program = "import sys; sys.modules['celery'] = None; import audience.celery"
    done = python(program, AUDIENCE_BROKER_URL="redis://h/0", AUDIENCE_HOME=str(tmp_path))
    assert done.stderr == "error a broker needs Celery: pip install 'audience[celery]'\n"


def test_without_a_broker_the_application_says_what_to_set(tmp_path):
    done = python("import audience.celery", AUDIENCE_HOME=str(tmp_path))
    assert "AUDIENCE_BROKER_URL" in done.stderr


def test_messages_are_json_acknowledged_late_and_fetched_one_at_a_time():
    conf = celery().conf
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)
    assert conf.worker_pool_start_method == "spawn"
    assert conf.broker_transport_options["visibility_timeout"] == 5


def test_queues_of_rabbitmq_are_replicated_and_messages_confirmed():
    conf = celery("amqp://h//").conf
    assert {queue.queue_arguments["x-queue-type"] for queue in conf.task_queues} == {"quorum"}
    assert conf.broker_transport_options == {"confirm_publish": True}


def test_a_queue_at_the_broker_tells_what_it_is_for():
    queues = Queues("p", quorum=False)
    assert queues.name(Lane("a", "label")) == "p.a.label"
    assert queues.lane("p.a.label") == Lane("a", "label")
    for name in ("celery", "p.a", "q.a.label"):
        with pytest.raises(BadInput):
            queues.lane(name)


def test_a_worker_is_started_for_its_queues():
    told = worker_arguments("p", "gevent", 3, parse_lanes(["a", "b.label"]))
    assert told[told.index("-Q") + 1] == "p.a.label,p.a.manage,p.b.label"
    assert told[told.index("-c") + 1] == "3"


def test_messages_are_sent_to_threads_that_serve_their_queue_only():
    def worker(pool: str, queues: str, threads: int) -> dict:
        return {"pool": pool, "queues": queues, "threads": threads}

    found = window([worker("local", "a", 9), worker("threads", "a", 2), worker("prefork", "a.label", 1)])
    assert found == {Lane("a", "label"): 6, Lane("a", "manage"): 4}


# where the broker is


@pytest.fixture
def former(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in FORMER:
        monkeypatch.delenv(name, raising=False)

    def url(**variables: str) -> str | None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = Settings(home=tmp_path).broker_url
        return found and found.get_secret_value()

    return url


def test_the_former_names_of_the_broker_are_understood(former):
    assert former() is None
    assert former(REDIS_HOST="r", REDIS_PASS="p@ss", REDIS_DB_BROKER="3") == "redis://:p%40ss@r:6379/3"
    assert former(RABBITMQ_HOST="q") == "amqp://guest:guest@q:5672/%2F"
    assert former(AUDIENCE_BROKER_URL="redis://x/1") == "redis://x/1"


def test_former_names_may_be_in_the_file_of_settings(former, tmp_path):
    (tmp_path / ".env").write_text("REDIS_HOST=r\n")
    assert former() == "redis://r:6379/0"


def test_a_former_port_that_is_none_is_refused(former):
    with pytest.raises(BadInput, match="REDIS_PORT"):
        former(REDIS_HOST="r", REDIS_PORT="tcp://10.0.0.1:6379")


def test_no_password_of_a_broker_is_shown():
    with pytest.raises(ValidationError) as error:
        Settings(broker_url=SecretStr("sqs://me:geheim@h"))
    assert "geheim" not in str(error.value)
    assert "redis://" in str(error.value)
    shown = repr(Settings(broker_url="redis://:geheim@h")) + repr(Inherited(redis_host="h", redis_pass="geheim"))
    assert "geheim" not in shown
