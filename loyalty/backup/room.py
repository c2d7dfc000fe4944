"""How the room on the target goes down, and an alarm in time before it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Catalogue, Target
from loyalty.backup.records import append_line, clear_alarm, raise_alarm, read_lines
from loyalty.backup.settings import Settings
from loyalty.backup.space import Forecast, Sample, forecast, measure

_HISTORY: Final = "space.jsonl"

_REMEDY: Final = (
    "Use a larger disk, or keep less (retention in the settings). What is kept, and why: loyalty-backup prune --dry-run"
)


def watch(settings: Settings, target: Target, catalogue: Catalogue, *, now: datetime) -> Forecast | None:
    """Note how full the target is, and let the alarm stand or fall. Once a day, after what may go has gone."""
    append_line(target.root / _HISTORY, measure(target.root, now=now))
    found = forecast(list(samples(target)))
    problem = standing_problem(settings, catalogue, found, now=now)
    if problem is None:
        clear_alarm(target, "room")
    else:
        raise_alarm(target, "room", problem)
    return found


def outlook(target: Target, *, now: datetime) -> Forecast | None:
    """How the target will fill, as of now; notes nothing."""
    return forecast([*samples(target), measure(target.root, now=now)])


def standing_problem(
    settings: Settings, catalogue: Catalogue, found: Forecast | None, *, now: datetime
) -> BackupError | None:
    """What will not fit, or will not for much longer. None when all is well, or nothing is known yet."""
    if found is None:
        return None
    fulls = [archive for archive in catalogue.physical if archive.kind == "full"]
    needed = fulls[-1].stored_bytes + settings.reserve_bytes if fulls else 0
    if found.free < needed:
        return BackupError(
            f"The next full will not fit: {settings.target} has {found.free / 1e9:.1f} GB free, and it needs "
            f"{needed / 1e9:.1f} GB.",
            _REMEDY,
        )
    if found.full_at is not None and (found.full_at - now).days < settings.full_within_days:
        return BackupError(
            f"{settings.target} will be full on {found.full_at:%Y-%m-%d}: {found.free / 1e9:.1f} GB are free, and "
            f"{found.growth_per_day / 1e9:.2f} GB more are used each day.",
            _REMEDY,
        )
    return None


def samples(target: Target) -> Iterator[Sample]:
    """What was noted, by time."""
    return read_lines(target.root / _HISTORY, Sample)
