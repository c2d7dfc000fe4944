"""What a job is, what it is handed, and the record of its runs in the collection `jobs`.

    {_id: name, slot, term, holder, runs, last_started_at, last_finished_at, last_status, last_error,
     next_run_at, items, lag}

`slot` is the start of the period that the last run was for, `term` the lease's term it ran in. `last_status`
is `running`, `ok` or `failed`. `items` is what a job that counts has done in all; `lag` belongs to continuous jobs: how
far behind the ledger they are, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from loyalty.config import Settings
from loyalty.infra.clock import Clock
from loyalty.infra.mongo import Mongo
from loyalty.jobs.lease import Turn

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Work:
    """What a run has at hand. Long work calls `turn.check()` between its steps."""

    db: Mongo
    settings: Settings
    clock: Clock
    turn: Turn


@dataclass(frozen=True)
class PeriodicJob:
    """Work done once in every period; periods count from the epoch, so a daily one begins at midnight UTC.

    `run` may be cut off anywhere and called again for the same slot: it must arrive at the same state.
    """

    name: str
    purpose: str
    every: timedelta
    run: Callable[[Work, datetime], None]

    def slot(self, now: datetime) -> datetime:
        """The start of the period that `now` is in."""
        return now - (now - _EPOCH) % self.every


@dataclass(frozen=True)
class ContinuousJob:
    """Work that never ends by itself: `run` returns only by an exception (LeaseLost when the turn is over).

    It calls `beat(lag_seconds, items)` at least every 30 s; `items` is what it has done since the last beat.
    """

    name: str
    purpose: str
    run: Callable[[Work, Callable[[float | None, int], None]], None]


Job = PeriodicJob | ContinuousJob
