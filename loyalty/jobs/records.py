"""The collection `jobs`: who ran what when. Every write is fenced by the term of the lease."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from loyalty.infra.mongo import Mongo
from loyalty.jobs.lease import LeaseLost, Turn
from loyalty.jobs.model import ContinuousJob, PeriodicJob

_ERROR_LENGTH = 500


def claim(db: Mongo, job: PeriodicJob, *, slot: datetime, now: datetime, turn: Turn) -> bool:
    """Take the slot; False when it has been done, or when a later term has it.

    A slot that failed, or whose run died with its process, can be taken again. So can one in the far future:
    it was written by a host whose clock was wrong, and must not stop the job until then.
    """
    unfinished = {"slot": slot, "last_status": {"$ne": "ok"}}
    try:
        db.jobs.update_one(
            {
                "_id": job.name,
                "term": {"$lte": turn.term},
                "$or": [{"slot": {"$lt": slot}}, unfinished, {"slot": {"$gt": now + job.every}}],
            },
            {
                "$set": {
                    "slot": slot,
                    "term": turn.term,
                    "holder": turn.lease.holder,
                    "last_started_at": now,
                    "last_status": "running",
                    "next_run_at": slot + job.every,
                },
                "$inc": {"runs": 1},
            },
            upsert=True,
        )
    except DuplicateKeyError:  # the record is there and the filter did not want it
        return False
    return True


def finish(
    db: Mongo,
    job: PeriodicJob,
    *,
    slot: datetime,
    now: datetime,
    turn: Turn,
    error: str | None,
    next_run_at: datetime,
) -> None:
    """Write how the run of the slot ended; nothing when a later term has taken over."""
    db.jobs.update_one(
        {"_id": job.name, "term": turn.term, "slot": slot},
        {
            "$set": {
                "last_finished_at": now,
                "last_status": "failed" if error else "ok",
                "last_error": error and error[:_ERROR_LENGTH],
                "next_run_at": next_run_at,
            }
        },
    )


def progress(db: Mongo, name: str, *, turn: Turn, items: int) -> None:
    """Add to what a periodic job has done in all; nothing when a later term has taken over."""
    db.jobs.update_one({"_id": name, "term": turn.term}, {"$inc": {"items": items}})


def begin_following(db: Mongo, job: ContinuousJob, *, now: datetime, turn: Turn) -> None:
    """Write that a continuous job has started. LeaseLost when a later term has it."""
    fields = {
        "term": turn.term,
        "holder": turn.lease.holder,
        "last_started_at": now,
        "last_status": "running",
    }
    try:
        db.jobs.update_one(
            {"_id": job.name, "term": {"$lte": turn.term}}, {"$set": fields, "$inc": {"runs": 1}}, upsert=True
        )
    except DuplicateKeyError:
        raise LeaseLost("a later term follows already") from None


def beat(db: Mongo, job: ContinuousJob, *, now: datetime, turn: Turn, lag: float | None, items: int) -> None:
    """Write that a continuous job is alive, how far behind, and what it did since the last time."""
    fields: dict[str, Any] = {"last_finished_at": now, "last_error": None, "last_status": "running"}
    if lag is not None:
        fields["lag"] = round(lag, 3)
    db.jobs.update_one({"_id": job.name, "term": turn.term}, {"$set": fields, "$inc": {"items": items}})


def stop_following(db: Mongo, job: ContinuousJob, *, now: datetime, turn: Turn, error: str) -> None:
    """Write why a continuous job stopped; it is started again after a pause."""
    db.jobs.update_one(
        {"_id": job.name, "term": turn.term},
        {"$set": {"last_finished_at": now, "last_status": "failed", "last_error": error[:_ERROR_LENGTH]}},
    )
