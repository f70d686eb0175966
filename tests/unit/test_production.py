"""Which rows stand for their pairs: in memory, and cut into slices on disk."""

import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from audience.errors import Transient
from audience.tables import production
from audience.tables.base import RESULT_SCHEMA, ConflictRules
from audience.tables.production import NARROW, standing_rows

RULES = ConflictRules({"yes": "answer", "no": "answer"}, by_author=True)


def batches(n_batches: int, n_rows: int) -> list[pa.RecordBatch]:
    rng = random.Random(1)
    return [
        pa.RecordBatch.from_pylist(
            [
                {
                    "source_author": f"author {rng.randrange(500)}",
                    "field_content": rng.choice(["s", "t", None]),
                    "panel": rng.choice(["yes", "no", "maybe"]),
                    "id": f"{rng.randrange(1000)}",
                    "create_time": rng.choice([None, 1, 2, 3]),
                    "partition": partition,
                    "n": n,
                }
                for n in range(n_rows)
            ],
            pa.schema([RESULT_SCHEMA.field(name) for name in NARROW]),
        )
        for partition in range(n_batches)
    ]


def settled(rows: list[pa.RecordBatch]) -> tuple[pl.DataFrame, int]:
    slices = list(standing_rows(rows, RULES))
    return pl.concat(frame for frame, _ in slices).sort("partition", "n"), sum(n for _, n in slices)


def test_rows_cut_into_slices_on_disk_give_what_those_in_memory_give(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batches(6, 1000)
    whole, n_subjects = settled(rows)
    monkeypatch.setattr(production, "IN_MEMORY_BYTES", 100_000)
    assert len(list(standing_rows(rows, RULES))) > 100
    sliced, n = settled(rows)
    assert sliced.equals(whole)
    assert n == n_subjects


def test_full_disk_is_said_and_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(Transient, match="free some space"):
        list(standing_rows(batches(1, 10), RULES))
