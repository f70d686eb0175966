"""Installations whose source and target are on database servers of their own, which can be killed, put to sleep, cut
off and filled up."""

import atexit
import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import Fingerprint, Installation, Posts, make_posts, missing
from native import Mariadb, Postgres

from audience.app.actors import LOCAL
from audience.app.requests import SourceRequest

COLUMNS = ("id", "s_id", "author", "content", "post_time")
Server = Mariadb | Postgres
KINDS = {"mariadb": Mariadb, "postgresql": Postgres}


@dataclass(frozen=True)
class Pair:
    """Two servers: rows come from one and go to the other; what an undisturbed run makes of them."""

    source: Server
    target: Server
    undisturbed: Fingerprint


class Served(Installation):
    """Reads from one server and writes to a new database of another."""

    def __init__(self, folder: Path, source: Server, target: Server, undisturbed: Fingerprint | None = None) -> None:
        super().__init__(folder, Posts(folder / "none", undisturbed), "none")
        self.database = f"labels_{folder.name}".replace("-", "_").lower()[:60]
        target.execute(f"CREATE DATABASE {self.database}")
        self.target: Any = target.url(self.database)
        self.source: Any = "posts"
        request = SourceRequest(location=source.url("posts"), options={"table": "posts"})
        self.app.sources.add("posts", request, LOCAL)


def installed(*programs: str) -> None:
    """Skips a test where one is not, but not in CI."""
    for program in programs:
        if not (shutil.which(program) or list(Path("/usr/lib/postgresql").glob("*/bin/" + program))):
            missing(f"{program} is not installed")


def fill(server: Server, rows: sqlite3.Cursor) -> None:
    """The posts as a table of texts, with an index of their ids."""
    server.execute("CREATE DATABASE posts" + (" CHARACTER SET utf8mb4" if isinstance(server, Mariadb) else ""))
    columns = ", ".join(f"{name} VARCHAR(200)" for name in COLUMNS)
    sql = f"INSERT INTO posts VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    if isinstance(server, Mariadb):
        from audience.tables.mysql.server import MysqlServer

        with MysqlServer.at(server.url("posts")).session() as db, db.cursor() as cursor:
            cursor.execute(f"CREATE TABLE posts ({columns}, KEY (id)) COLLATE utf8mb4_bin")
            cursor.executemany(sql, rows.fetchall())
        return
    from audience.tables.postgres.server import PostgresServer

    with PostgresServer.at(server.url("posts")).session() as db, db.cursor() as cursor:
        cursor.execute(f"CREATE TABLE posts ({columns})")
        cursor.executemany(sql, rows.fetchall())
        cursor.execute("CREATE INDEX ON posts (id)")


def folder_of(name: str) -> Path:
    """One that the user of a server may look into; gone with this process. Not among pytest's: whoever starts another
    pytest closes those to all other users."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def pair_of(kind: type[Mariadb] | type[Postgres], folder: Path, n_rows: int, *options: str) -> Iterator[Pair]:
    """Two servers of a kind with posts in the one; ended afterwards. `options` of the other."""
    installed("mariadbd" if kind is Mariadb else "initdb")
    for name in ("source", "target", "undisturbed"):
        (folder / name).mkdir()
    source, target = kind(folder / "source"), kind(folder / "target", *options)
    try:
        source.start()
        target.start()
        with contextlib.closing(sqlite3.connect(make_posts(folder / "posts.db", n_rows))) as db:
            fill(source, db.execute("SELECT * FROM posts"))
        quiet = Served(folder / "undisturbed", source, target)
        run = quiet.label()
        quiet.app.operations.work_on(run)
        found = quiet.fingerprint(run)
        assert found.state == "done"
        yield Pair(source, target, found)
    finally:
        source.kill()
        target.kill()


@contextlib.contextmanager
def served(folder: Path, pair: Pair) -> Iterator[Served]:
    installation = Served(folder, pair.source, pair.target, pair.undisturbed)
    try:
        yield installation
    finally:
        installation.close()
    assert not installation.crashes()


def cut_off(server: Mariadb | Postgres) -> None:
    """Ends every connection but its own."""
    if isinstance(server, Postgres):
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return
    server.execute(
        "BEGIN NOT ATOMIC FOR c IN (SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() "
        "AND user = 'root') DO BEGIN DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; KILL CONNECTION c.id; END; "
        "END FOR; END"
    )
