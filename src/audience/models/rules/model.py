"""A rule set as a model: every pattern over a batch at once, then rules, labels and evidence on the rows that hit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from audience.models.base import EVIDENCE, LABELS, OUTPUTS
from audience.models.rules.definition import RuleSet
from audience.text.folding import Lowered, fold, fold_all
from audience.text.keywords import KeywordMatcher, place_in_run
from audience.text.patterns import compile_pattern
from audience.text.regexes import RegexMatcher

EVIDENCE_PER_LABEL = 50
"""Hits kept as evidence of one label on one row; scores count all of them."""

HIT = {"row": pl.UInt32, "pattern": pl.UInt32, "field": pl.UInt32, "start": pl.Int64, "end": pl.Int64}
ERROR = {"row": pl.UInt32, "reason": pl.String}


@dataclass(frozen=True)
class FieldMatchers:
    """All patterns that look at one field. Keywords and regexes are numbered by their pattern in the rule set."""

    field: str
    keywords: KeywordMatcher
    keyword_patterns: pl.DataFrame
    regexes: RegexMatcher
    regex_patterns: pl.Series


class RuleModel:
    """Keyword and regex rules; see `RuleSet` for what a rule means. Scores are hits: of the rules of a label that are
    plain keywords found anywhere all count once together, every other rule counts one."""

    outputs = OUTPUTS

    def __init__(self, rules: RuleSet, labels: Sequence[str] = (), fields: Sequence[str] = ()) -> None:
        """`labels` and `fields` where the rules are a part of a larger set: in its order, which decides between equals;
        by default those of the rules."""
        self.rules = rules
        fields = fields or rules.used_fields
        self.inputs = pa.schema([(field, pa.large_string()) for field in fields])
        self._labels = tuple(labels) or rules.labels_in_order
        self._patterns = [(n, pattern) for n, rule in enumerate(rules.rules) for pattern in rule.patterns]
        self._kinds = pl.Series([pattern.kind for _, pattern in self._patterns], dtype=pl.String)
        self._clauses = self._clause_table()
        self._rules = self._rule_table()
        self._fields = [self._matchers(field) for field in fields]

    # compiling

    def _clause_table(self) -> pl.DataFrame:
        """pattern -> the rule it belongs to, and whether it stands in any, all or none."""
        clauses = [
            (rule, clause)
            for rule, r in enumerate(self.rules.rules)
            for clause, patterns in (("any", r.any), ("all", r.all), ("none", r.none))
            for _ in patterns
        ]
        schema = {"rule": pl.UInt32, "clause": pl.String}
        return pl.DataFrame(clauses, schema=schema, orient="row").with_row_index("pattern")

    def _rule_table(self) -> pl.DataFrame:
        """Of every rule: its label, what it needs, and the unit that it counts in."""
        numbers = {label: i for i, label in enumerate(self._labels)}
        rows = [
            (
                n,
                numbers[rule.label],
                bool(rule.any),
                len(rule.all),
                bool(rule.all or rule.none),
                -1 - numbers[rule.label] if rule.is_plain_keyword else n,
            )
            for n, rule in enumerate(self.rules.rules)
        ]
        schema = {
            "rule": pl.UInt32,
            "label": pl.UInt32,
            "has_any": pl.Boolean,
            "n_all": pl.UInt32,
            "composite": pl.Boolean,
            "unit": pl.Int64,
        }
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _matchers(self, field: str) -> FieldMatchers:
        rules = self.rules.rules
        here = [(i, n, p) for i, (n, p) in enumerate(self._patterns) if field in self.rules.fields_of(rules[n])]
        lower = self.rules.case != "exact"
        keywords = [(i, p) for i, _, p in here if p.keyword is not None]
        folded = fold_all([p.text for _, p in keywords], lower=lower, width=self.rules.width)
        distinct = list(dict.fromkeys(folded))
        numbers = {text: n for n, text in enumerate(distinct)}
        keyword_rows = [(numbers[text], i, p.kind) for text, (i, p) in zip(folded, keywords, strict=True)]
        regexes = [(i, n, p) for i, n, p in here if p.regex is not None]
        compiled = [compile_pattern(p.regex or "", ignore_case=self.rules.case == "ignore") for _, _, p in regexes]
        labels = [self._labels.index(rules[n].label) for _, n, _ in regexes]
        return FieldMatchers(
            field,
            KeywordMatcher(distinct),
            pl.DataFrame(
                keyword_rows, schema={"keyword": pl.UInt32, "pattern": pl.UInt32, "kind": pl.String}, orient="row"
            ),
            RegexMatcher(compiled, groups=labels),
            pl.Series([i for i, _, _ in regexes], dtype=pl.UInt32),
        )

    # predicting

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        found = [self._find(n, matchers, batch) for n, matchers in enumerate(self._fields)]
        hits = pl.concat([hits for hits, _ in found])
        errors = pl.concat([errors for _, errors in found]).unique("row", keep="first")
        if len(errors):
            hits = hits.join(errors, on="row", how="anti")
        counted = self._count(self._rules_hit(hits))
        given = counted if self.rules.labels == "all" else counted.unique("row", keep="first", maintain_order=True)
        labels = _label_lists(len(batch), given, self._labels, self._evidence(hits, counted, given, batch), errors)
        reasons = pl.Series([None] * 0, dtype=pl.String).extend_constant(None, len(batch))
        reasons = reasons.scatter(errors["row"], errors["reason"])
        return pa.RecordBatch.from_arrays([labels, reasons.to_arrow().cast(pa.large_string())], schema=OUTPUTS)

    def _find(self, number: int, matchers: FieldMatchers, batch: pa.RecordBatch) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(hits, errors) of all patterns that look at one field."""
        rules = self.rules
        texts = fold(_column(batch, matchers.field), lower=False, width=rules.width)
        frames = [pl.DataFrame(schema=HIT)]
        errors = pl.DataFrame(schema=ERROR)
        if matchers.keywords.keywords:
            folded = Lowered(texts, lowers=rules.case != "exact")
            frames.append(_anchored(matchers.keywords.find(folded), matchers.keyword_patterns, texts))
        if len(matchers.regex_patterns):
            spans, errors = matchers.regexes.find(Lowered(texts, lowers=rules.case == "lower"))
            frames.append(spans.with_columns(pattern=matchers.regex_patterns.gather(spans["pattern"])))
        ready = [frame.with_columns(field=pl.lit(number, pl.UInt32)).select(*HIT) for frame in frames]
        return pl.concat(ready), errors.select(*ERROR)

    def _rules_hit(self, hits: pl.DataFrame) -> pl.DataFrame:
        """row, rule, label and unit of every rule that holds."""
        touched = hits.select("row", "pattern").unique().join(self._clauses, on="pattern").join(self._rules, on="rule")
        columns = ["row", "rule", "label", "unit"]
        simple = touched.filter(~pl.col("composite")).select(columns).unique()
        composite = (
            touched.filter("composite")
            .group_by(columns)
            .agg(
                ((pl.col("clause") == "any").any() | ~pl.col("has_any").first()).alias("any_holds"),
                ((pl.col("clause") == "all").sum() == pl.col("n_all").first()).alias("all_hold"),
                (pl.col("clause") == "none").any().alias("is_barred"),
            )
            .filter(pl.col("any_holds") & pl.col("all_hold") & ~pl.col("is_barred"))
            .select(columns)
        )
        return pl.concat([simple, composite])

    @staticmethod
    def _count(rules_hit: pl.DataFrame) -> pl.DataFrame:
        """row, label, score and rules, best label first."""
        return (
            rules_hit.group_by("row", "label")
            .agg(pl.col("unit").n_unique().cast(pl.Float64).alias("score"), pl.col("rule"))
            .sort("row", "score", "label", descending=[False, True, False])
        )

    def _evidence(
        self, hits: pl.DataFrame, counted: pl.DataFrame, given: pl.DataFrame, batch: pa.RecordBatch
    ) -> pl.DataFrame:
        """The hits behind every rule that holds, by the place in `given` of the label that they are evidence of: its
        own hits first; where a row gets one label, then those of the labels that lost."""
        ranked = counted.with_columns(rank=pl.Series(place_in_run(counted["row"].to_numpy()))).explode("rule")
        key = ["row", "label"] if self.rules.labels == "all" else ["row"]
        told = (
            self._clauses.filter(pl.col("clause") != "none")
            .join(ranked, on="rule")
            .join(given.select(key).with_row_index("entry"), on=key)
            .join(hits, on=["row", "pattern"])
            .sort("entry", "rank", "start", "end", "rule", "field")
        )
        told = told.filter(pl.Series(place_in_run(told["entry"].to_numpy()) < EVIDENCE_PER_LABEL))
        fields = pl.Series([m.field for m in self._fields], dtype=pl.String)
        return told.select(
            "entry",
            pl.Series("label", self._labels, dtype=pl.String).gather(told["label"]).alias("label"),
            (pl.col("rule") + 1).cast(pl.Int32).alias("rule"),
            fields.gather(told["field"]).alias("field"),
            self._kinds.gather(told["pattern"]).alias("match"),
            self._matched_texts(told, batch).alias("text"),
            "start",
            "end",
        )

    def _matched_texts(self, told: pl.DataFrame, batch: pa.RecordBatch) -> pl.Series:
        """The original text of every hit."""
        texts = pl.Series([None] * 0, dtype=pl.String).extend_constant(None, len(told))
        for number, matchers in enumerate(self._fields):
            at = (told["field"] == number).arg_true()
            part = told[at].with_columns(text=_column(batch, matchers.field).gather(told[at]["row"]))
            sliced = part.select(pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start")))
            texts = texts.scatter(at, sliced["text"])
        return texts


def _column(batch: pa.RecordBatch, name: str) -> pl.Series:
    series = pl.from_arrow(batch.column(name))
    assert isinstance(series, pl.Series)
    return series


def _anchored(found: pl.DataFrame, patterns: pl.DataFrame, texts: pl.Series) -> pl.DataFrame:
    """Hits of keywords as hits of patterns: those that begin or end where their kind of match asks."""
    hits = found.join(patterns, on="keyword", maintain_order="left")
    if (patterns["kind"] == "partially").all():
        return hits
    lengths = texts.gather(hits["row"]).str.len_chars().cast(pl.Int64)
    at_start, at_end = hits["start"] == 0, hits["end"] == lengths
    holds = (
        pl.when(pl.col("kind") == "partially")
        .then(pl.lit(value=True))
        .when(pl.col("kind") == "start")
        .then(at_start)
        .when(pl.col("kind") == "end")
        .then(at_end)
        .otherwise(at_start & at_end)
    )
    return hits.filter(holds)


def _label_lists(
    n_rows: int, given: pl.DataFrame, names: Sequence[str], evidence: pl.DataFrame, errors: pl.DataFrame
) -> pa.Array:
    """`LABELS` of all rows: labels by row, each with its evidence; null where there was an error."""
    labels = pl.Series(names, dtype=pl.String).gather(given["label"])
    entries = {
        "label": labels.to_arrow(),
        "score": given["score"].to_arrow(),
        "evidence": _lists(
            len(given), evidence["entry"], {f.name: evidence[f.name].to_arrow() for f in EVIDENCE}, EVIDENCE
        ),
    }
    failed = np.zeros(n_rows, dtype=bool)
    failed[errors["row"].to_numpy()] = True
    return _lists(n_rows, given["row"], entries, LABELS.value_type, failed)


def _lists(
    n_lists: int, places: pl.Series, columns: dict[str, pa.Array], kind: pa.DataType, nulls: np.ndarray | None = None
) -> pa.Array:
    """Lists of structs `kind`, from columns that are sorted by the `places` of their lists."""
    offsets = np.zeros(n_lists + 1, dtype=np.int32)
    np.cumsum(np.bincount(places.to_numpy(), minlength=n_lists), out=offsets[1:])
    structs = pa.StructArray.from_arrays([columns[f.name].cast(f.type) for f in kind], fields=list(kind))
    return pa.ListArray.from_arrays(
        pa.array(offsets), structs, type=pa.list_(kind), mask=None if nulls is None else pa.array(nulls)
    )
