"""Times as text or numbers -> naive timestamps in the source's timezone; what cannot be read becomes null."""

import datetime as dt
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from audience.errors import BadInput

NAIVE = pl.Datetime("us")
TEXT_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
)
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
NUMBER = r"^-?\d{6,17}(\.\d+)?$"


def check_timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"no timezone is called {name!r}; names look like Asia/Taipei or UTC") from None


def parse_times(texts: pl.Series, time_format: str = "auto", timezone: str = "UTC") -> pl.Series:
    """Naive timestamps in microseconds, as clocks in `timezone` show them; null where a text is not a time.

    `auto` reads ISO 8601, year/month/day, and numbers since 1970 (the number of digits tells the unit)."""
    parsed = pl.Series(texts.name, [None] * 0, dtype=NAIVE).extend_constant(None, len(texts))
    for attempt in _attempts(texts, time_format, timezone):
        parsed = attempt if parsed.null_count() == len(parsed) else parsed.fill_null(attempt)
        if parsed.null_count() == texts.null_count():
            break
    return parsed


def check_are_times(texts: pl.Series, parsed: pl.Series, place: str) -> None:
    """Refuses a sample of a column that holds no times at all."""
    if len(texts) and parsed.null_count() == len(parsed):
        raise BadInput(
            f"{place} should hold times, but the first is {texts[0][:40]!r}: "
            "name another column with --role post_time=COLUMN, or give --option time_format=FORMAT"
        )


def _attempts(texts: pl.Series, time_format: str, timezone: str) -> Iterator[pl.Series]:
    if time_format in EPOCH_UNITS:
        yield _from_epoch(texts, EPOCH_UNITS[time_format], timezone)
    elif time_format != "auto":
        yield _from_text(texts, time_format, timezone)
    else:
        for known in TEXT_FORMATS:
            yield _from_text(texts, known, timezone)
        numbers = texts.set(~texts.str.contains(NUMBER).fill_null(False), None)
        digits = numbers.str.extract(r"^-?(\d+)").str.len_chars()
        for unit, shortest, longest in (("epoch_s", 6, 11), ("epoch_ms", 12, 14), ("epoch_us", 15, 17)):
            of_unit = numbers.set(~digits.is_between(shortest, longest).fill_null(False), None)
            yield _from_epoch(of_unit, EPOCH_UNITS[unit], timezone)


def _from_text(texts: pl.Series, time_format: str, timezone: str) -> pl.Series:
    try:
        return naive(texts.str.to_datetime(time_format, strict=False, time_unit="us"), timezone)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"time_format {time_format!r} cannot be used: {error}") from None


def _from_epoch(texts: pl.Series, to_us: int, timezone: str) -> pl.Series:
    us = (texts.cast(pl.Float64, strict=False) * to_us).cast(pl.Int64, strict=False)
    return naive(us.cast(NAIVE).dt.replace_time_zone("UTC"), timezone)


def naive(times: pl.Series, timezone: str) -> pl.Series:
    """Clock times in `timezone`; times without an offset are taken to be in it already."""
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone:
        times = times.dt.convert_time_zone(timezone).dt.replace_time_zone(None)
    return times.cast(NAIVE)


def parse_bound(text: str | None, what: str) -> dt.datetime | None:
    """One end of a range as people type it: a date, or a date and a time. The end of a range is exclusive."""
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{what} {text!r} is not a date or time such as 2020-01-31 or 2020-01-31T18:00") from None
    if time.tzinfo is not None:
        raise BadInput(f"{what} {text!r} carries an offset: write the time as clocks in the source's timezone show it")
    return time
