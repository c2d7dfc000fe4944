"""The only source of the present.

Everything that needs to know the time is handed a `Clock`, so that a test can choose it. Instants are aware, in UTC,
and whole milliseconds, because that is what BSON stores: a value read back equals the value written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

Clock = Callable[[], datetime]


def to_milliseconds(instant: datetime) -> datetime:
    """The aware instant in UTC, cut (never rounded up) to whole milliseconds."""
    utc = instant.astimezone(timezone.utc)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def system_clock() -> datetime:
    """The present by this host's clock."""
    return to_milliseconds(datetime.now(timezone.utc))
