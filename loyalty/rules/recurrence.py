"""Recurrences by day: the RRULE of RFC 5545 as a question, "is this day one of them?".

Every part of a rule is a filter over the days of one period (day, week, month or year), so a question costs at most a
look at one year of days, whatever the rule says. A rule that can never come true is simply false. COUNT alone needs the
days before; they are counted once a year.
"""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

from loyalty.infra.suggestions import suggestion
from loyalty.programs.calendar import shift

LAST_YEAR: Final = 9998
LONGEST_RULE: Final = 500

_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_FREQUENCIES: Final = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_LOOK_AHEAD_YEARS: Final = 10
_BY_DAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,5}", re.ASCII)
_UNTIL = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The parts of a rule. `by_day` holds (ordinal, weekday): (0, 4) is every Friday, (-1, 4) the last one."""

    frequency: Literal["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]
    start: date
    interval: int = 1
    count: int | None = None
    until: date | None = None
    week_start: int = 0
    by_day: tuple[tuple[int, int], ...] = ()
    by_month: tuple[int, ...] = ()
    by_month_day: tuple[int, ...] = ()
    by_year_day: tuple[int, ...] = ()
    by_week: tuple[int, ...] = ()
    by_position: tuple[int, ...] = ()

    def includes(self, day: date) -> bool:
        """Whether the day is one of the recurrence."""
        if day < self.start or (self.until is not None and day > self.until) or not self._candidate(day):
            return False
        if self.count is None:
            return True
        this_year = _days(max(self.start, date(day.year, 1, 1)), day)
        return _counted(self, day.year - 1) + sum(map(self._candidate, this_year)) <= self.count

    def ever(self) -> bool:
        """Whether it names a day in the ten years from its start."""
        horizon = date(min(self.start.year + _LOOK_AHEAD_YEARS, LAST_YEAR), 12, 31)
        last = horizon if self.until is None else min(horizon, self.until)
        return any(self._candidate(day) for day in _days(self.start, last))

    def _candidate(self, day: date) -> bool:
        """Whether the rule names the day, COUNT and UNTIL aside."""
        if (self.interval > 1 and self._periods_since_start(day) % self.interval) or not self._named(day):
            return False
        return not self.by_position or day in _chosen(self, *self._period(day))

    def _named(self, day: date) -> bool:
        """Whether every BY part lets the day through; the start stands in where the rule leaves a part out."""
        if self.by_month and day.month not in self.by_month:
            return False
        if self.by_month_day:
            from_end = day.day - monthrange(day.year, day.month)[1] - 1
            if day.day not in self.by_month_day and from_end not in self.by_month_day:
                return False
        if self.by_year_day:
            number = day.timetuple().tm_yday
            from_end = number - (366 if isleap(day.year) else 365) - 1
            if number not in self.by_year_day and from_end not in self.by_year_day:
                return False
        if self.by_week and not self._in_week(day):
            return False
        if self.by_day:
            return any(weekday == day.weekday() and self._nth(day, nth) for nth, weekday in self.by_day)
        return self._like_the_start(day)

    def _like_the_start(self, day: date) -> bool:
        if self.frequency == "DAILY" or self.by_month_day or self.by_year_day:
            return True
        if self.frequency == "WEEKLY" or self.by_week:
            return day.weekday() == self.start.weekday()
        same_month = self.frequency == "MONTHLY" or bool(self.by_month) or day.month == self.start.month
        return same_month and day.day == self.start.day

    def _nth(self, day: date, nth: int) -> bool:
        if nth == 0:
            return True
        if self.frequency == "MONTHLY" or self.by_month:
            first, last = day.replace(day=1), shift(day.replace(day=1), months=1) - _DAY
        else:
            first, last = date(day.year, 1, 1), date(day.year, 12, 31)
        place = (day - first).days // 7 + 1 if nth > 0 else -((last - day).days // 7 + 1)
        return place == nth

    def _in_week(self, day: date) -> bool:
        """Whether the week of the day, numbered as in ISO 8601 but from `week_start`, is one of BYWEEKNO."""
        monday = day - timedelta(days=(day.weekday() - self.week_start) % 7)
        year = (monday + timedelta(days=3)).year
        number = (monday - self._first_week(year)).days // 7 + 1
        weeks = (self._first_week(year + 1) - self._first_week(year)).days // 7
        return number in self.by_week or number - weeks - 1 in self.by_week

    def _first_week(self, year: int) -> date:
        fourth = date(year, 1, 4)
        return fourth - timedelta(days=(fourth.weekday() - self.week_start) % 7)

    def _periods_since_start(self, day: date) -> int:
        if self.frequency == "DAILY":
            return (day - self.start).days
        if self.frequency == "WEEKLY":
            return (self._period(day)[0] - self._period(self.start)[0]).days // 7
        if self.frequency == "MONTHLY":
            return (day.year - self.start.year) * 12 + day.month - self.start.month
        return day.year - self.start.year

    def _period(self, day: date) -> tuple[date, date]:
        if self.frequency == "DAILY":
            return day, day
        if self.frequency == "WEEKLY":
            first = day - timedelta(days=(day.weekday() - self.week_start) % 7)
            return first, first + timedelta(days=6)
        if self.frequency == "MONTHLY":
            first = day.replace(day=1)
            return first, shift(first, months=1) - _DAY
        return date(day.year, 1, 1), date(day.year, 12, 31)


@lru_cache(maxsize=4096)
def _counted(recurrence: Recurrence, year: int) -> int:
    """How many days of the recurrence there are up to the end of the year, at most its count."""
    count = recurrence.count or 0
    total = 0
    for each in _days(recurrence.start, date(year, 12, 31)):
        total += recurrence._candidate(each)
        if total >= count:
            break
    return total


@lru_cache(maxsize=4096)
def _chosen(recurrence: Recurrence, first: date, last: date) -> frozenset[date]:
    """The days of the period that BYSETPOS picks among those that the other parts name."""
    named = [day for day in _days(first, last) if recurrence._named(day)]
    places = (place - 1 if place > 0 else place for place in recurrence.by_position)
    return frozenset(named[place] for place in places if -len(named) <= place < len(named))


def _days(first: date, last: date) -> list[date]:
    return [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]


def parse_recurrence(rule: str, start: date) -> Recurrence:
    """The recurrence that the text of an RRULE describes from `start` on. ValueError names the part that is wrong."""
    if len(rule) > LONGEST_RULE:
        raise ValueError(f"A recurrence has at most {LONGEST_RULE} characters.")
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, equals, value = part.partition("=")
        if not equals or name in parts or name not in _READERS:
            close = "" if name in _READERS else suggestion(name, _READERS)
            raise ValueError(
                f"{part!r} is no part of a recurrence. Write each of {', '.join(_READERS)} at most once.{close}"
            )
        parts[name] = value
    if "FREQ" not in parts:
        raise ValueError(f"Give FREQ={'|'.join(_FREQUENCIES)}.")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("Give COUNT or UNTIL, not both.")
    fields: dict[str, Any] = {}
    for name, value in parts.items():
        field, read = _READERS[name]
        try:
            fields[field] = read(value)
        except ValueError as error:
            raise ValueError(f"{name}={value} is wrong: {error}.") from None
    recurrence = Recurrence(start=start, **fields)
    _require_sense(recurrence)
    return recurrence


def _require_sense(recurrence: Recurrence) -> None:
    """What RFC 5545 forbids to combine: ValueError."""
    frequency = recurrence.frequency
    numbered = any(nth for nth, _ in recurrence.by_day)
    if recurrence.by_week and frequency != "YEARLY":
        raise ValueError("BYWEEKNO goes with FREQ=YEARLY only.")
    if recurrence.by_year_day and frequency != "YEARLY":
        raise ValueError("BYYEARDAY goes with FREQ=YEARLY only.")
    if recurrence.by_month_day and frequency == "WEEKLY":
        raise ValueError("BYMONTHDAY does not go with FREQ=WEEKLY.")
    if numbered and (frequency not in ("MONTHLY", "YEARLY") or recurrence.by_week):
        raise ValueError("Numbered days such as 1MO go with FREQ=MONTHLY or YEARLY, and not with BYWEEKNO.")


def _frequency(text: str) -> str:
    if text not in _FREQUENCIES:
        raise ValueError(f"it is one of {', '.join(_FREQUENCIES)}")
    return text


def _natural(text: str) -> int:
    numbers = _numbers(1, 1000, negative=False)(text)
    if len(numbers) != 1:
        raise ValueError("it is one number")
    return numbers[0]


def _until(text: str) -> date:
    found = _UNTIL.fullmatch(text)
    if not found:
        raise ValueError("the last day is written as 20261231")
    return date(int(found[1]), int(found[2]), int(found[3]))


def _weekday(text: str) -> int:
    if text not in _WEEKDAYS:
        raise ValueError(f"a day is one of {', '.join(_WEEKDAYS)}")
    return _WEEKDAYS.index(text)


def _by_day(text: str) -> tuple[tuple[int, int], ...]:
    found = []
    for item in text.split(","):
        match = _BY_DAY.fullmatch(item)
        nth = int(match[1] or 0) if match else 0
        if not match or abs(nth) > 53 or (match[1] and not nth):
            raise ValueError(f"{item!r} is none of {', '.join(_WEEKDAYS)}, nor one with a number such as 1MO or -1FR")
        found.append((nth, _WEEKDAYS.index(match[2])))
    return tuple(found)


def _numbers(least: int, most: int, *, negative: bool = True) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        found = []
        for item in text.split(","):
            number = int(item) if _NUMBER.fullmatch(item) else 0
            if not (least <= number <= most or (negative and least <= -number <= most)):
                raise ValueError(
                    f"{item!r} is not a number from {least} to {most}{' or its negative' if negative else ''}"
                )
            found.append(number)
        return tuple(found)

    return read


_READERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "FREQ": ("frequency", _frequency),
    "INTERVAL": ("interval", _natural),
    "COUNT": ("count", _natural),
    "UNTIL": ("until", _until),
    "WKST": ("week_start", _weekday),
    "BYDAY": ("by_day", _by_day),
    "BYMONTH": ("by_month", _numbers(1, 12, negative=False)),
    "BYMONTHDAY": ("by_month_day", _numbers(1, 31)),
    "BYYEARDAY": ("by_year_day", _numbers(1, 366)),
    "BYWEEKNO": ("by_week", _numbers(1, 53)),
    "BYSETPOS": ("by_position", _numbers(1, 366)),
}
