"""Whether the clocks agree. What is archived goes by the database's time; how old it is, by the clock of this host.

So a clock that is wrong spoils no archive. But as long as one is, nobody can say whether a backup is late, and by its
age none would ever be: that is an alarm of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from loyalty.backup.errors import BackupError
from loyalty.backup.members import Standing

APART: Final = timedelta(seconds=60)
"""What clocks may differ by. Those that are kept by chrony differ by milliseconds."""

_REMEDY: Final = (
    "Whether backups are late cannot be judged. On this host and on those of the database: chronyc sources; "
    "chronyc makestep"
)


class WrongClock(BackupError):
    """The clocks of this host and of the database differ."""


def require_same_time(found: Sequence[Standing], *, now: datetime) -> None:
    """WrongClock when a member's clock is not that of this host, or the database's time is ahead of it.

    The database's time never goes back: where the clock of a primary was ahead and is set back, it stands still.
    """
    worst = max(found, key=lambda one: abs(one.clock_ahead))
    if abs(worst.clock_ahead) > APART:
        how = "ahead of" if worst.clock_ahead > timedelta() else "behind"
        raise WrongClock(
            f"The clock of {worst.member.address} is {told(worst.clock_ahead)} {how} this host's.", _REMEDY
        )
    top = max(one.top for one in found).instant
    if top > now + APART:
        raise WrongClock(
            f"The database's time is {told(top - now)} ahead of the clocks, one of which was set back.",
            f"Until {top:%F %T} UTC all that is written falls into that one second; of a restore `latest` has it. "
            f"{_REMEDY}",
        )


def from_the_future(known: Iterable[tuple[str, datetime]], *, now: datetime) -> str | None:
    """A sentence on the one of the things that is furthest in the future, if any is. None when all is past."""
    what, at = max(known, key=lambda one: one[1], default=("", now))
    if at <= now + APART:
        return None
    return f"The {what} is of {at:%F %T} UTC, {told(at - now)} from now: a clock is wrong, or was. {_REMEDY}"


def told(apart: timedelta) -> str:
    """By how much, in words."""
    seconds = abs(apart).total_seconds()
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
