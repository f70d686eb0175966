"""MariaDB and PostgreSQL: Audience beside the row-wise baseline, only reading, and other ways, in one run.

    python benchmarks/databases.py [--rows N] [--large] [--runs N] [--no-write]

Both servers are started anew, with their data in benchmarks/data and 2 GB of memory for them each: mariadbd,
mariadb-install-db and Debian's postgresql must be installed. The posts are kept in databases `audience_bench` for the
next time.
"""

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bench
import polars as pl
import rowwise
import sqlalchemy as sa

from audience.app.root import App
from audience.settings import Settings
from audience.tables.base import Partition, Selection, SourceSpec
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import open_source

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
from native import Mariadb, Postgres

DATABASE = "audience_bench"
MARIADB = Mariadb(bench.DATA / "server", "--innodb-buffer-pool-size=2G", "--local-infile=1")
POSTGRES = Postgres(bench.DATA / "server", "-c", "shared_buffers=2GB", "-c", "fsync=on")
MYSQL_URL, POSTGRES_URL = MARIADB.url(DATABASE), POSTGRES.url(DATABASE)
PART_ROWS = 100_000
TIMES = 10
"""So many times as many rows has the large table."""
LOAD_ROWS = 250_000
TYPES = {
    "id": "VARCHAR(40) NOT NULL",
    "s_id": "VARCHAR(40)",
    "s_area_id": "VARCHAR(40)",
    "title": "TEXT",
    "author": "VARCHAR(200)",
    "content": "TEXT",
}
KEYWORDS, REGEXES = "4,600 author keywords", "200 regexes on content"
CASES = (
    (KEYWORDS, "MariaDB", MYSQL_URL, "author=gender.csv"),
    (KEYWORDS, "PostgreSQL", POSTGRES_URL, "author=gender.csv"),
    (REGEXES, "MariaDB", MYSQL_URL, "content=topics.csv"),
    (REGEXES, "PostgreSQL", POSTGRES_URL, "content=topics.csv"),
)
PREDECESSOR_ROWS, PREDECESSOR_S = 39_291_336, 149.4 * 60
INDEXES = ("id", "id,source_author,panel")
Measured = dict[str, float]


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Both servers, until what is inside is over."""
    with contextlib.ExitStack() as started:
        for server in (MARIADB, POSTGRES):
            started.callback(server.end)
            server.start()
        yield


# the tables


def make_databases() -> None:
    MARIADB.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4")
    with PostgresServer.at(POSTGRES.url("postgres")).session() as pg:
        if not pg.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            pg.execute(f"CREATE DATABASE {DATABASE}")


def make_tables(folder: Path, n_rows: int) -> str:
    """The same posts in both databases, with a key and an index on time; the table's name."""
    table = f"posts_{n_rows}"
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    with MysqlServer.at(MYSQL_URL).session(local_infile=True) as db:
        cursor = db.cursor()
        if not cursor.execute("SHOW TABLES LIKE %s", (table,)):
            keys = "PRIMARY KEY (id), KEY by_time (post_time, id)"
            cursor.execute(f"CREATE TABLE loading ({columns}, post_time DATETIME NOT NULL, {keys})")
            for part in parts(folder):
                cursor.execute(f"LOAD DATA LOCAL INFILE '{part}' INTO TABLE loading CHARACTER SET utf8mb4")
            cursor.execute("ANALYZE TABLE loading")
            cursor.execute(f"RENAME TABLE loading TO {table}")
    with PostgresServer.at(POSTGRES_URL).session() as pg:
        if pg.execute("SELECT to_regclass(%s)", (table,)).fetchone()[0] is None:
            pg.execute(f"CREATE TABLE loading ({columns}, post_time TIMESTAMP NOT NULL)")
            for part in parts(folder):
                with pg.cursor() as cursor, cursor.copy("COPY loading FROM STDIN") as copy:
                    copy.write(part.read_bytes())
            pg.execute("ALTER TABLE loading ADD PRIMARY KEY (id)")
            pg.execute("CREATE INDEX ON loading (post_time, id)")
            pg.execute("VACUUM ANALYZE loading")
            pg.execute(f"ALTER TABLE loading RENAME TO {table}")
    return table


def multiply(table: str) -> str:
    """A table with the same posts ten times, under ids of their own, made by the servers; its name."""
    large, copies = f"{table}_{TIMES}_times", _copies(table, TIMES)
    with MysqlServer.at(MYSQL_URL).session() as db:
        cursor = db.cursor()
        if not cursor.execute("SHOW TABLES LIKE %s", (large,)):
            for sql in (f"CREATE TABLE loading LIKE {table}", *copies, "ANALYZE TABLE loading"):
                cursor.execute(sql)
            cursor.execute(f"RENAME TABLE loading TO {large}")
    with PostgresServer.at(POSTGRES_URL).session() as pg:
        if pg.execute("SELECT to_regclass(%s)", (large,)).fetchone()[0] is None:
            keys = ("ALTER TABLE loading ADD PRIMARY KEY (id)", "CREATE INDEX ON loading (post_time, id)")
            for sql in (f"CREATE TABLE loading (LIKE {table})", *copies, *keys, "VACUUM ANALYZE loading"):
                pg.execute(sql)
            pg.execute(f"ALTER TABLE loading RENAME TO {large}")
    return large


def _copies(table: str, times: int) -> list[str]:
    columns = ", ".join([*list(TYPES)[1:], "post_time"])
    return [
        f"INSERT INTO loading (id, {columns}) SELECT concat('{n}_', id), {columns} FROM {table} ORDER BY id"
        for n in range(times)
    ]


def as_many_as_the_predecessor(table: str, n_rows: int) -> str:
    """A table of PREDECESSOR_ROWS in MariaDB: the posts again and again, the last time in part; its name."""
    large = f"{table}_{PREDECESSOR_ROWS}"
    whole, rest = divmod(PREDECESSOR_ROWS, n_rows)
    *copies, last = _copies(table, whole + 1)
    with MysqlServer.at(MYSQL_URL).session() as db:
        cursor = db.cursor()
        if not cursor.execute("SHOW TABLES LIKE %s", (large,)):
            cursor.execute("DROP TABLE IF EXISTS loading")
            for sql in (f"CREATE TABLE loading LIKE {table}", *copies, f"{last} LIMIT {rest}", "ANALYZE TABLE loading"):
                cursor.execute(sql)
            cursor.execute(f"RENAME TABLE loading TO {large}")
    return large


def parts(folder: Path) -> Iterator[Path]:
    """The posts as tab-separated files, one at a time."""
    part, start = folder / "part.tsv", 0
    posts = pl.scan_parquet(folder / "posts.parquet").with_columns(pl.col("post_time").dt.to_string("%F %T"))
    while len(rows := posts.slice(start, LOAD_ROWS).collect()):
        rows.select(bench.COLUMNS).write_csv(part, separator="\t", quote_style="never", include_header=False)
        yield part
        start += LOAD_ROWS
    part.unlink()


def clean_up() -> None:
    """Removes what earlier runs wrote."""
    with MysqlServer.at(MYSQL_URL).session() as db:
        cursor = db.cursor()
        cursor.execute("SHOW TABLES")
        for (name,) in cursor.fetchall():
            if not name.startswith("posts_"):
                cursor.execute(f"DROP TABLE `{name}`")
    with PostgresServer.at(POSTGRES_URL).session() as pg:
        for (name,) in pg.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            if not name.startswith("posts_"):
                pg.execute(f'DROP TABLE "{name}"')


# ours


def label(folder: Path, table: str, url: str, rules: str, workers: int = 0, indexes: str = "") -> Measured:
    """One run: rows/s, and the largest process in MB. In one command, or on so many worker processes of one thread.
    `indexes` of the result tables, by commas."""
    clean_up()
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    environment = {**os.environ, "AUDIENCE_HOME": str(home), "AUDIENCE_RESULT_INDEXES": indexes}
    field, _, name = rules.partition("=")
    command = [sys.executable, "-m", "audience", "label", url, "--table", table, "--target", url, "--json"]
    command += ["--rules", f"{field}={folder / name}", "--groups", str(folder / "groups.csv")]
    command += ["--default-group", "others", *(["--detach"] if workers else [])]
    with worker_processes(workers, environment, home):
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            sys.exit(done.stderr.decode())
        run = json.loads(done.stdout)
        app = App(Settings(home=home))
        while app.runs.get(run["id"])["state"] not in ("done", "failed"):
            time.sleep(0.1)
        whole = time.perf_counter() - started
    run = app.runs.get(run["id"])
    if run["state"] != "done":
        sys.exit(run["error"])
    report = run["tasks"][0]["report"]
    rows, results = report["read"], sum(group["results"] for group in report["groups"].values())
    peak = report["peak_memory_mb"]
    return {"rows": rows, "rate": rows / report["seconds"], "whole": rows / whole, "peak": peak, "results": results}


@contextlib.contextmanager
def worker_processes(number: int, environment: dict[str, str], home: Path) -> Iterator[None]:
    App(Settings(home=home))
    command = [sys.executable, "-m", "audience", "worker", "--threads", "1"]
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(number)
    ]
    try:
        store = App(Settings(home=home)).store
        while len(store.workers.all()) < number:
            time.sleep(0.1)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


# what it is measured against


def baseline(folder: Path, table: str) -> Measured:
    """The row-wise way, MariaDB to MariaDB, on the first rows."""
    import pymysql

    with (folder / "gender.csv").open(encoding="utf-8") as file:
        keywords = [(r["label"], r["content"], r["match_type"]) for r in csv.DictReader(file)]
    engine = sa.create_engine(sqlalchemy_url())
    query = f"SELECT {', '.join(bench.COLUMNS)} FROM {table} ORDER BY post_time LIMIT {PART_ROWS}"
    with MysqlServer.at(MYSQL_URL).session(cursorclass=pymysql.cursors.DictCursor) as connection:
        rate = rowwise.label(connection, engine, keywords, query)
    engine.dispose()
    return {"rate": rate}


def only_reading(folder: Path, table: str, url: str, field: str) -> Measured:
    """The columns of a run and nothing else, with the driver and the ranges of keys that ours uses, on two threads."""
    source = open_source(SourceSpec(url=url, table=table))
    plan = source.plan(Selection(fields=(field,)))
    columns = ", ".join(dict.fromkeys(["id", "post_time", "s_id", "author", field]))
    asked = [f"SELECT {columns} FROM {table} WHERE {_in_range(part)}" for part in plan.partitions]
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        n_rows = sum(pool.map(_read_mysql if url == MYSQL_URL else _read_postgres, asked))
    return {"rate": n_rows / (time.perf_counter() - started)}


def _in_range(part: Partition) -> str:
    return " AND ".join(f"{name} {operator} '{value}'" for name, operator, value in part.slice["bounds"])


def _read_mysql(sql: str) -> int:
    import connectorx

    return len(connectorx.read_sql(MysqlServer.at(MYSQL_URL).url, sql, return_type="arrow"))


def _read_postgres(sql: str) -> int:
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(PostgresServer.at(POSTGRES_URL).url) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return sum(len(batch) for batch in cursor.fetch_record_batch())


def snorkel(folder: Path, table: str) -> Measured:
    """Snorkel's applier for pandas: a labeling function for each label, with the trees of the baseline."""
    import pandas as pd
    from snorkel.labeling import LabelingFunction, PandasLFApplier

    models = _trees(folder)
    functions = [
        LabelingFunction(name, lambda row, one={name: model}: 1 if rowwise.hits(one, row.author.lower()) else -1)
        for name, model in models.items()
    ]
    started = time.perf_counter()
    frame = pd.read_sql(f"SELECT id, author FROM {table} ORDER BY post_time LIMIT {PART_ROWS}", sqlalchemy_url())
    PandasLFApplier(functions).apply(frame, progress_bar=False)
    return {"rate": PART_ROWS / (time.perf_counter() - started)}


def regexp(folder: Path, table: str) -> Measured:
    """MariaDB's own REGEXP: one alternation a label, on the server; nothing is written."""
    patterns: dict[str, list[str]] = {}
    around = {"partially": "{}", "exactly": "^{}$", "start": "^{}", "end": "{}$"}
    with (folder / "gender.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            pattern = around[row["match_type"]].format(re.escape(row["content"].lower()))
            patterns.setdefault(row["label"], []).append(pattern)
    part = f"(SELECT lower(author) AS author FROM {table} ORDER BY post_time LIMIT {PART_ROWS}) AS part"
    started = time.perf_counter()
    with MysqlServer.at(MYSQL_URL).session() as db:
        for each in patterns.values():
            db.cursor().execute(f"SELECT count(*) FROM {part} WHERE author REGEXP %s", ("|".join(each),))
    return {"rate": PART_ROWS / (time.perf_counter() - started)}


def plain_polars(folder: Path, table: str) -> Measured:
    """A script of a few lines: read, an Aho-Corasick search for each label, and the labels written back."""
    words = pl.read_csv(folder / "gender.csv")
    sql = f"SELECT id, author FROM {table} ORDER BY post_time LIMIT {PART_ROWS}"
    started = time.perf_counter()
    posts = pl.read_database_uri(sql, MysqlServer.at(MYSQL_URL).url).with_columns(
        text=pl.col("author").str.to_lowercase()
    )
    found = []
    for (name,), part in words.group_by("label"):
        of_kind = {kind[0]: each["content"].str.to_lowercase() for kind, each in part.group_by("match_type")}
        hit = pl.col("text").str.contains_any(of_kind["partially"].to_list()) | pl.col("text").is_in(
            of_kind["exactly"].implode()
        )
        for word in of_kind.get("start", []):
            hit |= pl.col("text").str.starts_with(word)
        for word in of_kind.get("end", []):
            hit |= pl.col("text").str.ends_with(word)
        found.append(posts.filter(hit).select("id", pl.lit(name).alias("panel")))
    pl.concat(found).write_database("plain_polars", sqlalchemy_url(), if_table_exists="replace")
    return {"rate": PART_ROWS / (time.perf_counter() - started)}


def _trees(folder: Path) -> dict[str, Any]:
    with (folder / "gender.csv").open(encoding="utf-8") as file:
        return rowwise.compile_keywords((r["label"], r["content"], r["match_type"]) for r in csv.DictReader(file))


def sqlalchemy_url() -> str:
    return MysqlServer.at(MYSQL_URL).url.replace("mysql://", "mysql+pymysql://") + "?charset=utf8mb4"


# the table


def measure(n_rows: int, runs: int, *, large: bool) -> list[str]:
    """A line each, everything in turn."""
    folder = bench.make_data(n_rows)
    make_databases()
    clean_up()
    table = make_tables(folder, n_rows)
    if large:
        table, n_rows = multiply(table), TIMES * n_rows
    todo: dict[tuple[str, str], Any] = {("row-wise baseline", "MariaDB"): lambda: baseline(folder, table)}
    for what, kind, url, rules in CASES:
        field = rules.partition("=")[0]
        todo[f"only reading the columns of: {what}", kind] = lambda u=url, f=field: only_reading(folder, table, u, f)
        todo[what, kind] = lambda u=url, r=rules: label(folder, table, u, r)
    if not large:
        for workers in (1, 2):
            what = f"{KEYWORDS}, {workers} worker{'s' * (workers > 1)} of one thread"
            todo[what, "MariaDB"] = lambda w=workers: label(folder, table, MYSQL_URL, "author=gender.csv", w)
        for indexes in INDEXES:
            what = f"{KEYWORDS}, result tables with indexes on {indexes}"
            todo[what, "MariaDB"] = lambda i=indexes: label(folder, table, MYSQL_URL, "author=gender.csv", indexes=i)
        todo["plain polars script", "MariaDB"] = lambda: plain_polars(folder, table)
        todo["Snorkel's applier, nothing written", "MariaDB"] = lambda: snorkel(folder, table)
        todo["MariaDB's REGEXP, nothing written", "MariaDB"] = lambda: regexp(folder, table)
    found: dict[tuple[str, str], list[Measured]] = {case: [] for case in todo}
    for _ in range(runs):
        for case, run in todo.items():
            found[case].append(run())
            print(*case, found[case][-1], file=sys.stderr, flush=True)
    clean_up()
    return table_of(found, n_rows)


def beside_the_predecessor(n_rows: int) -> list[str]:
    """The predecessor's published numbers, and ours on as many rows, MariaDB to MariaDB, everything on."""
    folder = bench.make_data(n_rows)
    make_databases()
    clean_up()
    table = as_many_as_the_predecessor(make_tables(folder, n_rows), n_rows)
    ours = label(folder, table, MYSQL_URL, "author=gender.csv")
    clean_up()
    whole_s, labeling_s = ours["rows"] / ours["whole"], ours["rows"] / ours["rate"]
    rows, minutes = f"{PREDECESSOR_ROWS:,}", f"{PREDECESSOR_S / 60:,.1f} min"
    theirs = f"{PREDECESSOR_ROWS / PREDECESSOR_S:,.0f}"
    return [
        "| what | rows | time | of it labeling | rows/s | results | peak memory |",
        "|---|--:|--:|--:|--:|--:|--:|",
        f"| the predecessor, as published | {rows} | {minutes} | | {theirs} | | 812 MB |",
        f"| Audience | {ours['rows']:,} | {whole_s:,.0f} s | {labeling_s:,.0f} s | {ours['whole']:,.0f} "
        f"| {ours['results']:,} | {ours['peak']:,.0f} MB |",
    ]


def table_of(found: dict[tuple[str, str], list[Measured]], n_rows: int) -> list[str]:
    lines = ["| what | database | rows | results | rows/s | times the baseline | rows/s, whole command | peak memory |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    middle = {
        case: {k: statistics.median(run[k] for run in all_runs) for k in all_runs[0]}
        for case, all_runs in found.items()
    }
    base = middle["row-wise baseline", "MariaDB"]["rate"]
    for (what, kind), m in middle.items():
        on_part = "rows" not in m and "reading" not in what
        rows = PART_ROWS if on_part else m.get("rows", n_rows)
        ratio = f"{m['rate'] / base:,.{0 if m['rate'] > 10 * base else 1}f}"
        rest = (
            (f"{m['whole']:,.0f}", f"{max(r['peak'] for r in found[what, kind]):,.0f} MB") if "whole" in m else ("", "")
        )
        results = f"{m['results']:,.0f}" if "results" in m else ""
        lines.append(
            f"| {what} | {kind} | {rows:,.0f} | {results} | {m['rate']:,.0f} | {ratio} | {rest[0]} | {rest[1]} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--large", action="store_true", help=f"{TIMES} times as many rows, once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    parser.add_argument("--predecessor", action="store_true", help="as many rows as the predecessor's published run")
    given = parser.parse_args()
    if given.predecessor:
        with servers():
            lines = beside_the_predecessor(given.rows)
        print("\n".join(lines))
        bench.write(lines, "predecessor")
        return
    with servers():
        lines = measure(given.rows, 1 if given.large else given.runs, large=given.large)
    print("\n".join(lines))
    if not given.no_write:
        bench.write(lines, "databases-large" if given.large else "databases")


if __name__ == "__main__":
    main()
