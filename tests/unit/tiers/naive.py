"""What a tier is, recomputed from the list of facts by walking from day to day: slow, and with nothing to get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from loyalty.programs.calendar import Calendar, shift
from loyalty.tiers.engine import Scheme

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Fact:
    """`amount` of a local day, and when it was told."""

    told_at: datetime
    day: date
    amount: int


@dataclass
class Naive:
    """A member's tier after the facts so far, at the last instant that was walked to."""

    scheme: Scheme
    calendar: Calendar
    joined_on: date
    rank: int
    since: datetime
    facts: list[Fact] = field(default_factory=list)
    drop_at: datetime | None = None
    changes: list[tuple[datetime, int, int]] = field(default_factory=list)

    def walk(self, start: datetime, end: datetime, facts: Sequence[Fact]) -> None:
        """Every midnight after `start` up to `end`, and between them the facts when they are told."""
        instants: list[tuple[datetime, int, Fact | None]] = [(fact.told_at, 1, fact) for fact in facts]
        day = self.calendar.day(start) + DAY
        while self.calendar.midnight(day) <= end:
            instants.append((self.calendar.midnight(day), 0, None))
            day += DAY
        for instant, _, fact in sorted(instants, key=lambda item: item[:2]):
            if fact is None:
                self.midnight(instant)
            else:
                self.facts.append(fact)
                self.look(instant, review=False)

    def midnight(self, instant: datetime) -> None:
        today = self.calendar.day(instant)
        ends = self.scheme.window.type in ("calendar", "anniversary")
        self.look(instant, review=not ends or not self.together(today, today - DAY))

    def value(self, today: date) -> int:
        return sum(fact.amount for fact in self.facts if self.together(fact.day, today))

    def before(self, today: date) -> int:
        """The value of the window before today's, where windows follow each other."""
        if self.scheme.window.type not in ("calendar", "anniversary"):
            return 0
        day = today
        while self.together(day, today):
            day -= DAY
        return self.value(day)

    def together(self, day: date, today: date) -> bool:
        """Whether `day` is in the window of `today`."""
        window = self.scheme.window
        if window.type == "lifetime":
            return True
        if window.type == "rolling":
            first = today - window.days * DAY if window.days else shift(today, months=-(window.months or 0))
            return first < day <= today
        return self.name(day) == self.name(today)

    def name(self, day: date) -> object:
        """Names the window of the day."""
        window = self.scheme.window
        if window.type == "anniversary":
            number = 0
            while shift(self.joined_on, months=number * (window.months or 0)) > day:
                number -= 1
            while shift(self.joined_on, months=(number + 1) * (window.months or 0)) <= day:
                number += 1
            return number
        names = {
            "day": day,
            "week": day.isocalendar()[:2],
            "month": (day.year, day.month),
            "quarter": (day.year, (day.month - 1) // 3),
            "year": day.year,
        }
        return names[window.unit or "year"]

    def look(self, instant: datetime, *, review: bool) -> None:
        today = self.calendar.day(instant)
        best = self.best(self.value(today))
        if best > self.rank:
            self.move(instant, best)
        elif best == self.rank or self.scheme.downgrade.to == "none":
            self.drop_at = None
        elif review or self.drop_at is not None:
            best = max(best, self.best(self.before(today)))
            if best >= self.rank:
                self.drop_at = None
                return
            if self.drop_at is None:
                days = self.scheme.downgrade.grace_days
                self.drop_at = self.calendar.midnight(today + days * DAY) if days else instant
            if self.drop_at <= instant:
                self.move(instant, self.rank - 1 if self.scheme.downgrade.to == "one_level" else best)

    def best(self, value: int) -> int:
        return max(rank for rank, level in enumerate(self.scheme.levels) if level.threshold <= value or rank == 0)

    def move(self, instant: datetime, rank: int) -> None:
        self.changes.append((instant, self.rank, rank))
        self.rank, self.since, self.drop_at = rank, instant, None
