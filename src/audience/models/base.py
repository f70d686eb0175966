"""What all that labels rows promises, and what a kind of model promises; batch labeling, evaluation and online
inference call the same `predict`."""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

import pyarrow as pa
from pydantic import BaseModel

from audience.errors import BadRow

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

VALUES = pa.schema([("value", pa.float64()), ("error", pa.large_string())])
"""`value`: the number that a regressor gives; null: none. Null, with the reason in `error`: it could not tell."""

DEFINITION = "definition"
"""The artifact that holds a version's parameters as JSON, where they are too large for its row."""

MAX_LABEL_CHARACTERS = 100

OpenBlob = Callable[[str], bytes]
"""digest -> the content of a blob; raises Elsewhere in a process that cannot reach it."""


def label_fault(label: str, what: str = "the label") -> str | None:
    """Returns why a text cannot be a label, or the name of labels; None: it can."""
    if not label.strip():
        return f"{what} is empty"
    if len(label) > MAX_LABEL_CHARACTERS or any(unicodedata.category(c) in ("Cc", "Cs") for c in label):
        return f"{what} {label[:40]!r} has control characters or more than {MAX_LABEL_CHARACTERS} characters"
    return None


class Model(Protocol):
    """Immutable once built; one instance serves many threads."""

    inputs: pa.Schema
    """Texts (`pa.large_string()`), at least one, each a field of the source."""
    outputs: pa.Schema
    """`OUTPUTS` or `VALUES`."""

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Exactly `outputs`, same length, same order as `batch`, which has at least the columns `inputs`. No I/O."""


@dataclass(frozen=True)
class ModelRecord:
    """A version of a model as it is stored, without what it has learned."""

    name: str
    version: int
    kind: str
    protocol: int
    definition: dict[str, Any] | None
    """Its parameters; null when they are in the artifact `definition`."""
    inputs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    lineage: dict[str, Any] | None = None
    notes: str = ""

    @property
    def reference(self) -> str:
        """As results carry it: `gender@2`."""
        return f"{self.name}@{self.version}"

    def parameters(self, open_blob: OpenBlob) -> Any:
        """As they were saved, wherever they are."""
        if self.definition is not None:
            return self.definition
        return json.loads(open_blob(self.artifacts[DEFINITION]))


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a version without building it. `inputs`: the fields it looks at. `labels`: those that it may
    give; of a model that gives numbers the one name that they are written under, such as `price`. `summary`: a few
    words and numbers for lists, JSON. `warnings` do no harm."""

    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """What a model makes of one row, and why. `labels`: label and score, best first. `hits` have the fields of
    `EVIDENCE`; `why` is what else the kind has to say, JSON: the terms of a linear model, the votes of a vote."""

    labels: tuple[dict[str, Any], ...] = ()
    value: float | None = None
    hits: tuple[dict[str, Any], ...] = ()
    why: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Contents:
    """The parts of a model as a table for people: its rules, its terms, its members."""

    columns: tuple[str, ...] = ()
    rows: tuple[Sequence[Any], ...] = ()


@dataclass(frozen=True)
class Artifacts:
    """What a fit leaves behind: files by name, JSON, Arrow or skops, never a pickle; and what describes them."""

    files: Mapping[str, bytes]
    description: ModelDescription


class Control(Protocol):
    """How a fit is told to stop."""

    stop: Event


class Trainer(Protocol):
    """An unfitted model: parameters that were validated, nothing learned."""

    def fit(self, train: pa.Table, dev: pa.Table, *, seed: int, control: Control) -> Artifacts:
        """Learns from `train`, chooses on `dev`, never sees a test split. The tables have the columns `inputs`, and
        `labels` (list of texts) or `value`. The same data, parameters and seed give the same artifacts. Looks at
        `control.stop` between steps."""


class ModelKind(Protocol):
    """A kind of model: how its versions are described, loaded, trained and explained. A class without arguments,
    found by name through the entry point group `audience.models`; whoever derives from this one needs `name`,
    `parameters`, `describe` and `load` only.

    `protocol` numbers the layout of what this kind stores (parameters and artifacts) and is kept with each version. To
    change the layout: raise it by one; let `load` and `explain` read every number up to it, for versions never change;
    keep a stored version of the old number as a test; say so in the changelog. A record of a greater number is refused
    before the kind sees it."""

    name: str
    protocol: int = 1
    parameters: type[BaseModel]
    """What a user gives; validated where it enters, with defaults that are good."""

    def describe(self, parameters: Any) -> ModelDescription:
        """Of valid `parameters`, before they are saved; raises BadInput with every fault. Of a kind that is trained,
        what is known before the training."""

    def load(self, record: ModelRecord, open_blob: OpenBlob) -> Model:
        """The model, ready for many threads."""

    def trainer(self, parameters: Any) -> Trainer | None:
        """What fits it; None: the parameters are the model."""
        return None

    def explain(self, record: ModelRecord, open_blob: OpenBlob, row: Mapping[str, str | None]) -> Explanation:
        """Why it answers as it does; raises BadRow where it cannot tell. `row`: field -> text."""
        return explain_with(self.load(record, open_blob), row)

    def contents(self, record: ModelRecord, open_blob: OpenBlob, limit: int) -> Contents:
        """The first `limit` parts."""
        return Contents()


def explain_with(model: Model, row: Mapping[str, str | None]) -> Explanation:
    """The answer of a model for one row, with its evidence."""
    texts = [pa.array([row.get(name)], pa.large_string()) for name in model.inputs.names]
    output = model.predict(pa.RecordBatch.from_arrays(texts, schema=model.inputs))
    if error := output.column("error")[0].as_py():
        raise BadRow(error)
    if "value" in output.schema.names:
        return Explanation(value=output.column("value")[0].as_py())
    labels = output.column("labels")[0].as_py() or ()
    hits = [hit for entry in labels for hit in entry["evidence"] or ()]
    return Explanation(
        labels=tuple({"label": entry["label"], "score": entry["score"]} for entry in labels),
        hits=tuple(hit for n, hit in enumerate(hits) if hit not in hits[:n]),
    )
