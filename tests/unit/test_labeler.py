"""Batches in, result rows out."""

from collections.abc import Iterator

import pyarrow as pa

from audience.labeling.groups import GroupMap
from audience.labeling.labeler import Labeler, NamedModel
from audience.labeling.panels import default_panels
from audience.labeling.statistics import PartitionStatistics
from audience.models.rules.definition import RuleSet
from audience.models.rules.model import RuleModel
from audience.tables.batches import BATCH_BYTES

N_ROWS, N_WORDS = 12_000, 50
RULES = RuleSet.model_validate({"rules": [{"label": "L", "any": [{"keyword": f"word{n:02}"} for n in range(N_WORDS)]}]})


def heavy_rows(size: int) -> Iterator[pa.RecordBatch]:
    """Every row holds every word."""
    text = " ".join(f"word{n:02}" for n in range(N_WORDS))
    schema = pa.schema([("id", pa.large_string()), ("content", pa.large_string()), ("error", pa.large_string())])
    for start in range(0, N_ROWS, size):
        ids = [f"p{n}" for n in range(start, min(start + size, N_ROWS))]
        yield pa.RecordBatch.from_pydict(
            {"id": ids, "content": [text] * len(ids), "error": [None] * len(ids)}, schema=schema
        )


def labelled(size: int) -> list[pa.RecordBatch]:
    labeler = Labeler(
        "t", [NamedModel("m@1", RuleModel(RULES))], GroupMap(channels={}, default="all"), default_panels()
    )
    return list(labeler.label(0, heavy_rows(size), PartitionStatistics(seed=1)))


def test_rows_with_dozens_of_hits_are_labelled_a_few_at_a_time() -> None:
    batches = labelled(N_ROWS)
    assert sum(batch.nbytes for batch in batches) > 5 * BATCH_BYTES
    assert max(batch.nbytes for batch in batches) < 3 * BATCH_BYTES


def test_results_do_not_depend_on_how_many_rows_come_at_once() -> None:
    at_once, in_pieces = (pa.Table.from_batches(labelled(size)) for size in (N_ROWS, 777))
    assert at_once.equals(in_pieces)
    assert at_once["n"].to_pylist() == list(range(N_ROWS))
