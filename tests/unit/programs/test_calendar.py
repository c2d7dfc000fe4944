"""Where days begin, in zones whose clocks do everything that clocks have done."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.programs.calendar import Calendar, Period, Unit, first_day, next_first_day, shift

UTC = timezone.utc
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",  # until 2019 clocks went forward at midnight
    "America/Havana",  # and back to midnight
    "America/St_Johns",  # and back across midnight, at 00:01
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # without 30 December 2011
    "Asia/Kathmandu",  # 5:45 ahead
    "America/Toronto",  # in 1919 from 23:30 to 00:30
)
UNITS: tuple[Unit, ...] = ("day", "week", "month", "quarter", "year")

zones = st.sampled_from(ZONES).map(Calendar.of)
instants = st.datetimes(datetime(1915, 1, 1), datetime(2060, 1, 1)).map(
    lambda naive: naive.replace(microsecond=naive.microsecond // 1000 * 1000, tzinfo=UTC)
)
days = st.dates(date(1915, 1, 1), date(2060, 1, 1))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(zones, instants)
def test_every_instant_belongs_to_one_day(calendar: Calendar, instant: datetime) -> None:
    day = calendar.day(instant)
    assert calendar.midnight(day) <= instant < calendar.midnight(day + timedelta(days=1))


@given(zones, days)
def test_a_day_begins_at_the_first_instant_that_clocks_show_it(calendar: Calendar, day: date) -> None:
    start = calendar.midnight(day)
    shown = datetime.combine(day, datetime.min.time())
    assert calendar.local(start).replace(tzinfo=None) >= shown
    assert calendar.local(start - timedelta(seconds=1)).replace(tzinfo=None) < shown
    assert calendar.midnight(day + timedelta(days=1)) >= start


@given(zones, instants, st.sampled_from(UNITS))
def test_periods_hold_their_instant_and_follow_each_other(calendar: Calendar, instant: datetime, unit: Unit) -> None:
    period = calendar.period(unit, instant)
    assert period.start <= instant < period.end == calendar.end_of(unit, instant)
    assert calendar.period(unit, period.start) == period
    assert calendar.period(unit, period.end).start == period.end


@given(zones, instants, st.integers(-400, 400), st.integers(-60, 60))
def test_clocks_show_the_same_time_or_skip_it(calendar: Calendar, instant: datetime, days: int, months: int) -> None:
    shown = calendar.local(instant)
    moved = calendar.local(calendar.add(instant, days=days, months=months))
    wanted = datetime.combine(shift(shown.date(), days=days, months=months), shown.time())
    naive = moved.replace(tzinfo=None)
    assert naive >= wanted
    if naive != wanted:  # there is no instant at which clocks show it
        for fold in (0, 1):
            there = wanted.replace(tzinfo=ZoneInfo(calendar.name), fold=fold)
            assert calendar.local(there.astimezone(UTC)).replace(tzinfo=None) != wanted


@given(zones, instants)
def test_no_time_away_is_here(calendar: Calendar, instant: datetime) -> None:
    assert calendar.add(instant) == instant


@given(days, st.integers(-60, 60))
def test_a_month_never_overflows_into_the_next(day: date, months: int) -> None:
    """Case 3.17."""
    there = shift(day, months=months)
    assert (there.year * 12 + there.month) - (day.year * 12 + day.month) == months
    assert there.day == day.day or (there.day < day.day and (there + timedelta(days=1)).day == 1)


@pytest.mark.parametrize(
    ("start", "away", "end"),
    [
        ("2025-01-31", {"months": 1}, "2025-02-28"),
        ("2024-01-31", {"months": 1}, "2024-02-29"),
        ("2024-01-30", {"days": 30}, "2024-02-29"),
        ("2024-02-29", {"months": 12}, "2025-02-28"),
        ("2024-02-29", {"months": 48}, "2028-02-29"),
        ("2025-12-31", {"months": 2, "days": 1}, "2026-03-01"),
        ("2025-03-31", {"months": -1}, "2025-02-28"),
    ],
)
def test_month_arithmetic_clamps(start: str, away: dict[str, int], end: str) -> None:
    """Case 3.17: a month from 31 January is the end of February, and a year from a leap day the 28th."""
    assert shift(date.fromisoformat(start), **away) == date.fromisoformat(end)


@pytest.mark.parametrize(
    ("zone", "day", "first"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-03-28 23:00"),
        ("Europe/Berlin", "2026-03-30", "2026-03-29 22:00"),
        ("Europe/Berlin", "2026-10-26", "2026-10-25 23:00"),
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04 03:00"),  # clocks went from 00:00 to 01:00
        ("America/Havana", "2025-11-02", "2025-11-02 04:00"),  # 00:00 came twice: the first
        ("America/St_Johns", "2006-10-29", "2006-10-29 02:30"),  # at 00:01 it was 23:01 again
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04 13:00"),
        ("Australia/Lord_Howe", "2026-04-06", "2026-04-05 13:30"),
        ("Pacific/Apia", "2011-12-29", "2011-12-29 10:00"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30 10:00"),  # it never was: it ends where it begins
        ("Pacific/Apia", "2011-12-31", "2011-12-30 10:00"),
        ("America/Toronto", "1919-03-31", "1919-03-31 04:30"),  # clocks went from 23:30 to 00:30
    ],
)
def test_midnight_where_clocks_change(zone: str, day: str, first: str) -> None:
    """Case 3.15."""
    assert Calendar.of(zone).midnight(date.fromisoformat(day)) == utc(first)


def test_a_day_that_has_begun_does_not_end_again() -> None:
    """Case 3.15: at 00:01 clocks were set back to 23:01 of the day before, but points of that day stay expired."""
    calendar = Calendar.of("America/St_Johns")
    repeated = utc("2006-10-29 02:45")
    assert calendar.local(repeated).day == 28
    assert calendar.day(repeated) == date(2006, 10, 29)


def test_days_are_as_long_as_they_are() -> None:
    """Case 3.15: 23 and 25 hours in Berlin, half an hour more or less on Lord Howe Island, none in Samoa."""

    def hours(zone: str, text: str) -> float:
        day, calendar = date.fromisoformat(text), Calendar.of(zone)
        return (calendar.midnight(day + timedelta(days=1)) - calendar.midnight(day)).total_seconds() / 3600

    assert [hours("Europe/Berlin", day) for day in ("2026-03-29", "2026-10-25", "2026-06-01")] == [23, 25, 24]
    assert [hours("Australia/Lord_Howe", day) for day in ("2026-04-05", "2026-10-04")] == [24.5, 23.5]
    assert [hours("Pacific/Apia", day) for day in ("2011-12-29", "2011-12-30", "2011-12-31")] == [24, 0, 24]


def test_weeks_begin_on_monday_and_quarters_with_their_first_month() -> None:
    """Case 3.15: the windows of caps and tiers are ISO weeks, months, quarters and years of the program's zone."""
    calendar = Calendar.of("Europe/Berlin")
    sunday = utc("2026-03-29 21:59:59")
    assert calendar.period("week", sunday) == Period(utc("2026-03-22 23:00"), utc("2026-03-29 22:00"))
    assert calendar.period("quarter", sunday) == Period(utc("2025-12-31 23:00"), utc("2026-03-31 22:00"))
    assert calendar.period("year", utc("2025-12-31 23:00")).start == utc("2025-12-31 23:00")
    assert first_day("week", date(2027, 1, 1)) == date(2026, 12, 28)
    assert next_first_day("quarter", date(2026, 10, 1)) == date(2027, 1, 1)


def test_the_last_millisecond_belongs_to_the_day_and_midnight_does_not() -> None:
    """Case 3.16: a day ends, half-open, where the next one begins."""
    calendar = Calendar.of("Europe/Berlin")
    end = calendar.end_of("day", utc("2026-07-01 12:00"))
    assert end == utc("2026-07-01 22:00")
    assert calendar.day(end - timedelta(milliseconds=1)) == date(2026, 7, 1)
    assert calendar.day(end) == date(2026, 7, 2)


def test_a_time_that_clocks_skip_comes_later_and_one_that_they_repeat_stays_itself() -> None:
    """Case 3.15."""
    calendar = Calendar.of("Europe/Berlin")
    assert calendar.add(utc("2026-03-28 01:30"), days=1) == utc("2026-03-29 01:30")  # 02:30 is skipped: it is 03:30
    assert calendar.add(utc("2026-10-24 00:30"), days=1) == utc("2026-10-25 00:30")  # 02:30 for the first time
    second = utc("2026-10-25 01:30")  # 02:30 for the second time
    assert calendar.add(second, days=0) == second


def test_a_zone_has_one_calendar_and_another_text_none() -> None:
    assert Calendar.of("Europe/Berlin") is Calendar.of("Europe/Berlin")
    with pytest.raises(ZoneInfoNotFoundError):
        Calendar.of("Europe/Nowhere")
