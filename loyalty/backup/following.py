"""Archiving the log for good: what a timer does each time, and the loop that needs no timer.

A log that cannot go on where it ended (a gap, another history) begins anew with a full, which is taken at once: until
it is there, nothing that happens could be restored. What was lost in between stands in the history of runs.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pymongo.errors import PyMongoError

from loyalty.backup import physical
from loyalty.backup.clocks import WrongClock, require_same_time
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, Target
from loyalty.backup.members import standings
from loyalty.backup.merging import merge_hours
from loyalty.backup.metrics import write_metrics
from loyalty.backup.oplog import Diverged, Gap, Narrow, archive_log, require_window
from loyalty.backup.records import clear_alarm, noted, raise_alarm
from loyalty.backup.settings import Settings
from loyalty.backup.target import Busy
from loyalty.backup.verify import read_on_arrival
from loyalty.infra.clock import system_clock

_AFTER_FAILURE_S = 15
_METRICS_EVERY_S = 60


def archive_what_is_new(settings: Settings, target: Target) -> list[Archive]:
    """One run: the new slices. After a gap or another history it takes a full and goes on from there."""
    try:
        return _archive(settings, target)
    except (Gap, Diverged) as problem:
        sys.stderr.write(f"{problem.problem} A new full is taken now.\n")
    with noted(target, "full") as outcome:
        archive = physical.full(settings, target, progress=outcome.progress)
        read_on_arrival(settings, target, [archive])
        outcome.id, outcome.bytes = archive.id, archive.stored_bytes
    return _archive(settings, target)


def _archive(settings: Settings, target: Target) -> list[Archive]:
    try:
        with noted(target, "log") as outcome:
            slices = archive_log(settings, target)
            read_on_arrival(settings, target, slices)
            outcome.id = slices[-1].id if slices else None
            outcome.bytes = sum(piece.stored_bytes for piece in slices)
    except (BackupError, PyMongoError, OSError):
        with suppress(OSError):  # an alarm that a full disk does not take must not hide what went wrong
            _watch(settings, target)  # now that nothing is archived, the window shrinks
        raise
    _watch(settings, target)
    return slices


def _watch(settings: Settings, target: Target) -> None:
    """What is archived is safe; these alarms are about what may come. Where no member can be asked they stay as they
    are."""
    try:
        found = standings(settings)
    except BackupError:
        return
    _let("window", target, lambda: require_window(settings, target, found))
    _let("clock", target, lambda: require_same_time(found, now=system_clock()))


def _let(subject: str, target: Target, require: Callable[[], None]) -> None:
    """Raise the alarm, or clear it."""
    try:
        require()
    except (Narrow, WrongClock) as error:
        raise_alarm(target, subject, error)
    else:
        clear_alarm(target, subject)


def follow(settings: Settings, target: Target, *, metrics_file: Path | None = None) -> None:
    """Archive the log every `log.every_seconds` until SIGTERM or SIGINT; the slice that is being written is finished.

    While all is well only failures go into the history: a line every few seconds would bury them. Metrics are written
    each minute: other runs write them when they end, and this one does not.
    """
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    is_well = False
    said = ""
    measured_at = -math.inf
    while not told_to_stop.is_set():
        try:
            if is_well:
                read_on_arrival(settings, target, archive_log(settings, target, sparing=True))
                _watch(settings, target)
            else:
                archive_what_is_new(settings, target)
            merge_hours(settings, target)
            is_well, said = True, ""
        except Busy:
            pass
        except (BackupError, PyMongoError, OSError) as error:
            is_well = False
            if str(error) != said:
                said = str(error)
                sys.stderr.write(f"{said}\n")
        if metrics_file is not None and time.monotonic() >= measured_at + _METRICS_EVERY_S:
            measured_at = time.monotonic()
            with suppress(OSError):  # whoever reads them sees that they are old
                write_metrics(target, metrics_file)
        told_to_stop.wait(settings.log.every_seconds if is_well else max(settings.log.every_seconds, _AFTER_FAILURE_S))
