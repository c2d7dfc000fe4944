"""When points become available, expire and lapse: what the policies of a wallet make of an instant. Pure functions."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

from loyalty.ledger.state import SOMEDAY
from loyalty.programs.calendar import Calendar, first_day, next_first_day, shift
from loyalty.programs.policies import (
    DatePending,
    DatesExpiry,
    EventPending,
    ExpiryPolicy,
    InactivityExpiry,
    ManualPending,
    PendingPolicy,
    PeriodPending,
    RollingExpiry,
)

_DAY: Final = timedelta(days=1)


def activates_at(policy: PendingPolicy, occurred_at: datetime, calendar: Calendar) -> datetime | None:
    """When points of an event become available; None if at once, SOMEDAY if an event or a person decides.

    It may have passed already where the event is told late.
    """
    if isinstance(policy, PeriodPending):
        return calendar.midnight(calendar.day(occurred_at) + timedelta(days=policy.days))
    if isinstance(policy, DatePending):
        start = calendar.midnight(date.fromisoformat(policy.date))
        return start if occurred_at < start else None
    if isinstance(policy, EventPending | ManualPending):
        return SOMEDAY
    return None


def expires_at(policy: ExpiryPolicy, available_at: datetime, calendar: Calendar) -> datetime | None:
    """The first instant at which points are gone that became available at `available_at`; None if it is not fixed."""
    if isinstance(policy, RollingExpiry):
        if policy.round_up_to is None:
            return calendar.add(available_at, days=policy.days or 0, months=policy.months or 0)
        last = shift(calendar.day(available_at), days=policy.days or 0, months=policy.months or 0)
        return calendar.midnight(next_first_day(policy.round_up_to, first_day(policy.round_up_to, last)))
    if isinstance(policy, DatesExpiry):
        earliest = calendar.day(available_at) + timedelta(days=policy.at_least_days)
        candidates = [_day_of_year(year, day) for year in (earliest.year, earliest.year + 1) for day in policy.dates]
        return calendar.midnight(min(day for day in candidates if day >= earliest) + _DAY)
    return None


def lapses_at(policy: ExpiryPolicy, active_at: datetime, calendar: Calendar) -> datetime | None:
    """The first instant at which a wallet has lapsed whose last activity was at `active_at`; None if it never does."""
    if not isinstance(policy, InactivityExpiry):
        return None
    last = shift(calendar.day(active_at), days=policy.days or 0, months=policy.months or 0)
    return calendar.midnight(last + _DAY)


def _day_of_year(year: int, text: str) -> date:
    """The day MM-DD of the year; 29 February of a common year is the 28th."""
    return shift(date.fromisoformat(f"2024-{text}"), months=12 * (year - 2024))
