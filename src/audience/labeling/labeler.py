"""Turns batches of a source into result rows: range, groups, models, evidence, and everything that is counted on the
way."""

import datetime as dt
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from audience.errors import AudienceError, BadInput
from audience.labeling.distinct import hash_texts
from audience.labeling.groups import GroupMap
from audience.labeling.panels import Panels
from audience.labeling.plan import SEPARATOR
from audience.labeling.statistics import PartitionStatistics, count_into
from audience.models.base import EVIDENCE, OUTPUTS, VALUES, Model
from audience.tables.base import RESULT_SCHEMA
from audience.tables.batches import BATCH_BYTES, BATCH_ROWS
from audience.tables.result_rows import holding

log = logging.getLogger(__name__)

FIRST_ROWS = 4_096
GROWTH = 4


@dataclass(frozen=True)
class NamedModel:
    """A model under the name that results carry, such as `gender@2`. `quantity`: of one that gives numbers, the label
    that they are written under."""

    name: str
    model: Model
    quantity: str = "value"

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Predicts a batch. Raises BadInput for a crash or an answer that breaks the contract of models, which plug-ins
        may do."""
        try:
            output = self.model.predict(batch)
        except AudienceError:
            raise
        except Exception as error:
            log.warning("action=model_crashed model=%s", self.name, exc_info=True)
            raise BadInput(f"the model {self.name} failed: {type(error).__name__}: {error}") from error
        for outputs in (OUTPUTS, VALUES):
            if output.schema.equals(outputs) and len(output) == len(batch):
                return output
        answered = f"{len(output)} rows of {', '.join(f'{f.name}: {f.type}' for f in output.schema)}"
        raise BadInput(f"the model {self.name} answered {len(batch)} rows with {answered}: not what models promise")


@dataclass(frozen=True)
class Labeler:
    """Labels the rows of one task. `models` in order of priority: each labels every row, or with `first_wins` only
    the rows that no earlier one labelled. `unstorable`: characters that the target cannot hold; rows with one of them
    in a result are set aside. Safe to use from several threads."""

    task: str
    models: Sequence[NamedModel]
    groups: GroupMap
    panels: Panels
    first_wins: bool = False
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    unstorable: str = ""
    _learned: list[int] = field(default_factory=lambda: [FIRST_ROWS], repr=False)
    """How many rows to label at once, as the last thread has learned it."""

    def label(
        self, partition: int, batches: Iterable[pa.RecordBatch], statistics: PartitionStatistics
    ) -> Iterator[pa.RecordBatch]:
        """Yields result rows in the order of the rows, and of the models within a row; fills `statistics` on the
        way."""
        n = 0
        started = time.perf_counter()
        for results in self._portions(batches, statistics):
            if len(results):
                results = results.with_columns(
                    pl.lit(partition, pl.Int64).alias("partition"), (pl.int_range(pl.len()) + n).alias("n")
                )
                n += len(results)
                statistics.sampler.add(results)
                yield _as_results(results)
        statistics.seconds += time.perf_counter() - started

    def _portions(self, batches: Iterable[pa.RecordBatch], statistics: PartitionStatistics) -> Iterator[pl.DataFrame]:
        """Yields the results of so many rows at once as make about `BATCH_BYTES`, learned from rows before, also of
        other partitions: where every row has dozens of hits, its results are many times larger than the row."""
        size = self._learned[-1]
        for batch in batches:
            start = 0
            while start < len(batch):
                portion = batch.slice(start, size)
                results = self._label_batch(portion, statistics)
                start += len(portion)
                fitting = len(portion) * BATCH_BYTES // (int(results.estimated_size()) + 1)
                size = max(1, min(fitting, size * GROWTH, BATCH_ROWS))
                self._learned[-1] = size
                yield results

    def _label_batch(self, batch: pa.RecordBatch, statistics: PartitionStatistics) -> pl.DataFrame:
        frame = _frame(batch).with_row_index("place")
        statistics.read += len(frame)
        rows = self._usable(frame, statistics)
        if len(rows) < len(frame):
            batch = batch.take(rows["place"].to_arrow())
        if "author" in rows.columns:
            _count_authors(rows, statistics)
        found = self._predict(batch, statistics)
        if not len(found):
            return found
        results = found.join(rows.with_row_index("row"), on="row", maintain_order="left")
        results = self._storable(self._result_rows(results), statistics)
        count_into(statistics.results, results["group"])
        return results

    def _storable(self, results: pl.DataFrame, statistics: PartitionStatistics) -> pl.DataFrame:
        """Returns results without the rows of which the target cannot hold a text: all results of such a row go."""
        wrong = results.filter(holding(self.unstorable)) if self.unstorable else results.clear()
        if not len(wrong):
            return results
        reason = "a text holds a character that the target cannot store: " + ", ".join(map(repr, self.unstorable))
        statistics.put_aside(wrong.unique("row", maintain_order=True).select("id", pl.lit(reason).alias("reason")))
        return results.join(wrong.select("row"), on="row", how="anti", maintain_order="left")

    def _usable(self, rows: pl.DataFrame, statistics: PartitionStatistics) -> pl.DataFrame:
        """Returns the rows to label, with their group and source_author; counts all others."""
        if rows["error"].null_count() < len(rows):
            statistics.put_aside(rows.filter(pl.col("error").is_not_null()).rename({"error": "reason"}))
            rows = rows.filter(pl.col("error").is_null())
        rows = self._in_range(rows, statistics)
        channel = rows["s_id"] if "s_id" in rows.columns else None
        rows = rows.with_columns(self.groups.of(channel, len(rows)))
        if rows["group"].null_count():
            unmapped = rows.filter(pl.col("group").is_null())
            count_into(statistics.unmapped, unmapped["s_id"].fill_null("(null)"))
            rows = rows.filter(pl.col("group").is_not_null())
        count_into(statistics.received, rows["group"])
        return rows.with_columns(_source_author(rows.columns).alias("source_author"))

    def _in_range(self, rows: pl.DataFrame, statistics: PartitionStatistics) -> pl.DataFrame:
        if self.start is None and self.end is None:
            return rows
        inside = pl.lit(value=True)
        if self.start is not None:
            inside &= pl.col("post_time") >= self.start
        if self.end is not None:
            inside &= pl.col("post_time") < self.end
        timeless = rows.filter(pl.col("post_time").is_null())
        statistics.put_aside(timeless.select("id", pl.lit("post_time is null").alias("reason")))
        kept = rows.filter(inside)
        statistics.outside += len(rows) - len(timeless) - len(kept)
        return kept

    def _predict(self, batch: pa.RecordBatch, statistics: PartitionStatistics) -> pl.DataFrame:
        """Returns row, model, label, score and evidence of every label, by row and model."""
        waiting = pl.Series("row", range(len(batch)), dtype=pl.UInt32) if self.first_wins else None
        found = []
        for order, named in enumerate(self.models):
            part = batch if waiting is None else batch.take(waiting.to_arrow())
            inputs = part.select(named.model.inputs.names)
            output = named.predict(inputs)
            if "value" in output.schema.names:
                output = _without_nan(output)
                labels = _values(output, inputs, named)
            else:
                labels = _labels(output, inputs, named.name)
            if waiting is not None:
                labels = labels.with_columns(row=waiting.gather(labels["row"]))
                waiting = waiting.filter(~waiting.is_in(labels["row"].implode()))
            if output.column("error").null_count < len(output):
                statistics.model_errors += len(output) - output.column("error").null_count
                statistics.put_aside(_failed(output, part, named.name))
            found.append(labels.with_columns(order=pl.lit(order)))
        return pl.concat(found).sort("row", "order", maintain_order=True).drop("order")

    def _result_rows(self, results: pl.DataFrame) -> pl.DataFrame:
        nothing = pl.lit(None, pl.String)
        return results.with_columns(
            self.panels.of(results["label"]),
            pl.lit(self.task).alias("task_id"),
            (pl.col("s_id") if "s_id" in results.columns else nothing).alias("field_content"),
            (pl.col("post_time") if "post_time" in results.columns else pl.lit(None, pl.Datetime("us"))).alias(
                "create_time"
            ),
            _evidence_json(results["evidence"]).alias("evidence"),
            _match_meta(results["evidence"]).alias("match_meta"),
        )


def _source_author(columns: Sequence[str]) -> pl.Expr:
    """Returns the author of a row: channel and author joined, trimmed at both ends; null without an author."""
    if "author" not in columns:
        return pl.lit(None, pl.String)
    author = pl.concat_str("s_id", "author", separator=SEPARATOR) if "s_id" in columns else pl.col("author")
    return author.str.strip_chars()


def _count_authors(rows: pl.DataFrame, statistics: PartitionStatistics) -> None:
    """Counts distinct authors over all rows read, labelled or not."""
    known = rows.select("group", "source_author", pl.col("^s_id$")).drop_nulls()
    hashed = known.select("group", hash=_hashed(known))
    groups = hashed.partition_by("group", as_dict=True) if hashed["group"].n_unique() > 1 else {}
    for (group,), part in groups.items() or ([((hashed["group"][0],), hashed)] if len(hashed) else []):
        statistics.authors.add(str(group), part["hash"])
    if len(known) < len(rows):
        count_into(statistics.authorless, rows.filter(pl.col("source_author").is_null())["group"])


def _hashed(authors: pl.DataFrame) -> pl.Series:
    """Returns a hash of each author of a channel: `amy` of `car_talk` is not `talk_amy` of `car`, whose
    `source_author` is the same."""
    hashes = hash_texts(authors["source_author"])
    if "s_id" in authors.columns:
        hashes = hashes ^ (hash_texts(authors["s_id"]) >> np.uint64(1))  # shifted: equal texts do not give zero
    return pl.Series("hash", hashes)


def _labels(output: pa.RecordBatch, inputs: pa.RecordBatch, model: str) -> pl.DataFrame:
    """Returns the labels of a model's output, one a row, with the text that they were found in."""
    lists = output.column("labels")
    entries = lists.flatten()
    frame = pl.DataFrame(
        {
            "row": pl.Series(lists.value_parent_indices() if len(entries) else [], dtype=pl.UInt32),
            "label": pl.from_arrow(entries.field("label")),
            "score": pl.from_arrow(entries.field("score")),
            "evidence": pl.from_arrow(entries.field("evidence")),
        }
    )
    return frame.with_columns(pl.lit(model).alias("model"), _text_found_in(frame, inputs).alias("match_content"))


def _values(output: pa.RecordBatch, inputs: pa.RecordBatch, named: NamedModel) -> pl.DataFrame:
    """Returns the numbers that a model gives, each as the score of one label, with the text of the model's first
    input."""
    frame = pl.DataFrame(
        {
            "row": pl.Series(range(len(output)), dtype=pl.UInt32),
            "label": pl.Series([named.quantity], dtype=pl.String).new_from_index(0, len(output)),
            "score": pl.from_arrow(output.column("value")),
            "evidence": pl.from_arrow(pa.array([[]] * len(output), pa.list_(EVIDENCE))),
            "model": pl.Series([named.name], dtype=pl.String).new_from_index(0, len(output)),
            "match_content": pl.from_arrow(inputs.column(0)),
        }
    )
    return frame.filter(pl.col("score").is_not_null())


def _without_nan(output: pa.RecordBatch) -> pa.RecordBatch:
    """Turns values that are not finite into model errors: databases store them as something else, or not at all."""
    value, error = output.columns
    wrong = pc.invert(pc.fill_null(pc.is_finite(value), True))
    reasons = pc.if_else(wrong, pa.scalar("its value is not a finite number", pa.large_string()), error)
    wrong = pc.or_(wrong, pc.is_valid(error))
    return pa.RecordBatch.from_arrays([pc.if_else(wrong, None, value), reasons], schema=VALUES)


def _text_found_in(labels: pl.DataFrame, inputs: pa.RecordBatch) -> pl.Series:
    """Returns the whole text of the field of the first hit; of the model's first input where there is no evidence."""
    names = inputs.schema.names
    fields = labels["evidence"].list.eval(pl.element().struct.field("field")).list.first().fill_null(names[0])
    texts = pl.Series("text", [None] * 0, dtype=pl.String).extend_constant(None, len(labels))
    for name in names:
        at = (fields == name).arg_true()
        column = pl.from_arrow(inputs.column(name))
        assert isinstance(column, pl.Series)
        texts = texts.scatter(at, column.gather(labels["row"].gather(at)))
    return texts


def _failed(output: pa.RecordBatch, part: pa.RecordBatch, model: str) -> pl.DataFrame:
    frame = pl.DataFrame({"id": pl.from_arrow(part.column("id")), "reason": pl.from_arrow(output.column("error"))})
    return frame.drop_nulls("reason").with_columns(pl.format("{}: {}", pl.lit(model), "reason").alias("reason"))


def _evidence_json(evidence: pl.Series) -> pl.Series:
    """Returns each list of hits as JSON text."""
    hits = _hits(evidence)
    return _joined(hits.with_columns(json=hits["hit"].struct.json_encode()), len(evidence))


def _match_meta(evidence: pl.Series) -> pl.Series:
    """Returns hits in the predecessor's form: `[[label, [[matched text in lower case, position], ...]], ...]`."""
    hits = _hits(evidence).unnest("hit")
    texts = hits.select(pl.struct(pl.col("text").str.to_lowercase()).struct.json_encode())["text"]
    labels = hits.select(pl.struct("label").struct.json_encode())["label"]
    pairs = hits.select(
        "entry",
        labels.str.strip_prefix('{"label":').str.strip_suffix("}").alias("label"),
        pl.format("[{},{}]", texts.str.strip_prefix('{"text":').str.strip_suffix("}"), "start").alias("json"),
    )
    by_label = pairs.group_by("entry", "label", maintain_order=True).agg(pl.col("json").str.join(","))
    return _joined(by_label.with_columns(pl.format("[{},[{}]]", "label", "json").alias("json")), len(evidence))


def _hits(evidence: pl.Series) -> pl.DataFrame:
    """Returns entry (position in `evidence`) and hit, one a row."""
    frame = pl.DataFrame({"entry": pl.Series(range(len(evidence)), dtype=pl.UInt32), "hit": evidence})
    return frame.filter(pl.col("hit").list.len() > 0).explode("hit")


def _joined(parts: pl.DataFrame, n: int) -> pl.Series:
    """Joins parts, which are in the order of entries, to one JSON list an entry; `[]` for entries without any."""
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(parts["entry"].to_numpy(), minlength=n), out=offsets[1:])
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(offsets, parts["json"].to_arrow()))
    assert isinstance(lists, pl.Series)
    return "[" + lists.list.join(",") + "]"


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _as_results(results: pl.DataFrame) -> pa.RecordBatch:
    table = results.select(RESULT_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(RESULT_SCHEMA)
    return table.combine_chunks().to_batches()[0]
