"""How long ago a restore was proven, and an alarm when that is too long: what was not restored lately is but a hope."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from loyalty.backup.certificate import Certificate
from loyalty.backup.clocks import APART, told
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Target
from loyalty.backup.records import append_line, clear_alarm, raise_alarm, read_lines
from loyalty.backup.settings import Settings
from loyalty.backup.target import made_at

HISTORY: Final = "restore_drills.jsonl"


def note(target: Target, found: Certificate) -> None:
    """Add a drill to the history, whatever it found."""
    append_line(target.root / HISTORY, found)


def last_proven(target: Target) -> Certificate | None:
    """The last drill that found everything as it must be: the last that was noted, whatever its clock said."""
    passed = [drill for drill in read_lines(target.root / HISTORY, Certificate) if drill.ok]
    return passed[-1] if passed else None


def watch(settings: Settings, target: Target, *, now: datetime) -> None:
    """Let the alarm stand or fall. The days count from the last proof, and before the first from when the target was
    made."""
    last = last_proven(target)
    age = now - (last.began if last else made_at(target))
    if -APART <= age < timedelta(days=settings.drill.within_days):
        clear_alarm(target, "proof")
        return
    if age < -APART:
        what = "What is kept here was last proven" if last else "The target was made"
        problem = f"{what} {told(age)} in the future: a clock is wrong, or was."
    elif last:
        problem = f"What is kept here was last restored and proven {age.days} days ago."
    else:
        problem = f"Nothing that is kept here was ever restored, in {age.days} days."
    raise_alarm(
        target,
        "proof",
        BackupError(
            problem,
            "Do it now, and see why it was not done: loyalty-backup drill; systemctl list-timers loyalty-backup-drill",
        ),
    )
