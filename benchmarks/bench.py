"""Audience beside the row-wise baseline, in one run: rows per second as ratios, and peak memory.

    python benchmarks/bench.py [--rows N] [--large] [--runs N] [--no-write]

Ours is the whole command in a fresh process, with every mark, statistic, sample and distinct count on. `rate` counts
planning, reading, matching, evidence, writing and marks; `whole` adds production and the start of the process.
"""

import argparse
import csv
import json
import os
import platform
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import sqlalchemy as sa

HERE = Path(__file__).parent
ROOT = HERE.parent
DATA = HERE / "data"
DOCS = HERE.parent / "docs" / "performance.md"
COLUMNS = ("id", "s_id", "s_area_id", "title", "author", "content", "post_time")
BASELINE_ROWS = 100_000
LARGE_ROWS = 10_000_000
ROW_GROUP_ROWS = 122_880
GROUPS = {"WH_F0045": "fbfans", "WH_F0116": "forum", "WH_F0001": "Ptt"}

sys.path[:0] = [str(HERE)]
sys.path += [str(HERE / "others")]
import rowwise  # noqa: E402


def make_data(n_rows: int) -> Path:
    """TSV, SQLite and Parquet of the same posts, the keywords, 200 regexes and the groups; the folder."""
    folder = DATA / f"{n_rows}"
    done = folder / "done"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tsv = folder / "posts.tsv"
    names = HERE / "names" / "zh_given_name_characters.csv"
    subprocess.run([sys.executable, HERE / "make_posts.py", str(n_rows), tsv, folder / "gender.csv", names], check=True)
    make_sqlite(tsv, folder / "posts.db")
    make_parquet(tsv, folder / "posts.parquet")
    make_regexes(tsv, folder / "topics.csv")
    (folder / "groups.csv").write_text("s_id,group\n" + "".join(f"{c},{g}\n" for c, g in GROUPS.items()))
    tsv.unlink()
    done.touch()
    return folder


def make_sqlite(tsv: Path, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"CREATE TABLE posts ({', '.join(f'{c} TEXT' for c in COLUMNS)})")
    with tsv.open(encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        db.executemany(f"INSERT INTO posts VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    db.execute("CREATE INDEX posts_time ON posts (post_time)")
    db.commit()
    db.close()


def make_parquet(tsv: Path, path: Path) -> None:
    types = {c: pa.string() for c in COLUMNS} | {"post_time": pa.timestamp("us")}
    reader = pacsv.open_csv(
        tsv,
        read_options=pacsv.ReadOptions(column_names=COLUMNS),
        parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pacsv.ConvertOptions(column_types=types),
    )
    pq.write_table(reader.read_all(), path, row_group_size=ROW_GROUP_ROWS)


def make_regexes(tsv: Path, path: Path) -> None:
    """200 patterns in 10 labels over words that occur: plain, alternatives, gaps, classes, repetitions."""
    rng = random.Random(200)
    with tsv.open(encoding="utf-8") as lines:
        contents = [line.split("\t")[5] for line in islice(lines, 3_000)]
    words = sorted({word for content in contents for word in content.split("，") if len(word) > 1})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "regex"])
        seen = set()
        while len(seen) < 200:
            a, b = (re.escape(rng.choice(words).lower()) for _ in range(2))
            pattern = rng.choice(
                [a, f"{a}|{b}", f"{a}.{{0,10}}{b}", f"{a}[0-9]+", f"(?:{a[0]}|{b[0]})[a-z]{{2,5}}", f"{a}.*{b}"]
            )
            if pattern not in seen:
                writer.writerow([f"topic_{len(seen) % 10}", pattern])
                seen.add(pattern)


def baseline(folder: Path) -> float:
    """Rows per second of the row-wise way, SQLite to SQLite, on the first rows."""
    out = folder / "rowwise.db"
    out.unlink(missing_ok=True)
    with (folder / "gender.csv").open(encoding="utf-8") as file:
        keywords = [(r["label"], r["content"], r["match_type"]) for r in csv.DictReader(file)]
    connection = sqlite3.connect(folder / "posts.db")
    engine = sa.create_engine(f"sqlite:///{out}")
    query = f"SELECT {', '.join(COLUMNS)} FROM posts WHERE rowid <= {BASELINE_ROWS}"
    rate = rowwise.label(connection, engine, keywords, query)
    connection.close()
    engine.dispose()
    out.unlink()
    return rate


def ours(folder: Path, source: str, target: str, rules: str, checkout: Path = ROOT) -> dict[str, float]:
    """One `audience label` on files in a fresh process."""
    out = folder / target
    for path in (out, *folder.glob(f"{target}-*")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    given = [str(folder / source), "--rules", rules, "--target", str(out)]
    given += ["--table", "posts"] if source.endswith(".db") else []
    return labelled(folder, given, checkout)


def labelled(folder: Path, given: list[str], checkout: Path) -> dict[str, float]:
    """What one `audience label` of this checkout did: rate, whole rate and peak memory in MB."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    command = [sys.executable, "-m", "audience", "label", *given]
    command += ["--groups", str(folder / "groups.csv"), "--default-group", "others", "--json"]
    environment = {**os.environ, "AUDIENCE_HOME": str(home), "PYTHONPATH": str(checkout / "src")}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr.decode())
    report = json.loads(done.stdout)["tasks"][0]["report"]
    results = sum(g["results"] for g in report["groups"].values())
    return {
        "rows": report["read"],
        "rate": report["read"] / report["seconds"],
        "whole": report["read"] / whole,
        "peak": report["peak_memory_mb"],
        "results": results,
    }


CASES = (
    ("4,600 author keywords", "posts.parquet", "labels", "author=gender.csv"),
    ("4,600 author keywords", "posts.db", "labels.db", "author=gender.csv"),
    ("200 regexes on content", "posts.parquet", "labels", "content=topics.csv"),
    ("200 regexes on content", "posts.db", "labels.db", "content=topics.csv"),
)


def measure(n_rows: int, runs: int) -> list[str]:
    """The table, a line each: baseline and ours in turn."""
    folder = make_data(n_rows)
    rates: list[float] = []
    found: dict[tuple[str, ...], list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(runs):
        rates.append(baseline(folder))
        for case in CASES:
            _, source, target, rules = case
            field, _, name = rules.partition("=")
            found[case].append(ours(folder, source, target, f"{field}={folder / name}"))
            print(f"{case[0]}, {source}: {found[case][-1]}", file=sys.stderr, flush=True)
    base = statistics.median(rates)
    lines = [
        "| what | from -> to | rows | results | rows/s | times the baseline | rows/s, whole command | peak memory |"
    ]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    lines.append(f"| row-wise baseline, keywords | SQLite -> SQLite | {BASELINE_ROWS:,} | | {base:,.0f} | 1 | | |")
    for (what, source, target, _), all_runs in found.items():
        kinds = " -> ".join("SQLite" if name.endswith(".db") else "Parquet" for name in (source, target))
        middle = {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]}
        ratio = f"{middle['rate'] / base:,.0f}"
        lines.append(
            f"| {what} | {kinds} | {middle['rows']:,.0f} | {middle['results']:,.0f} | {middle['rate']:,.0f} | {ratio} "
            f"| {middle['whole']:,.0f} | {max(run['peak'] for run in all_runs):,.0f} MB |"
        )
    return lines


def write(lines: list[str], section: str) -> None:
    """Puts the table into docs/performance.md, between the section's marks."""
    text = DOCS.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    body = "\n".join([begin, "", f"Measured {time.strftime('%Y-%m-%d')}: {machine}.", "", *lines, "", end])
    DOCS.write_text(text[: text.index(begin)] + body + text[text.index(end) + len(end) :], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--large", action="store_true", help=f"{LARGE_ROWS:,} rows, once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    given = parser.parse_args()
    lines = measure(LARGE_ROWS if given.large else given.rows, 1 if given.large else given.runs)
    print("\n".join(lines))
    if not given.no_write:
        write(lines, "large" if given.large else "bench")


if __name__ == "__main__":
    main()
