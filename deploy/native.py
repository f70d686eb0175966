"""The service of compose.yaml without containers: the same processes, in the same order, on this machine.

    python deploy/native.py FOLDER [--workers N]

MariaDB and Redis are started anew, with their data in FOLDER, on free ports of the loopback address; the programs
mariadbd, mariadb-install-db and redis-server must be installed. Ctrl-C ends everything. FOLDER keeps the data.
"""

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent
START_S = 90
END_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {START_S} s in vain for {what}")
        time.sleep(0.1)


def is_running(pid: str) -> bool:
    """Whether a process is there, and no zombie that nobody asks for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Process:
    """One process with its log in a folder; killed and started again as often as wanted."""

    def __init__(self, name: str, folder: Path, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = command
        self.environment = {**os.environ, **(environment or {})}
        self.folder = folder
        self.user: str | None = None
        self.running: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.running = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder if self.user is None else "/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                start_new_session=True,
                restore_signals=False,  # a file at its limit is an error to a server, not its end
            )

    @property
    def is_alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive and self.running:
            self.running.send_signal(number)

    def kill(self) -> None:
        """At once, with its own children, as when the power fails."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait(END_S)

    def end(self) -> None:
        """In good order."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self.running:
            self.running.wait(END_S)


class Database(Process):
    """A server that executes SQL, of our own."""

    def execute(self, *statements: str) -> None:
        raise NotImplementedError

    def answers(self) -> bool:
        from audience.errors import AudienceError

        try:
            self.execute("SELECT 1")
        except AudienceError:
            if not self.is_alive:
                raise
            return False
        return True


class Mariadb(Database):
    """A MariaDB server of our own: a user root without a password, whatever databases are made."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.data = folder / "mariadb"
        here = [f"--datadir={self.data}", f"--socket={folder}/mariadb.sock", f"--port={self.port}"]
        small = ["--bind-address=127.0.0.1", "--skip-log-bin", "--innodb-log-file-size=64M", f"--tmpdir={folder}"]
        super().__init__("mariadb", folder, ["mariadbd", "--no-defaults", *here, *small, "--user=root", *options])

    def start(self) -> None:
        if not self.data.exists():
            install = ["--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal"]
            command = ["mariadb-install-db", *install, "--skip-test-db", "--user=root"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        super().start()
        wait_until(self.answers, "MariaDB")

    def execute(self, *statements: str) -> None:
        from audience.tables.mysql.server import MysqlServer

        with MysqlServer.at(self.url("")).session() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}"


class Postgres(Database):
    """A PostgreSQL server of our own: a user postgres without a password. It refuses to run as root, and runs as the
    user postgres then."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.data = folder / "postgres"
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        self.programs = programs[-1] if programs else Path()
        here = ["-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        super().__init__("postgres", folder, [str(self.programs / "postgres"), *here, *options])
        self.user = "postgres" if os.getuid() == 0 else None

    def start(self) -> None:
        if not self.data.exists():
            self.data.mkdir()
            if self.user:
                shutil.chown(self.data, self.user)
            install = [str(self.programs / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "-N"]
            subprocess.run(install, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd=self.data)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        super().start()
        wait_until(self.answers, "PostgreSQL")

    def kill(self) -> None:
        """With the processes of its sessions, which are in groups of their own: while one lives, its memory is in use
        and no other server starts."""
        children = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children") if self.running else None
        pids = children.read_text().split() if children and children.exists() else []
        super().kill()
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), "the end of PostgreSQL's sessions")

    def execute(self, *statements: str) -> None:
        from audience.tables.postgres.server import PostgresServer

        with PostgresServer.at(self.url("postgres")).session() as connection:
            for statement in statements:
                connection.execute(statement)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


class Redis(Process):
    """A Redis server of our own, that keeps nothing."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        here = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        super().__init__("redis", folder, ["redis-server", *here, *options])

    def start(self) -> None:
        super().start()
        wait_until(self.answers, "Redis")

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Rabbitmq(Process):
    """A RabbitMQ server of our own, with its user guest."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.data = folder / "rabbitmq"
        programs = sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))  # not what asks who we are
        settings = {
            "NODENAME": f"audience{self.port}@localhost",
            "NODE_IP_ADDRESS": "127.0.0.1",
            "NODE_PORT": self.port,
            "DIST_PORT": free_port(),
            "MNESIA_BASE": self.data,
            "LOG_BASE": folder,
            "PID_FILE": folder / "rabbitmq.pid",
            "CONFIG_FILE": folder / "none",
            "ENABLED_PLUGINS_FILE": folder / "none",
        }
        environment = {f"RABBITMQ_{name}": str(value) for name, value in settings.items()}
        program = str(programs[-1]) if programs else "rabbitmq-server"
        super().__init__("rabbitmq", folder, [program], {**environment, "HOME": str(folder)})

    def start(self) -> None:
        super().start()
        wait_until(self.answers, "RabbitMQ")

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(5)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"


class Stack:
    """What compose.yaml describes, natively."""

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = free_port()
        services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
        self.mariadb = Mariadb(self.folder, *services["mariadb"]["command"])
        self.redis = Redis(self.folder)
        self.given = {"MARIADB_PASSWORD": secrets.token_hex(12), "AUDIENCE_SECRET_KEY": self._secret_key()}
        number = workers if workers is not None else services["worker"]["deploy"]["replicas"]
        self.migrate = self._process(services["migrate"], "migrate")
        self.api = self._process(services["api"], "api")
        self.workers = [self._process(services["worker"], f"worker-{n + 1}") for n in range(number)]

    def _secret_key(self) -> str:
        """The same when it is started again."""
        path = self.folder / "secret.key"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(urlsafe_b64encode(secrets.token_bytes(32)))
        return path.read_text()

    def _process(self, service: dict[str, Any], name: str) -> Process:
        """As the container would be: a home of its own, the shared folder, the same command and environment."""
        home = self.folder / name
        environment = {key: self._here(str(value)) for key, value in service["environment"].items()}
        environment |= {"AUDIENCE_HOME": str(home), "AUDIENCE_PORT": str(self.port)}
        command = ["127.0.0.1" if word == "0.0.0.0" else word for word in service["command"]]
        home.mkdir(parents=True, exist_ok=True)
        return Process(name, self.folder, [sys.executable, "-m", "audience", *command], environment)

    def _here(self, text: str) -> str:
        """A value of the compose file with its variables filled in and its hosts found here."""
        text = re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: self.given.get(m[1], m[2] or ""), text)
        text = text.replace("mariadb:3306", f"127.0.0.1:{self.mariadb.port}")
        text = text.replace("redis:6379", f"127.0.0.1:{self.redis.port}")
        return re.sub(r"(^|//)/shared", rf"\g<1>{self.folder}/shared", text)

    def start(self) -> None:
        """In the order that the compose file gives."""
        for name in ("blobs", "files"):
            (self.folder / "shared" / name).mkdir(parents=True, exist_ok=True)
        self.mariadb.start()
        self.redis.start()
        self._make_databases()
        self.migrate.start()
        if self.migrate.running and self.migrate.running.wait(START_S):
            raise RuntimeError((self.folder / "migrate.log").read_text())
        self.api.start()
        for worker in self.workers:
            worker.start()
        wait_until(self.is_ready, "the API")

    def _make_databases(self) -> None:
        """What the image of MariaDB does with its environment and with labels.sql."""
        password = self.given["MARIADB_PASSWORD"]
        script = (DEPLOY / "labels.sql").read_text("utf-8").replace("CREATE DATABASE", "CREATE DATABASE IF NOT EXISTS")
        self.mariadb.execute(
            "CREATE DATABASE IF NOT EXISTS audience CHARACTER SET utf8mb4",
            f"CREATE OR REPLACE USER audience@'%' IDENTIFIED BY '{password}'",
            "GRANT ALL ON audience.* TO audience@'%'",
            *(part for part in re.sub("--.*", "", script).split(";") if part.strip()),
        )

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            if not self.api.is_alive:
                raise RuntimeError((self.folder / "api.log").read_text()) from None
            return False

    @property
    def environment(self) -> dict[str, str]:
        """Of one more process of the service, such as a command in the shell."""
        return self.api.environment

    def end(self) -> None:
        for process in (*self.workers, self.api, self.redis, self.mariadb):
            process.end()

    def kill(self) -> None:
        for process in (*self.workers, self.api, self.redis, self.mariadb):
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    for program in ("mariadbd", "mariadb-install-db", "redis-server"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; on Debian and Ubuntu: apt install mariadb-server redis-server")
    stack = Stack(given.folder, given.workers)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stack.start()
        print(f"http://127.0.0.1:{stack.port}/docs   {len(stack.workers)} workers   logs in {stack.folder}")
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        stack.end()


if __name__ == "__main__":
    main()
