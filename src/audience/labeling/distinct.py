"""Counts distinct authors exactly in bounded memory: 64-bit hashes, sorted, packed per partition, merged in slices."""

import io
import json
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

MERGED_AT_ONCE = 2_000_000
"""Hashes held while counting: 16 MB, and as much again to sort them."""
GROUP_SIZES = "audience.group_sizes"

Hashes = NDArray[np.uint64]


def hash_texts(texts: pl.Series) -> Hashes:
    """Returns xxHash3, 64 bits, of each text's UTF-8: the same on every machine and version. Nulls must be gone."""
    return pl.DataFrame({"text": texts}).select(plh.col("text").nchash.xxh3_64())["text"].to_numpy()


class DistinctHashes:
    """Gathers the distinct hashes of each group, batch by batch."""

    def __init__(self) -> None:
        self._found: dict[str, list[pl.Series]] = {}

    def add(self, group: str, hashes: pl.Series) -> None:
        kept = self._found.setdefault(group, [])
        kept.append(hashes.unique())
        if len(kept) >= 8:
            self._found[group] = [pl.concat(kept).unique()]

    def packed(self) -> bytes:
        """Returns the hashes as Parquet, sorted within each group, as differences: about 6 bytes a hash."""
        sizes, columns = {}, []
        for group, parts in sorted(self._found.items()):
            columns.append(pl.concat(parts).unique().sort().to_numpy())
            sizes[group] = len(columns[-1])
        if not columns:
            return b""
        table = pa.table({"hash": np.concatenate(columns).view(np.int64)})
        table = table.replace_schema_metadata({GROUP_SIZES: json.dumps(sizes)})
        out = io.BytesIO()
        pq.write_table(
            table, out, compression="none", use_dictionary=False, column_encoding={"hash": "DELTA_BINARY_PACKED"}
        )
        return out.getvalue()


def count_distinct(packed: Callable[[], Iterable[bytes]]) -> dict[str, int]:
    """Returns group -> distinct hashes over all partitions. `packed` is read once for every `MERGED_AT_ONCE` hashes, so
    that memory does not grow with their number."""
    total = sum(pq.ParquetFile(io.BytesIO(blob)).metadata.num_rows for blob in packed() if blob)
    counts: dict[str, int] = {}
    n_ranges = max(1, -(-total // MERGED_AT_ONCE))
    for i in range(n_ranges):
        found: dict[str, list[Hashes]] = {}
        for group, hashes in (pair for blob in packed() if blob for pair in _unpacked(blob)):
            low, high = np.searchsorted(hashes, [_bound(i, n_ranges), _bound(i + 1, n_ranges)])
            found.setdefault(group, []).append(hashes[low : high if i + 1 < n_ranges else None].copy())
        for group, parts in found.items():
            counts[group] = counts.get(group, 0) + pl.Series(np.concatenate(parts)).n_unique()
    return counts


def _unpacked(blob: bytes) -> Iterator[tuple[str, Hashes]]:
    table = pq.read_table(io.BytesIO(blob))
    hashes = table.column("hash").to_numpy().view(np.uint64)
    start = 0
    for group, size in json.loads(table.schema.metadata[GROUP_SIZES.encode()]).items():
        yield group, hashes[start : start + size]
        start += size


def _bound(i: int, n: int) -> np.uint64:
    """Returns the lower end of the i-th of n equal ranges of 64 bits."""
    return np.uint64(min(i * (2**64 // n), 2**64 - 1))
