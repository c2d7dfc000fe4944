"""What the points of a member are, said a second time and as plainly as possible: lists, loops, and no cleverness.

It is written from the documented semantics and shares no line with the application. Nothing is kept up to date: every
question is answered from the whole history, days are found by looking at the clock of the zone minute by minute, and
totals are sums over all moves that there ever were. That makes it slow and hard to get wrong in the same way twice.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
QUARTER_HOUR = timedelta(minutes=15)
SOMEDAY = datetime(9999, 1, 1, tzinfo=timezone.utc)
"""When points activate that wait for an event or for a person."""


# Days of a zone


@lru_cache(maxsize=100_000)
def midnight(zone: str, day: date) -> datetime:
    """The first instant at which the wall shows `day` (or a later one: days have been skipped)."""
    instant = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - 16 * timedelta(hours=1)
    while instant.astimezone(ZoneInfo(zone)).date() < day:
        instant += QUARTER_HOUR
    return instant


@lru_cache(maxsize=100_000)
def local_day(zone: str, instant: datetime) -> date:
    """The day whose midnight was last; a clock set back across midnight does not bring the old day back."""
    day = instant.astimezone(ZoneInfo(zone)).date() - DAY
    while midnight(zone, day + DAY) <= instant:
        day += DAY
    return day


def months_later(day: date, months: int) -> date:
    """The same day of a later month, or the last one of that month if it has no such day."""
    year, month = day.year, day.month
    for _ in range(months):
        month += 1
        if month == 13:
            year, month = year + 1, 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def days_back(day: date, *, days: int = 0, months: int = 0) -> date:
    """`day` minus so many days and months, clamped like `months_later`."""
    year, month = day.year, day.month
    for _ in range(months):
        month -= 1
        if month == 0:
            year, month = year - 1, 12
    clamped = date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
    return clamped - days * DAY


@lru_cache(maxsize=100_000)
def first_of(unit: str, day: date) -> date:
    """The first day of the day, ISO week, month, quarter or year that `day` is in."""
    while not (
        unit == "day"
        or (unit == "week" and day.isoweekday() == 1)
        or (unit == "month" and day.day == 1)
        or (unit == "quarter" and day.day == 1 and day.month in (1, 4, 7, 10))
        or (unit == "year" and day.day == 1 and day.month == 1)
    ):
        day -= DAY
    return day


@lru_cache(maxsize=100_000)
def first_after(unit: str, day: date) -> date:
    """The first day of the next such period."""
    later = day + DAY
    while first_of(unit, later) == first_of(unit, day):
        later += DAY
    return later


def same_time(zone: str, instant: datetime, *, days: int = 0, months: int = 0) -> datetime:
    """The same time of the wall clock so much later; what a spring forward skips lies as far behind the gap.

    Of a time that the wall shows twice, it is the same one of both.
    """
    local = instant.astimezone(ZoneInfo(zone))
    day = months_later(local.date(), months) + days * DAY
    later = local.replace(year=day.year, month=day.month, day=day.day)
    shown = later.astimezone(timezone.utc).astimezone(ZoneInfo(zone))
    if shown.hour != later.hour or shown.minute != later.minute:
        later = later.replace(fold=0)
    return later.astimezone(timezone.utc)


# When points begin and end


def begins(zone: str, policy: dict, occurred_at: datetime) -> datetime:
    """When points that were earned at `occurred_at` can be spent."""
    if policy["type"] == "period":
        return max(occurred_at, midnight(zone, local_day(zone, occurred_at) + policy["days"] * DAY))
    if policy["type"] == "date":
        return max(occurred_at, midnight(zone, date.fromisoformat(policy["date"])))
    if policy["type"] in ("event", "manual"):
        return SOMEDAY
    return occurred_at


def ends(zone: str, policy: dict, base: datetime) -> datetime | None:
    """When points whose validity starts at `base` are gone; None: never, or not by an instant of their own."""
    days, months = policy.get("days") or 0, policy.get("months") or 0
    if policy["type"] == "rolling":
        unit = policy.get("round_up_to", "day")
        if unit is None:
            return same_time(zone, base, days=days, months=months)
        last = months_later(local_day(zone, base), months) + days * DAY
        return midnight(zone, first_after(unit, last))
    if policy["type"] == "dates":
        day = local_day(zone, base) + policy.get("at_least_days", 0) * DAY
        while not any(is_named(day, name) for name in policy["dates"]):
            day += DAY
        return midnight(zone, day + DAY)
    return None


def is_named(day: date, name: str) -> bool:
    """Whether `day` is the day of the year that `name` ("03-31") says; 02-29 is the last of every February."""
    month, number = int(name[:2]), int(name[3:])
    return day.month == month and day.day == min(number, calendar.monthrange(day.year, month)[1])


# One wallet


@dataclass
class Heap:
    """Points that begin and end together; `begins` is None once they can be spent."""

    points: int
    begins: datetime | None
    ends: datetime | None


@dataclass
class Hold:
    """Points set aside until `until`."""

    number: int
    until: datetime
    grace_days: int
    parts: list[Heap]


class TooFew(Exception):
    """More was asked for than there is; `missing` says how much more."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class NoSuchHold(Exception):
    """It never was, or it has ended."""


@dataclass
class Purse:
    """One wallet of one member. `moves` are all there ever were: (from, to, points)."""

    heaps: list[Heap] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    moves: list[tuple[str, str, int]] = field(default_factory=list)
    lapses_at: datetime | None = None
    debt: int = 0

    def available(self) -> int:
        """What could be spent now, less what is owed."""
        return sum(heap.points for heap in self.heaps if heap.begins is None) - self.debt

    def pending(self) -> int:
        """What waits."""
        return sum(heap.points for heap in self.heaps if heap.begins is not None)

    def held(self) -> int:
        """What is set aside."""
        return sum(part.points for hold in self.holds for part in hold.parts)

    def moved(self, source: str | None, target: str | None) -> int:
        """How many points ever went from `source` to `target` (None: any)."""
        return sum(n for a, b, n in self.moves if source in (None, a) and target in (None, b))

    def by_end(self) -> dict[datetime | None, int]:
        """What can be spent, by when it ends."""
        found: dict[datetime | None, int] = {}
        for heap in self.heaps:
            if heap.begins is None:
                found[heap.ends] = found.get(heap.ends, 0) + heap.points
        return found

    def waiting(self) -> dict[tuple[datetime, datetime | None], int]:
        """What waits, by when it begins and ends."""
        found: dict[tuple[datetime, datetime | None], int] = {}
        for heap in self.heaps:
            if heap.begins is not None:
                key = (heap.begins, heap.ends)
                found[key] = found.get(key, 0) + heap.points
        return found

    def put(self, source: str, points: int, *, begins: datetime | None = None, ends: datetime | None = None) -> None:
        """Points come in. What can be spent at once pays what is owed first."""
        if points <= 0:
            return
        target = "available" if begins is None else "pending"
        if source != target:
            self.moves.append((source, target, points))
        if begins is None:
            paid = min(points, self.debt)
            self.debt -= paid
            points -= paid
        for heap in self.heaps:
            if (heap.begins, heap.ends) == (begins, ends):
                heap.points += points
                return
        if points:
            self.heaps.append(Heap(points, begins, ends))

    def take(self, points: int, target: str, *, owe: bool = False) -> list[Heap]:
        """Points go out, those that end first before the others. Returns what they were."""
        usable = [heap for heap in self.heaps if heap.begins is None]
        have = self.available()
        if points > have and not owe:
            raise TooFew(points - have)
        taken = []
        for heap in sorted(usable, key=lambda heap: heap.ends or SOMEDAY):
            part = min(points, heap.points)
            if part:
                taken.append(Heap(part, None, heap.ends))
            heap.points -= part
            points -= part
        if points:
            self.debt += points
            taken.append(Heap(points, None, None))
        self.heaps = [heap for heap in self.heaps if heap.points]
        self.moves += [("available", target, part.points) for part in taken]
        return taken

    def first(self, points: int) -> list[Heap]:
        """What a debit of so many points would take."""
        found = []
        for heap in sorted(self.heaps, key=lambda heap: heap.ends or SOMEDAY):
            part = min(points, heap.points) if heap.begins is None else 0
            if part:
                found.append(Heap(part, None, heap.ends))
            points -= part
        return found

    def hold(self, number: int, points: int, until: datetime, grace_days: int) -> None:
        """Set points aside until `until`."""
        self.holds.append(Hold(number, until, grace_days, self.take(points, "held")))

    def open_hold(self, number: int) -> Hold:
        """The hold of this number, if it is still open."""
        for hold in self.holds:
            if hold.number == number:
                return hold
        raise NoSuchHold

    def capture(self, number: int, points: int | None, now: datetime) -> list[Heap]:
        """Spend `points` of a hold (None: all), those that end first; the rest comes back. Returns what was spent."""
        hold = self.open_hold(number)
        wanted = sum(part.points for part in hold.parts) if points is None else points
        if wanted > sum(part.points for part in hold.parts):
            raise TooFew(wanted - sum(part.points for part in hold.parts))
        spent = []
        for part in hold.parts:
            taken = min(wanted, part.points)
            if taken:
                spent.append(Heap(taken, None, part.ends))
                self.moves.append(("held", "spent", taken))
            part.points -= taken
            wanted -= taken
        self.release(number, now)
        return spent

    def release(self, number: int, now: datetime) -> None:
        """Points of a hold come back as they were; those that ended meanwhile get the days of grace, or are gone."""
        hold = self.open_hold(number)
        self.holds.remove(hold)
        self.come_back("held", [part for part in hold.parts if part.points], now, hold.grace_days)

    def come_back(self, source: str, parts: list[Heap], now: datetime, grace_days: int) -> None:
        """Points return from `source` with the end that they had."""
        for part in parts:
            if part.ends is None or part.ends > now:
                self.put(source, part.points, ends=part.ends)
            elif grace_days:
                self.put(source, part.points, ends=max(part.ends, now + grace_days * DAY))
            elif source == "held":
                self.moves.append(("held", "expired", part.points))
            else:
                self.moves += [(source, "available", part.points), ("available", "expired", part.points)]

    def begin(self, points: int, begins: datetime, ends: datetime | None, *, new_end: datetime | None) -> None:
        """Points that wait can be spent from now on, until `new_end`."""
        for heap in self.heaps:
            if (heap.begins, heap.ends) == (begins, ends):
                heap.points -= points
        self.heaps = [heap for heap in self.heaps if heap.points]
        self.put("pending", points, ends=new_end if new_end is not None else ends)

    def take_back(
        self, points: int, begins: datetime | None, ends: datetime | None, policy: str, now: datetime
    ) -> tuple[int, int]:
        """Reverse points that came to begin and end then; how many are missing, and how many are gone with time.

        First those that wait, then those that end at the same time, then any; then `policy` decides.
        """
        if ends is not None and ends <= now:
            return 0, points
        rest = points
        for heap in self.heaps:
            if heap.begins is not None and (heap.begins, heap.ends) == (begins, ends):
                rest -= self.reverse_from(heap, rest)
        if policy != "pending_only":
            for heap in self.heaps:
                if heap.begins is None and heap.ends == ends:
                    rest -= self.reverse_from(heap, rest)
            for heap in sorted(self.heaps, key=lambda heap: heap.ends or SOMEDAY):
                if heap.begins is None:
                    rest -= self.reverse_from(heap, rest)
        self.heaps = [heap for heap in self.heaps if heap.points]
        if policy == "negative" and rest:
            self.debt += rest
            self.moves.append(("available", "reversed", rest))
            rest = 0
        return rest, 0

    def reverse_from(self, heap: Heap, points: int) -> int:
        """As many of the points as the heap has."""
        part = min(points, heap.points)
        heap.points -= part
        if part:
            self.moves.append(("available" if heap.begins is None else "pending", "reversed", part))
        return part

    def instants(self) -> list[datetime]:
        """When time alone does something to it."""
        found = [heap.begins or heap.ends for heap in self.heaps] + [self.lapses_at]
        return [hold.until for hold in self.holds] + [when for when in found if when not in (None, SOMEDAY)]

    def pass_time(self, now: datetime) -> None:
        """Whatever time alone does until `now`, one thing after the other, the earliest first."""
        while True:
            coming: list[tuple[datetime, int, int]] = []
            for place, heap in enumerate(self.heaps):
                if heap.begins is not None:
                    coming.append((heap.begins, 0, place))
                elif heap.ends is not None:
                    coming.append((heap.ends, 1, place))
            if self.lapses_at is not None:
                coming.append((self.lapses_at, 2, 0))
            coming += [(hold.until, 3, place) for place, hold in enumerate(self.holds)]
            coming = [what for what in coming if what[0] <= now]
            if not coming:
                return
            instant, what, place = min(coming)
            if what == 0:
                heap = self.heaps.pop(place)
                self.put("pending", heap.points, ends=heap.ends)
            elif what == 1:
                heap = self.heaps.pop(place)
                self.moves.append(("available", "expired", heap.points))
            elif what == 2:
                gone = [heap for heap in self.heaps if heap.begins is None]
                self.moves += [("available", "expired", heap.points) for heap in gone]
                self.heaps = [heap for heap in self.heaps if heap.begins is not None]
                self.lapses_at = None
            else:
                self.release(self.holds[place].number, instant)
