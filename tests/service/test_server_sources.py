"""What holds for every source on a server when the world is against it."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from relay import Relay, relayed

from audience.errors import AudienceError, BadInput, NotFound, Transient
from audience.tables.base import Selection, Source, SourceSpec
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import open_source

CONTENT = Selection(fields=("content",))
MEMORY = """
import resource, sys
from audience.tables.base import Selection, SourceSpec
from audience.tables.registry import open_source
selection = Selection(fields=("content",), partition_rows=100_000)
source = open_source(SourceSpec(url=sys.argv[1], table=sys.argv[2]))
print(sum(len(b) for p in source.plan(selection).partitions for b in source.read(p, selection)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@dataclass(frozen=True)
class Server:
    """A kind of server, and its SQL for what the tests need."""

    name: str
    url: str

    def run(self, *sql: str) -> None:
        if self.name == "mysql":
            with MysqlServer.at(self.url).session() as connection:
                for statement in sql:
                    connection.cursor().execute(statement)
        else:
            with PostgresServer.at(self.url).session() as connection:
                for statement in sql:
                    connection.execute(statement)

    def numbers(self, n: int) -> str:
        return f"(SELECT seq AS n FROM seq_1_to_{n}) s" if self.name == "mysql" else f"generate_series(1, {n}) AS n"

    def make_posts(self, n: int, table: str = "posts", length: int = 50) -> None:
        self.run(
            f"CREATE TABLE {table} (id INT PRIMARY KEY, post_time TIMESTAMP NULL, content TEXT)",
            f"INSERT INTO {table} SELECT n, '2020-01-01', repeat('x', {length}) FROM {self.numbers(n)}",
        )

    def open(self, url: str | None = None, **spec: Any) -> Source:
        return open_source(SourceSpec(url=url or self.url, **spec))

    def at(self, port: int) -> str:
        return self.url.replace(f":{urlsplit(self.url).port}/", f":{port}/")

    @contextlib.contextmanager
    def relay(self) -> Iterator[Relay]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        with relayed(parts.hostname, parts.port) as relay:
            yield relay


@pytest.fixture(params=["mysql", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(request.param, request.getfixturevalue(f"{request.param}_url"))


def n_read(source: Source, selection: Selection = CONTENT) -> int:
    return sum(len(b) for p in source.plan(selection).partitions for b in source.read(p, selection))


def test_connection_cut_while_reading_is_transient(server: Server) -> None:
    server.make_posts(20_000, length=500)
    with server.relay() as relay:
        source = server.open(server.at(relay.port))
        partitions = source.plan(CONTENT).partitions
        relay.cut_after = relay.n_bytes + 3_000_000
        with pytest.raises(Transient):
            list(source.read(partitions[0], CONTENT))
        relay.cut_after = None
        assert n_read(source) == 20_000


def test_server_that_sends_nothing_is_given_up(server: Server) -> None:
    server.make_posts(20_000, length=500)
    with server.relay() as relay:
        source = server.open(server.at(relay.port), read_timeout_s=1)
        partitions = source.plan(CONTENT).partitions
        relay.silent_after = relay.n_bytes + 3_000_000
        with pytest.raises(Transient, match="read_timeout_s"):
            list(source.read(partitions[0], CONTENT))


def test_server_that_falls_silent_is_given_up_while_planning(server: Server) -> None:
    server.make_posts(10)
    with server.relay() as relay:
        source = server.open(server.at(relay.port), read_timeout_s=1)
        relay.silent_after = relay.n_bytes + 700
        with pytest.raises(Transient):
            source.plan(Selection(fields=("content",), partition_rows=1))


def test_server_that_is_away_is_transient(server: Server) -> None:
    with pytest.raises(Transient):
        server.open(server.at(1))


@pytest.mark.parametrize("change", ["DROP TABLE posts", "ALTER TABLE posts DROP COLUMN content"])
def test_table_or_column_that_vanishes_before_it_is_read_is_not_found(server: Server, change: str) -> None:
    server.make_posts(10)
    source = server.open()
    partitions = source.plan(CONTENT).partitions
    server.run(change)
    with pytest.raises(NotFound, match=r"posts|content"):
        list(source.read(partitions[0], CONTENT))


def test_statement_that_takes_too_long_is_ended_by_the_server(server: Server) -> None:
    server.make_posts(3)
    sleep = "CONCAT(SLEEP(2))" if server.name == "mysql" else "CAST(pg_sleep(2) AS text)"
    server.run(f"CREATE VIEW slow AS SELECT id, {sleep} AS content FROM posts")
    source = server.open(table="slow", statement_timeout_s=0.5)
    with pytest.raises(BadInput, match="statement_timeout_s"):
        n_read(source)


def test_user_that_may_only_select_can_do_everything(server: Server) -> None:
    server.make_posts(50)
    server.run("CREATE TABLE hidden (id INT, content TEXT)")
    user = "audience_reader_" + urlsplit(server.url).path[-12:]
    if server.name == "mysql":
        server.run(f"CREATE USER {user} IDENTIFIED BY 'very secret'", f"GRANT SELECT ON posts TO {user}")
    else:
        server.run(f"CREATE USER {user} PASSWORD 'very secret'", f"GRANT SELECT ON posts TO {user}")
    parts = urlsplit(server.url)
    url = parts._replace(netloc=f"{user}:very%20secret@{parts.hostname}:{parts.port}").geturl()
    try:
        source = server.open(url, table="posts")
        assert source.describe().n_rows == 50
        assert n_read(source, Selection(fields=("content",), partition_rows=7)) == 50
        with pytest.raises(NotFound, match=r"no table 'hidden' that this user may read; it has: posts"):
            server.open(url, table="hidden")
    finally:
        server.run(*([] if server.name == "mysql" else [f"REVOKE ALL ON posts FROM {user}"]), f"DROP USER {user}")


def test_password_is_never_shown(server: Server, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    parts = urlsplit(server.url)
    url = parts._replace(netloc=f"nobody:s3%2Fcret@{parts.hostname}:{parts.port}").geturl()
    with contextlib.suppress(AudienceError):  # a server that trusts everybody still knows no such user
        server.open(url)
    with pytest.raises(AudienceError) as caught:
        server.open(url.replace(f":{parts.port}/", ":1/"))
    said = [str(caught.value), repr(caught.value), caplog.text, *capfd.readouterr()]
    assert not [text for text in said if "cret" in text]


def test_at_most_max_readers_read_at_once(server: Server) -> None:
    server.make_posts(40)
    source = server.open(max_readers=2)
    selection = Selection(fields=("content",), partition_rows=10)
    partitions = source.plan(selection).partitions
    gate: Any = source.gate  # type: ignore[attr-defined]
    threads = [threading.Thread(target=lambda p=p: list(source.read(p, selection))) for p in partitions]
    gate.acquire()
    gate.acquire()
    for thread in threads:
        thread.start()
    threads[0].join(1.5)
    assert all(thread.is_alive() for thread in threads)
    gate.release()
    gate.release()
    for thread in threads:
        thread.join()
    assert server.open(max_readers=2).gate is gate  # type: ignore[attr-defined]


def test_advice_names_the_index_that_would_help(server: Server) -> None:
    server.run("CREATE TABLE posts (id INT, post_time TIMESTAMP NULL, content TEXT)")
    assert [a for a in server.open().describe().advice if "index on id" in a]
    assert [a for a in server.open().describe().advice if "index on (post_time)" in a]
    server.run("ALTER TABLE posts ADD PRIMARY KEY (id)")
    assert server.open().describe().advice == (
        "an index on (post_time, id) would make ranges of time read only their own rows",
    )
    server.run("CREATE INDEX by_time ON posts (post_time, id)")
    found = server.open().describe()
    assert (found.index, found.advice) == ("by_time", ())


def test_memory_does_not_grow_with_the_table(server: Server) -> None:
    server.make_posts(300_000, "small", 200)
    server.make_posts(1_200_000, "large", 200)
    peaks = {}
    for table, n in (("small", 300_000), ("large", 1_200_000)):
        command = [sys.executable, "-c", MEMORY, server.url, table]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout.split()
        assert int(lines[0]) == n
        peaks[table] = int(lines[1])
    assert peaks["large"] < peaks["small"] + 64, peaks  # MB; two pieces, where the table has 200 MB more
