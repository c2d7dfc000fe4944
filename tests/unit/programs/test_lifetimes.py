"""When points become available, expire and lapse."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter

from loyalty.ledger.state import SOMEDAY
from loyalty.programs import lifetimes
from loyalty.programs.calendar import Calendar
from loyalty.programs.policies import ExpiryPolicy, PendingPolicy

PENDING: TypeAdapter[PendingPolicy] = TypeAdapter(PendingPolicy)
EXPIRY: TypeAdapter[ExpiryPolicy] = TypeAdapter(ExpiryPolicy)
BERLIN = Calendar.of("Europe/Berlin")


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(timezone.utc)


def expiry(available_at: str, **policy: Any) -> datetime | None:
    return lifetimes.expires_at(EXPIRY.validate_python(policy), berlin(available_at), BERLIN)


@pytest.mark.parametrize(
    ("policy", "occurred_at", "active"),
    [
        ({"type": "none"}, "2026-03-01 12:00", None),
        ({"type": "period", "days": 14}, "2026-03-20 23:59", "2026-04-03 00:00"),  # across the change of the clock
        ({"type": "period", "days": 1}, "2026-03-28 00:00", "2026-03-29 00:00"),
        ({"type": "date", "date": "2027-01-01"}, "2026-12-31 23:59", "2027-01-01 00:00"),
        ({"type": "date", "date": "2027-01-01"}, "2027-01-01 00:00", None),
    ],
)
def test_pending_points_activate_when_a_local_day_begins(
    policy: dict[str, Any], occurred_at: str, active: str | None
) -> None:
    """Case 3.16: points with activation day D are usable from D 00:00."""
    found = lifetimes.activates_at(PENDING.validate_python(policy), berlin(occurred_at), BERLIN)
    assert found == (None if active is None else berlin(active))


@pytest.mark.parametrize("policy", [{"type": "event", "event_type": "delivered"}, {"type": "manual"}])
def test_points_that_wait_for_somebody_have_no_date(policy: dict[str, Any]) -> None:
    assert lifetimes.activates_at(PENDING.validate_python(policy), berlin("2026-03-01 12:00"), BERLIN) == SOMEDAY


@pytest.mark.parametrize(
    ("months", "days", "rounded", "available_at", "gone"),
    [
        (12, None, "day", "2026-03-01 12:00", "2027-03-02 00:00"),
        (1, None, "day", "2026-01-31 12:00", "2026-03-01 00:00"),  # the last day is 28 February
        (12, None, "day", "2024-02-29 08:00", "2025-03-01 00:00"),
        (12, None, "month", "2026-03-01 00:00", "2027-04-01 00:00"),
        (12, None, "quarter", "2026-02-28 23:59", "2027-04-01 00:00"),
        (12, None, "year", "2026-01-01 00:00", "2028-01-01 00:00"),
        (None, 30, "day", "2024-01-30 23:00", "2024-03-01 00:00"),  # 29 February is the last day
        (None, 1, "day", "2026-03-28 23:00", "2026-03-30 00:00"),  # a day of 23 hours
        (1, None, None, "2026-09-25 02:30", "2026-10-25 02:30"),
        (None, 1, None, "2026-03-28 02:30", "2026-03-29 03:30"),  # clocks skip 02:30
    ],
)
def test_rolling_expiry(
    months: int | None, days: int | None, rounded: str | None, available_at: str, gone: str
) -> None:
    """Cases 3.16 and 3.17: usable until the end of the last day, and month arithmetic clamps."""
    found = expiry(available_at, type="rolling", months=months, days=days, round_up_to=rounded)
    assert found == berlin(gone)


@pytest.mark.parametrize(
    ("dates", "at_least_days", "available_at", "gone"),
    [
        (["12-31"], 0, "2026-12-31 23:59", "2027-01-01 00:00"),
        (["12-31"], 1, "2026-12-31 00:00", "2028-01-01 00:00"),
        (["12-31", "03-31"], 90, "2026-12-31 12:00", "2027-04-01 00:00"),
        (["12-31", "03-31"], 91, "2026-12-31 12:00", "2028-01-01 00:00"),
        (["02-29"], 0, "2026-01-01 00:00", "2026-03-01 00:00"),
        (["02-29"], 0, "2028-01-01 00:00", "2028-03-01 00:00"),
        (["01-31"], 3660, "2026-12-31 00:00", "2037-02-01 00:00"),
    ],
)
def test_expiry_on_days_of_the_year(dates: list[str], at_least_days: int, available_at: str, gone: str) -> None:
    """Case 3.16."""
    assert expiry(available_at, type="dates", dates=dates, at_least_days=at_least_days) == berlin(gone)


def test_a_wallet_lapses_at_the_end_of_the_day() -> None:
    """Case 3.17: twelve months after a leap day is the 28th, which counts to its end."""
    policy = EXPIRY.validate_python({"type": "inactivity", "months": 12})
    assert lifetimes.lapses_at(policy, berlin("2024-02-29 10:00"), BERLIN) == berlin("2025-03-01 00:00")
    assert lifetimes.expires_at(policy, berlin("2024-02-29 10:00"), BERLIN) is None
    assert lifetimes.lapses_at(EXPIRY.validate_python({"type": "never"}), berlin("2024-02-29 10:00"), BERLIN) is None


def test_points_are_good_for_as_long_as_they_were_promised_whatever_the_zone() -> None:
    """Case 3.15: the same instant is another day elsewhere, and so is the end of it."""
    available_at = datetime(2026, 1, 31, 23, 30, tzinfo=timezone.utc)
    policy = EXPIRY.validate_python({"type": "rolling", "months": 1})
    ends = {
        zone: lifetimes.expires_at(policy, available_at, Calendar.of(zone))
        for zone in ("UTC", "Europe/Berlin", "Pacific/Apia")
    }
    assert ends["UTC"] == datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert ends["Europe/Berlin"] == datetime(2026, 3, 1, 23, tzinfo=timezone.utc)
    assert ends["Pacific/Apia"] == datetime(2026, 3, 1, 11, tzinfo=timezone.utc)
    assert min(end - available_at for end in ends.values() if end) >= timedelta(days=28)
