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
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%d %H:%M%#z",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
)
COMPACT = r"^[12]\d{3}[01]\d[0-3]\d(?:T|\d{4}$|\d{6}$|$)"
COMPACT_FORMATS = {
    r"^[12]\d{3}[01]\d[0-3]\d$": "%Y%m%d",
    r"^[12]\d{3}[01]\d[0-3]\d[0-2]\d[0-5]\d$": "%Y%m%d%H%M",
    r"^[12]\d{3}[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d$": "%Y%m%d%H%M%S",
    r"^[12]\d{3}[01]\d[0-3]\dT[0-2]\d[0-5]\d[0-5]\d$": "%Y%m%dT%H%M%S",
    r"^[12]\d{3}[01]\d[0-3]\dT[0-2]\d[0-5]\d[0-5]\d(Z|[+-]\d\d:?\d\d)$": "%Y%m%dT%H%M%S%#z",
}
"""ISO 8601 without signs. A number of 8, 12 or 14 digits that reads as one is one: no post is of 1970 or 2600."""
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
EPOCH_DIGITS = (("epoch_s", (9, 10, 11)), ("epoch_ms", (12, 13)), ("epoch_us", (15, 16)))
NUMBER = r"^-?\d{9,16}(\.\d+)?$"
CHINESE = (
    r"^\s*(?P<era>中華民國|民國|民国)?\s*(?P<year>\d{1,4})\s*(?P<sign>[-/.年])\s*(?P<month>\d{1,2})\s*[-/.月]"
    r"\s*(?P<day>\d{1,2})\s*日?(?:\s*T?\s*(?:星期.|週.|\(.\))?\s*(?P<half>上午|下午|AM|PM|am|pm|早上|晚上|中午|凌晨)?"
    r"\s*(?P<hour>\d{1,2})\s*[:點时時](?P<minute>\d{1,2})分?(?:[:分]?(?P<second>\d{1,2})(?P<fraction>\.\d+)?秒?)?"
    r"\s*(?P<after>AM|PM|am|pm)?)?\s*$"
)
"""Dates as people in Taiwan write them: years of the Republic, and hours of half a day."""
REPUBLIC = 1911
EARLIEST, LATEST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)
"""What every place that times go to can hold."""
HINT = "name another column with --role post_time=COLUMN, or give --option time_format=FORMAT"
FIRST_PLAUSIBLE = 1990
PLAUSIBLE_YEARS = 60


def check_timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"no timezone is called {name!r}; names look like Asia/Taipei or UTC") from None


def parse_times(texts: pl.Series, time_format: str = "auto", timezone: str = "UTC") -> pl.Series:
    """Naive timestamps in microseconds, as clocks in `timezone` show them; null where a text is not a time.

    `auto` reads ISO 8601, year/month/day, years of the Republic of China, and numbers since 1970 (the number of digits
    tells the unit)."""
    parsed = pl.Series(texts.name, [None] * 0, dtype=NAIVE).extend_constant(None, len(texts))
    for attempt in _attempts(texts, time_format, timezone):
        parsed = attempt if parsed.null_count() == len(parsed) else parsed.fill_null(attempt)
        if parsed.null_count() == texts.null_count():
            break
    parsed = in_calendar(parsed)
    first = parsed.min()
    if time_format == "auto" and isinstance(first, dt.datetime) and first.year < 1000:
        parsed = _without_short_years(texts, parsed)
    if time_format == "auto" and parsed.null_count() > texts.null_count():
        at = (parsed.is_null() & texts.is_not_null()).arg_true()
        parsed = parsed.scatter(at, _chinese(texts.gather(at), timezone))
    return parsed


def check_are_times(texts: pl.Series, parsed: pl.Series, place: str) -> None:
    """Refuses a sample of a column that holds no times at all."""
    if len(texts) and parsed.null_count() == len(parsed):
        raise BadInput(f"{place} should hold times, but the first is {texts[0][:40]!r}: {HINT}")


def in_calendar(times: pl.Series) -> pl.Series:
    """The times of the years 1 to 9999; null for all others, which other calendars would take for another year."""
    epoch = times.to_physical()
    first, last = epoch.min(), epoch.max()
    earliest, latest = _microseconds(EARLIEST), _microseconds(LATEST)
    if not isinstance(first, int) or not isinstance(last, int) or (earliest <= first and last <= latest):
        return times
    return times.set(~epoch.is_between(earliest, latest).fill_null(False), None)


def _microseconds(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)


def implausible(span: tuple[dt.datetime | None, dt.datetime | None] | None) -> Iterator[str]:
    """What is odd about the first and the last time of a source."""
    first, last = span or (None, None)
    if first is None or last is None:
        return
    latest = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(days=366)
    advice = "are some of them dummies, or read in another form than they have? see --option time_format"
    if first.year < FIRST_PLAUSIBLE or last > latest:
        yield f"times go from {first.date()} to {last.date()}, which is not likely: {advice}"
    elif last.year - first.year > PLAUSIBLE_YEARS:
        yield f"times go from {first.date()} to {last.date()}, {last.year - first.year} years: {advice}"


def _attempts(texts: pl.Series, time_format: str, timezone: str) -> Iterator[pl.Series]:
    if time_format in EPOCH_UNITS:
        yield _from_epoch(texts, EPOCH_UNITS[time_format], timezone)
    elif time_format != "auto":
        yield _from_text(texts, time_format, timezone)
    else:
        for known in TEXT_FORMATS:
            yield _from_text(texts, known, timezone)
        for pattern, known in COMPACT_FORMATS.items() if texts.str.contains(COMPACT).any() else ():
            yield _from_text(texts.set(~texts.str.contains(pattern).fill_null(False), None), known, timezone)
        numbers = texts.set(~texts.str.contains(NUMBER).fill_null(False), None)
        digits = numbers.str.extract(r"^-?(\d+)").str.len_chars()
        for unit, lengths in EPOCH_DIGITS:
            of_unit = numbers.set(~digits.is_in(lengths).fill_null(False), None)
            yield _from_epoch(of_unit, EPOCH_UNITS[unit], timezone)


def _from_text(texts: pl.Series, time_format: str, timezone: str) -> pl.Series:
    try:
        return naive(texts.str.to_datetime(time_format, strict=False, time_unit="us"), timezone)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"time_format {time_format!r} cannot be used: {error}") from None


def _from_epoch(texts: pl.Series, to_us: int, timezone: str) -> pl.Series:
    us = texts.cast(pl.Float64, strict=False) * to_us
    us = us.set(~us.is_between(_microseconds(EARLIEST), _microseconds(LATEST)).fill_null(False), None)
    return naive(us.cast(pl.Int64, strict=False).cast(NAIVE).dt.replace_time_zone("UTC"), timezone)


def _without_short_years(texts: pl.Series, parsed: pl.Series) -> pl.Series:
    """Without those whose year is written with fewer than four digits: 113/5/1 is not of the year 113."""
    return parsed.set(~texts.str.contains(r"^\s*\d{4}").fill_null(True), None)


def _chinese(texts: pl.Series, timezone: str) -> pl.Series:
    """Times in the forms of `CHINESE`. A year of two digits says neither which era nor which century: null."""
    parts = texts.str.extract_groups(CHINESE).struct.unnest()
    number = {n: parts[n].cast(pl.Int64, strict=False) for n in ("year", "month", "day", "hour", "minute", "second")}
    republic = parts["era"].is_not_null() | (number["year"].is_between(100, 199) & (parts["year"].str.len_chars() == 3))
    known = republic | (parts["year"].str.len_chars() == 4)
    year = (number["year"] + republic.cast(pl.Int64) * REPUBLIC).set(~known.fill_null(False), None)
    half = parts["half"].fill_null(parts["after"]).str.to_lowercase()
    is_late = half.is_in(["下午", "pm", "晚上", "中午"])
    is_early = half.is_in(["上午", "am", "早上", "凌晨"])
    hour = number["hour"].fill_null(0)
    hour = hour.set(((hour > 12) & is_early).fill_null(False), None)
    hour = hour.set(((hour == 12) & is_early).fill_null(False), 0)
    hour = (hour + ((hour < 12) & is_late).fill_null(False).cast(pl.Int64) * 12) if len(hour) else hour
    next_day = (hour == 24) & (number["minute"].fill_null(0) == 0) & (number["second"].fill_null(0) == 0)
    hour = hour.set(next_day.fill_null(False), 0)
    shown = pl.select(
        pl.format(
            "{}-{}-{} {}:{}:{}", year, number["month"], number["day"], hour, number["minute"].fill_null(0),
            number["second"].fill_null(0),
        )
    ).to_series()  # fmt: skip
    times = _from_text(shown, "%Y-%m-%d %H:%M:%S", timezone)
    days = next_day.fill_null(False).cast(pl.Int64) * 86_400_000_000
    return in_calendar((times.cast(pl.Int64) + days).cast(NAIVE))


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
