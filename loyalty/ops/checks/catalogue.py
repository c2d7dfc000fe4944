"""What a check is, what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Seen = Mapping[str, Any]
"""What was seen of a site; see `seen.py`."""

Level = Literal["problem", "notice"]
"""A problem needs somebody now, and makes `status` end with 1; a notice can wait for working hours."""


@dataclass(frozen=True)
class Limits:
    """Where the line is drawn between fine and not. The role `verify` has a variable for each."""

    disk_free_percent: int = 10
    certificate_days: int = 14
    lag_seconds: int = 10
    oplog_hours: int = 12
    clock_offset_ms: int = 500
    drill_days: int = 35
    restore_drill_days: int = 8
    backup_hours: int = 26
    backup_incremental_hours: int = 9
    backup_dump_days: int = 8
    backup_log_minutes: int = 40
    backup_log_continuous_minutes: int = 2
    disk_forecast_days: int = 30


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: where, by which check, what was found, what to do."""

    host: str
    check: str
    level: Level
    found: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """Return the fields for a script."""
        return asdict(self)


Complaint = tuple[str, str, str]
"""What a check says when it is not met: host (or "site"), what was found, what to do."""

Judge = Callable[[Seen, Limits], Iterator[Complaint]]


@dataclass(frozen=True)
class Check:
    """One thing that must be so. `deep` ones are looked at by `doctor` and `verify`, not by `status`."""

    name: str
    holds: str
    level: Level
    deep: bool
    judge: Judge


def check(name: str, holds: str, *, level: Level = "problem", deep: bool = False) -> Callable[[Judge], Check]:
    """Make a check of the function below. `holds` is the sentence that is true of a healthy site."""
    return lambda judge: Check(name, holds, level, deep, judge)
