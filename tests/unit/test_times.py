"""Texts, numbers and timestamps that are times, and those that only look like one."""

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from audience.tables.base import SourceSpec
from audience.tables.batches import canonical_batch
from audience.tables.times import implausible, parse_times

LARGEST = 2**63 - 1


def parsed(*texts: str | None, zone: str = "UTC") -> list[str | None]:
    times = parse_times(pl.Series(texts, dtype=pl.String), timezone=zone)
    return [None if t is None else str(t) for t in times]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("20240501", "2024-05-01 00:00:00"),
        ("202405011230", "2024-05-01 12:30:00"),
        ("20240501123059", "2024-05-01 12:30:59"),
        ("20240501T123059", "2024-05-01 12:30:59"),
        ("20240501T123059+0800", "2024-05-01 04:30:59"),
        ("2024-05-01T12:30Z", "2024-05-01 12:30:00"),
        ("2024-05-01 12:30+08:00", "2024-05-01 04:30:00"),
        ("2024-05-01 24:00:00", "2024-05-02 00:00:00"),
        ("113/5/1", "2024-05-01 00:00:00"),
        ("113-05-01 10:20", "2024-05-01 10:20:00"),
        ("民國113年5月1日", "2024-05-01 00:00:00"),
        ("中華民國99年12月31日 10:20", "2010-12-31 10:20:00"),
        ("2024年5月1日 下午3點05分", "2024-05-01 15:05:00"),
        ("2024/5/1 上午 12:05:09", "2024-05-01 00:05:09"),
        ("2024/5/1 下午 12:05", "2024-05-01 12:05:00"),
        ("2024/5/1 11:05 PM", "2024-05-01 23:05:00"),
        ("1714566600", "2024-05-01 12:30:00"),
        ("946684800000", "2000-01-01 00:00:00"),
        ("1714566600000000", "2024-05-01 12:30:00"),
    ],
)
def test_form_is_read_beside_any_other(text: str, time: str) -> None:
    assert parsed("2020-01-01", text, None) == ["2020-01-01 00:00:00", time, None]


@pytest.mark.parametrize(
    "text",
    [
        *("2024-02-30", "13/14/2024", "99/12/31", "20241399", "99999999", "113/13/01", "民國112年2月29日"),
        *("2024-05-01 25:00", "2024/5/1 上午 13:05", "12024-05-01", "-2024-05-01", "20240501123000123"),
        *("24:00", "123456"),
    ],
)
def test_text_that_only_looks_like_a_time_is_none(text: str) -> None:
    assert parsed("2020-01-01", text) == ["2020-01-01 00:00:00", None]


def test_time_beyond_the_last_year_is_none_in_any_zone() -> None:
    assert parsed("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", zone="Asia/Taipei")[0] is None
    assert parsed("0001-01-01T00:00:00Z", zone="America/New_York") == [None]


def batch(times: pa.Array, zone: str = "UTC") -> list[tuple[Any, Any]]:
    ids = pa.array(map(str, range(len(times))), pa.large_string())
    found = canonical_batch({"id": ids, "post_time": times}, SourceSpec(url="x", timezone=zone))
    return list(zip(found["post_time"].to_pylist(), found["error"].to_pylist(), strict=True))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("never", [LARGEST, -LARGEST - 1])
def test_largest_number_of_a_column_of_times_is_set_aside(unit: str, zone: str | None, never: int) -> None:
    times = pa.array([0, never, None], pa.int64()).cast(pa.timestamp(unit, zone))
    known, wrong, missing = batch(times, "Asia/Taipei")
    assert known == (dt.datetime(1970, 1, 1, 8 if zone else 0), None)
    assert wrong[0] is None
    assert wrong[1].startswith(f"post_time is not a time: {never} (timestamp[{unit}")
    assert missing == (None, None)


def test_first_and_last_second_of_the_calendar_are_times_and_their_neighbours_are_not() -> None:
    times = pa.array([253402300799, 253402300800, -62135596800, -62135596801], pa.int64()).cast(pa.timestamp("s"))
    found = [time for time, _ in batch(times)]
    assert found == [dt.datetime(9999, 12, 31, 23, 59, 59), None, dt.datetime(1, 1, 1), None]


def test_days_beyond_the_calendar_and_durations_are_set_aside() -> None:
    assert [e is None for _, e in batch(pa.array([2**31 - 1, 19_000], pa.int32()).cast(pa.date32()))] == [False, True]
    assert [e is None for _, e in batch(pa.array([5, None], pa.duration("us")))] == [False, True]


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ((2020, 1, 1), (2024, 1, 1), ""),
        ((1970, 8, 23), (2024, 1, 1), "1970-08-23"),
        ((2020, 1, 1), (2611, 1, 1), "2611-01-01"),
    ],
)
def test_span_that_is_not_likely_is_said(first: tuple[int, ...], last: tuple[int, ...], said: str) -> None:
    found = list(implausible((dt.datetime(*first), dt.datetime(*last))))  # type: ignore[arg-type]
    assert len(found) == bool(said)
    assert said in "".join(found)
