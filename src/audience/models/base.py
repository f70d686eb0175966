"""What all that labels rows promises; batch labeling, evaluation and online inference call the same `predict`."""

from typing import Protocol

import pyarrow as pa

EVIDENCE = pa.struct(
    [
        ("label", pa.large_string()),
        ("rule", pa.int32()),
        ("field", pa.large_string()),
        ("match", pa.large_string()),
        ("text", pa.large_string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
"""One hit: `rule` counts from 1 in the model; `match` is the kind of pattern; `text` is the original text between the
code points `start` and `end` of `field`."""

LABELS = pa.list_(pa.struct([("label", pa.large_string()), ("score", pa.float64()), ("evidence", pa.list_(EVIDENCE))]))

OUTPUTS = pa.schema([("labels", LABELS), ("error", pa.large_string())])
"""`labels`: what the model gives, best first; empty: nothing. Null, with the reason in `error`: it could not tell.
`evidence` begins with the label's own hits; where a row gets only one label, those of the labels that lost follow."""


class Model(Protocol):
    """Immutable once built; one instance serves many threads."""

    inputs: pa.Schema
    outputs: pa.Schema

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Exactly `outputs`, same length, same order as `batch`, which has at least the columns `inputs`. No I/O."""
