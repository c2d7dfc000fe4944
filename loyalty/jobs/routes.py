"""/v1/jobs"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from loyalty.infra.http.endpoint import Api, Context
from loyalty.infra.http.model import Out, Timestamp
from loyalty.jobs import service

api = Api("jobs", "Jobs", "Background work: what ran when, how it ended, and how far it is behind.")


class JobOut(Out):
    """A job and its last run."""

    name: str = Field(description="Name of the job.", examples=["ledger_seal"])
    purpose: str = Field(description="What it does.")
    every_seconds: int | None = Field(
        description="How often it runs; null for one that follows the ledger all the time."
    )
    state: Literal["ok", "failed", "late", "waiting"] = Field(
        description="ok; failed: the last run, it is tried again; late: it should have run; waiting: it never ran."
    )
    last_started_at: Timestamp | None = Field(description="When the last run began.")
    last_finished_at: Timestamp | None = Field(
        description="When the last run ended; for a job that runs all the time, when it was last seen at work."
    )
    last_status: Literal["running", "ok", "failed"] | None = Field(description="How the last run ended.")
    last_error: str | None = Field(description="Why the last run failed.")
    runs: int = Field(description="How often it was started.")
    items: int | None = Field(
        description="What it has done in all: entries followed, members settled; null for a job that does not count."
    )
    next_run_at: Timestamp | None = Field(description="When it runs next.")
    holder: str | None = Field(description="The process that ran it: server, process number, random part.")
    lag: float | None = Field(description="Seconds it is behind the ledger; null where that means nothing.")


class JobList(Out):
    """All jobs."""

    data: list[JobOut] = Field(description="The jobs, in the order of the schedule.")


@api.get("/v1/jobs", scope="jobs:read")
def list_jobs(context: Context) -> JobList:
    """List jobs

    The jobs belong to the installation: every program sees the same ones."""
    jobs = service.list_jobs(context.services.db, now=context.services.clock())
    return JobList(data=[JobOut.model_validate(job, from_attributes=True) for job in jobs])
