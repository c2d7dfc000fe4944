"""What the jobs are doing, for the API and for `loyalty status`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from loyalty.infra.mongo import Mongo
from loyalty.jobs.model import Job, PeriodicJob
from loyalty.jobs.schedule import JOBS

State = Literal["ok", "failed", "late", "waiting"]

GRACE: Final = timedelta(minutes=2)
"""How late a job may be before it is called so: a lease changes hands and a database fails over in less."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job of the schedule with the record of its runs. `state` sums it up."""

    name: str
    purpose: str
    every_seconds: int | None
    state: State
    last_started_at: datetime | None
    last_finished_at: datetime | None
    last_status: str | None
    last_error: str | None
    runs: int
    items: int | None
    next_run_at: datetime | None
    holder: str | None
    lag: float | None


def list_jobs(db: Mongo, *, now: datetime) -> list[JobStatus]:
    """Every job of the schedule, in its order."""
    records = {record["_id"]: record for record in db.jobs.find()}
    return [_status(job, records.get(job.name, {}), now) for job in JOBS]


def _status(job: Job, record: dict[str, Any], now: datetime) -> JobStatus:
    periodic = isinstance(job, PeriodicJob)
    return JobStatus(
        name=job.name,
        purpose=job.purpose,
        every_seconds=int(job.every.total_seconds()) if isinstance(job, PeriodicJob) else None,
        state=_state(record, now, periodic=periodic),
        last_started_at=record.get("last_started_at"),
        last_finished_at=record.get("last_finished_at"),
        last_status=record.get("last_status"),
        last_error=record.get("last_error"),
        runs=record.get("runs", 0),
        items=record.get("items"),
        next_run_at=record.get("next_run_at"),
        holder=record.get("holder"),
        lag=record.get("lag"),
    )


def _state(record: dict[str, Any], now: datetime, *, periodic: bool) -> State:
    if not record:
        return "waiting"
    due = record["next_run_at"] if periodic else record.get("last_finished_at") or record["last_started_at"]
    if now - due > GRACE:
        return "late"
    return "failed" if record["last_status"] == "failed" else "ok"
