"""Many keywords in many texts: one automaton, every occurrence, overlapping ones included."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from audience.text.folding import Lowered, spellings
from audience.text.spans import code_point_offsets

SLICE_BYTES = 4 * 2**20
WINDOW_CHARACTERS = 2**18
OCCURRENCES_KEPT = 20
HITS = {"row": pl.UInt32, "keyword": pl.UInt32, "start": pl.Int64, "end": pl.Int64}


class KeywordMatcher:
    """Finds distinct, non-empty keywords as substrings; keywords for lowered texts are lowered already."""

    def __init__(self, keywords: Sequence[str]) -> None:
        self.keywords = list(keywords)
        self._numbers = pl.DataFrame(
            {"text": self.keywords, "keyword": range(len(self.keywords))},
            schema={"text": pl.String, "keyword": pl.UInt32},
        )
        self._longest = max(map(len, self.keywords), default=0)
        spelled = [spellings(keyword) for keyword in self.keywords]
        self._spellings = None if None in spelled else [s for variants in spelled for s in variants or ()]

    def _candidates(self, texts: Lowered) -> pl.Series:
        """Returns the rows that hold any keyword."""
        if texts.lowers and self._spellings is not None:
            held = texts.raw.str.contains_any(self._spellings, ascii_case_insensitive=True)
        else:
            held = texts.all.str.contains_any(self.keywords)
        return held.fill_null(False).arg_true()

    def find(self, texts: Lowered) -> pl.DataFrame:
        """Returns hits by row, keyword and position; offsets in code points. Of one keyword in one text the first
        `OCCURRENCES_KEPT` and the last are kept: a text of megabytes may hold millions."""
        frames = [pl.DataFrame(schema=HITS)]
        if self.keywords and len(texts):
            slices = _slices(texts, self._candidates(texts))
            frames += [self._first_and_last(self._in_slice(texts, part)) for part in slices]
        return pl.concat(frames).sort("row", "keyword", "start")

    def rows_with(self, texts: Lowered) -> pl.DataFrame:
        """Returns which rows hold which keywords: distinct row and keyword, in no order."""
        frames = [pl.DataFrame(schema=["row", "keyword"], orient="row").cast(pl.UInt32)]
        if self.keywords and len(texts):
            frames += [self._rows_with(texts, part) for part in _slices(texts, self._candidates(texts))]
        return pl.concat(frames)

    def _rows_with(self, texts: Lowered, rows: pl.Series) -> pl.DataFrame:
        part = texts.gather(rows)
        if len(part) == 1 and len(part[0]) > WINDOW_CHARACTERS:
            return self._in_slice(texts, rows).select("row", "keyword").unique()
        found = part.str.extract_many(self.keywords, overlapping=True).alias("text")
        held = pl.DataFrame([rows.cast(pl.UInt32).alias("row"), found]).explode("text", empty_as_null=False).unique()
        return held.join(self._numbers, on="text").select("row", "keyword")

    def _in_slice(self, texts: Lowered, rows: pl.Series) -> pl.DataFrame:
        part = texts.gather(rows)
        if len(part) == 1 and len(part[0]) > WINDOW_CHARACTERS:
            return pl.concat(self._windows(part[0])).with_columns(row=pl.lit(rows[0], pl.UInt32)).select(*HITS)
        hits = self._occurrences(part)
        return hits.with_columns(row=rows.cast(pl.UInt32).gather(hits["row"]))

    def _windows(self, text: str) -> Iterator[pl.DataFrame]:
        """Searches one long text in overlapping windows; a hit belongs to the window it begins in."""
        for offset in range(0, len(text), WINDOW_CHARACTERS):
            window = text[offset : offset + WINDOW_CHARACTERS + self._longest - 1]
            hits = self._occurrences(pl.Series([window])).filter(pl.col("start") < WINDOW_CHARACTERS)
            yield self._first_and_last(hits.with_columns(pl.col("start", "end") + offset))

    def _occurrences(self, part: pl.Series) -> pl.DataFrame:
        found = pl.DataFrame(
            {
                "row": np.arange(len(part), dtype=np.uint32),
                "at": part.str.find_many(self.keywords, overlapping=True),
                "text": part.str.extract_many(self.keywords, overlapping=True),
            }
        ).explode("at", "text", empty_as_null=False)
        start = code_point_offsets(part, found["row"].to_numpy(), found["at"].to_numpy())
        return (
            found.with_columns(start=pl.Series(start, dtype=pl.Int64))
            .with_columns(end=pl.col("start") + pl.col("text").str.len_chars().cast(pl.Int64))
            .join(self._numbers, on="text", maintain_order="left")
            .select(*HITS)
        )

    @staticmethod
    def _first_and_last(hits: pl.DataFrame) -> pl.DataFrame:
        """Keeps, of each keyword in each row, the first occurrences and the last."""
        if len(hits) <= OCCURRENCES_KEPT or np.bincount(hits["row"].to_numpy()).max() <= OCCURRENCES_KEPT:
            return hits
        hits = hits.sort("row", "keyword", "start")
        order = place_in_run(hits["row"].to_numpy().astype(np.int64) << 32 | hits["keyword"].to_numpy())
        is_last = np.append(order[1:] == 0, True)
        return hits.filter(pl.Series((order < OCCURRENCES_KEPT) | is_last))


def place_in_run(keys: np.ndarray) -> np.ndarray:
    """Returns 0, 1, 2 ... within each run of equal neighbours."""
    places = np.arange(len(keys))
    begins = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def _slices(texts: Lowered, rows: pl.Series) -> Iterator[pl.Series]:
    """Yields the rows in runs of about `SLICE_BYTES` of text; a longer text is a run of its own."""
    sizes = texts.raw.gather(rows).str.len_bytes().cast(pl.Int64).to_numpy()
    numbers = np.cumsum(sizes) // SLICE_BYTES
    numbers = numbers + np.cumsum(sizes > SLICE_BYTES // 4)  # a long text ends the run before it
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    start = 0
    for end in [*cuts.tolist(), len(rows)]:
        if end > start:
            yield rows.slice(start, end - start)
        start = end
