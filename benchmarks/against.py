"""Audience as it is here beside another checkout of it, in turn, in one run: ratios of rates, and peak memory.

    python benchmarks/against.py CHECKOUT [--rows N] [--runs N] [--databases]

Ratios are of medians, ours to theirs: above 1 is faster here, above 1 for memory is larger here. With --databases also
MariaDB to MariaDB and PostgreSQL to PostgreSQL, on private servers as `make bench` starts them.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import bench

HERE = Path(__file__).parents[1]
Measured = dict[str, float]
Case = tuple[str, Callable[[Path], Measured]]


def file_cases(folder: Path) -> list[Case]:
    def case(what: str, source: str, target: str, rules: str) -> Case:
        field, _, name = rules.partition("=")
        named = f"{what}, {'SQLite' if source.endswith('.db') else 'Parquet'}"
        return named, lambda checkout: bench.ours(folder, source, target, f"{field}={folder / name}", checkout)

    return [case(*each) for each in bench.CASES]


def database_cases(folder: Path, rows: int) -> list[Case]:
    import databases

    table = databases.make_tables(folder, rows)

    def case(what: str, kind: str, url: str, rules: str) -> Case:
        field, _, name = rules.partition("=")

        def measure(checkout: Path) -> Measured:
            databases.clean_up()
            given = [url, "--table", table, "--target", url, "--rules", f"{field}={folder / name}"]
            return bench.labelled(folder, given, checkout)

        return f"{what}, {kind}", measure

    return [case(*each) for each in databases.CASES]


def compare(cases: list[Case], other: Path, runs: int) -> None:
    print("| what | rows/s here | there | ratio | whole command, ratio | peak memory here | there |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for what, measure in cases:
        here, there = [], []
        for _ in range(runs):
            here.append(measure(HERE))
            there.append(measure(other))
        ours, theirs = ({key: statistics.median(run[key] for run in each) for key in each[0]} for each in (here, there))
        print(
            f"| {what} | {ours['rate']:,.0f} | {theirs['rate']:,.0f} | {ours['rate'] / theirs['rate']:.2f} "
            f"| {ours['whole'] / theirs['whole']:.2f} | {ours['peak']:,.0f} MB | {theirs['peak']:,.0f} MB |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--databases", action="store_true")
    given = parser.parse_args()
    folder = bench.make_data(given.rows)
    if not given.databases:
        compare(file_cases(folder), given.checkout.absolute(), given.runs)
        return
    import databases

    with databases.servers():
        databases.make_databases()
        compare(database_cases(folder, given.rows), given.checkout.absolute(), given.runs)


if __name__ == "__main__":
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    sys.exit(main())
