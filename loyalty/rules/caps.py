"""Counters and caps: how much there was of something in a period, kept in the member's state so that caps cannot race.

The facet `counters` of a state is `{key: {first day of the period: value}}`. A key ends in its period
(`spend:month`, `rule:base:day`), and a counter that never starts again has the one period `ever`. Only the latest
periods are kept: the state stays small, and an event so late that its period is forgotten cannot be counted any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from datetime import date
from functools import lru_cache
from typing import Any, Final, cast

from loyalty.programs.calendar import Unit, first_day

FACET: Final = "counters"
EVER: Final = "ever"
KEPT: Final = 3
"""How many periods of a counter are kept: this one, and two that late events may still belong to."""

Facet = Mapping[str, Mapping[str, int]]


@lru_cache(maxsize=20_000)
def period_of(key: str, day: date) -> str:
    """The name of the counter's period that a day of the program's zone belongs to: its first day, or `ever`."""
    unit = key.rpartition(":")[2]
    return EVER if unit == EVER else first_day(cast(Unit, unit), day).isoformat()


def value_at(facet: Facet, key: str, period: str) -> int | None:
    """What was counted in the period before; None when it is forgotten."""
    periods = facet.get(key)
    if periods is None:
        return 0
    value = periods.get(period)
    if value is not None:
        return value
    return 0 if len(periods) < KEPT or period > min(periods) else None


class Tally:
    """The counters of one member while one event is decided: what was there, and what the event adds.

    `day` is the day of the event in the program's zone.
    """

    __slots__ = ("_added", "_day", "_facet", "_values")

    def __init__(self, facet: Facet, day: date) -> None:
        self._facet = facet
        self._day = day
        self._added: dict[str, int] = {}
        self._values: dict[str, int | None] = {}

    def value(self, key: str) -> int | None:
        """What is counted by now, this event included; None when the period is forgotten."""
        if key in self._values:
            return self._values[key]
        value = self._values[key] = value_at(self._facet, key, period_of(key, self._day))
        return value

    def add(self, key: str, amount: int) -> None:
        """Count so much more. Nothing is added to a period that is forgotten."""
        if amount and (value := self.value(key)) is not None:
            self._values[key] = value + amount
            self._added[key] = self._added.get(key, 0) + amount

    def facet(self, wanted: Set[str]) -> dict[str, Any] | None:
        """The facet afterwards, or None when nothing was counted.

        A counter that is not `wanted` any more is dropped, unless it counts for ever: a bonus that is given once must
        not be given again when its rule comes back.
        """
        if not self._added:
            return None
        after: dict[str, Any] = dict(self._facet)
        if not after.keys() <= wanted:
            after = {key: periods for key, periods in after.items() if key in wanted or key.endswith(":" + EVER)}
        for key, amount in self._added.items():
            period = period_of(key, self._day)
            periods = dict(after.get(key, ()))
            periods[period] = periods.get(period, 0) + amount
            if len(periods) > KEPT:
                del periods[min(periods)]
            after[key] = periods
        return after


def reader(facet: Facet, day: date) -> Callable[[str], int | None]:
    """What conditions read as `counters.<name>`, such as `purchases.month`: the value before an event of that day."""

    def read(name: str) -> int | None:
        key = counter_key(name)
        return value_at(facet, key, period_of(key, day))

    return read


@lru_cache(maxsize=1000)
def counter_key(name: str) -> str:
    """The key of the counter that conditions call `purchases.month`: dots are no good in names of the database."""
    return name.replace(".", ":")
