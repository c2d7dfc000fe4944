"""The calendar of a time zone: where days, weeks, months, quarters and years begin, and arithmetic over them.

Instants come in and go out aware and in UTC; days are dates of the zone. A day begins at its first instant, whatever
clock changes do to midnight, and ends where the next one begins: the days of a zone follow each other without gap or
overlap. A day that the zone left out is empty; when clocks are set back across midnight the new day does not end again.
"""

from __future__ import annotations

from calendar import isleap
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

Unit = Literal["day", "week", "month", "quarter", "year"]

_DAY: Final = timedelta(days=1)
_MONTHS: Final[dict[str, int]] = {"month": 1, "quarter": 3, "year": 12}
_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MOST_CACHED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` up to, but without, `end`."""

    start: datetime
    end: datetime


class Calendar:
    """The calendar of one IANA time zone. Values are shared between threads; `Calendar.of` makes each zone once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._zone = ZoneInfo(name)
        self._days: dict[datetime, date] = {}
        self._midnights: dict[date, datetime] = {}
        self._periods: dict[tuple[str, date], Period] = {}

    @staticmethod
    def of(name: str) -> Calendar:
        """The calendar of the zone, such as Europe/Berlin. ZoneInfoNotFoundError for any other text."""
        return _calendar(name)

    def local(self, instant: datetime) -> datetime:
        """What clocks in the zone show at the instant."""
        return instant.astimezone(self._zone)

    def day(self, instant: datetime) -> date:
        """The day of the zone that the instant belongs to: `midnight(day) <= instant < midnight(day + 1)`."""
        known = self._days.get(instant)
        if known is None:
            day = instant.astimezone(self._zone).date()
            following = day + _DAY
            known = following if instant >= self.midnight(following) else day
            if len(self._days) >= _MOST_CACHED:
                self._days.clear()
            self._days[instant] = known
        return known

    def midnight(self, day: date) -> datetime:
        """The first instant of the day. Of a day that the zone left out: of the first one that it did not."""
        known = self._midnights.get(day)
        if known is None:
            known = self._first_instant(datetime.combine(day, time()))
            if len(self._midnights) >= _MOST_CACHED:
                self._midnights.clear()
            self._midnights[day] = known
        return known

    def period(self, unit: Unit, instant: datetime) -> Period:
        """The day, ISO week, month, quarter or year of the zone that holds the instant."""
        first = first_day(unit, self.day(instant))
        known = self._periods.get((unit, first))
        if known is None:
            known = Period(self.midnight(first), self.midnight(next_first_day(unit, first)))
            if len(self._periods) >= _MOST_CACHED:
                self._periods.clear()
            self._periods[unit, first] = known
        return known

    def end_of(self, unit: Unit, instant: datetime) -> datetime:
        """Where the period that holds the instant ends: the first instant that no longer belongs to it."""
        return self.period(unit, instant).end

    def add(self, instant: datetime, *, days: int = 0, months: int = 0) -> datetime:
        """The instant at which clocks show the same time, so many months and then days away.

        31 January and a month is the last of February. A time that clocks skip on that day counts from before the
        change, so it comes out as much later as they skip; of a time that they show twice it is the same of both.
        """
        shown = self.local(instant)
        there = shift(shown.date(), days=days, months=months)
        moved = datetime.combine(there, shown.time(), tzinfo=self._zone).replace(fold=shown.fold)
        landed = moved.astimezone(timezone.utc)
        if landed.astimezone(self._zone).replace(tzinfo=None) != moved.replace(tzinfo=None):
            landed = moved.replace(fold=0).astimezone(timezone.utc)
        return landed

    def _first_instant(self, shown: datetime) -> datetime:
        """The first instant at which clocks show at least the naive `shown`."""
        landed = shown.replace(tzinfo=self._zone).astimezone(timezone.utc)
        if landed.astimezone(self._zone).replace(tzinfo=None) == shown:
            return landed
        # Clocks skip this time: the day begins where they jump, somewhere between its two readings.
        before = int(shown.replace(tzinfo=self._zone, fold=1).timestamp())
        after = int(landed.timestamp())
        while after - before > 1:
            middle = (before + after) // 2
            if datetime.fromtimestamp(middle, self._zone).replace(tzinfo=None) < shown:
                before = middle
            else:
                after = middle
        return datetime.fromtimestamp(after, timezone.utc)


@lru_cache(maxsize=_MOST_CACHED)
def shift(day: date, *, days: int = 0, months: int = 0) -> date:
    """The day so many months and then days away. A month that is too short gives its last day."""
    if months:
        count = day.year * 12 + day.month - 1 + months
        year, month = count // 12, count % 12 + 1
        last = 29 if month == 2 and isleap(year) else _LENGTHS[month - 1]
        day = date(year, month, min(day.day, last))
    return day + timedelta(days=days) if days else day


def first_day(unit: Unit, day: date) -> date:
    """The first day of the period that holds `day`; weeks begin on Monday."""
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=day.weekday())
    months = _MONTHS[unit]
    return date(day.year, (day.month - 1) // months * months + 1, 1)


def next_first_day(unit: Unit, first: date) -> date:
    """The first day of the period after the one that begins on `first`."""
    if unit == "day":
        return first + _DAY
    if unit == "week":
        return first + timedelta(days=7)
    return shift(first, months=_MONTHS[unit])


@lru_cache(maxsize=1000)
def _calendar(name: str) -> Calendar:
    return Calendar(name)
