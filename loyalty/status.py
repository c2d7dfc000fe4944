"""The state of an installation in one answer, for `loyalty status` and whatever watches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from loyalty import __version__
from loyalty.config import Settings
from loyalty.infra.bounded import Bounded
from loyalty.infra.mongo import Mongo
from loyalty.infra.redis import RedisLink
from loyalty.jobs.lease import holder
from loyalty.jobs.service import list_jobs
from loyalty.ledger.entry import SEQUENCE_BITS
from loyalty.ledger.movements import due
from loyalty.ledger.state import State, fold
from loyalty.proofs import service as proofs
from loyalty.proofs.model import violation_json

_BATCH = 1000
_PATIENCE_SECONDS = 4
"""Whoever asks how it is wants to know soon what is away: the database, or a share that never answers."""


def gather(settings: Settings, db: Mongo, *, now: datetime) -> dict[str, Any]:
    """Numbers, jobs and peers. `ok` is False when something needs a person; `problems` says what and the remedy."""
    status: dict[str, Any] = {
        "site": settings.site_name,
        "release": settings.release,
        "version": __version__,
        "at": now,
        "redis": _redis(settings),
        "storage": _storage(settings.storage_path),
    }
    try:
        with pymongo.timeout(_PATIENCE_SECONDS):
            mongodb = _mongodb(db)
        status |= {
            "mongodb": mongodb,
            "members": db.members.estimated_document_count(),
            "entries": db.ledger.estimated_document_count(),
            "points_available": points_available(db, now=now),
            "last_seal": _last_seal(db),
            "violations": [violation_json(found) for found in proofs.open_violations(db)],
            "lease": {"holder": holder(db, "jobs")},
            "jobs": [asdict(job) for job in list_jobs(db, now=now)],
        }
    except PyMongoError as error:
        status["mongodb"] = {"primary": None, "error": str(error).split(" (configured")[0]}
    status["problems"] = list(_problems(status))
    status["ok"] = not status["problems"]
    return status


def points_available(db: Mongo, *, now: datetime) -> dict[str, int]:
    """What all members together can spend at `now`, by wallet: the sum over the ends of all chains."""
    heads = db.ledger.aggregate(
        [
            {"$project": {"_id": 1}},  # the index alone answers this
            {"$group": {"_id": {"$trunc": {"$divide": ["$_id", 1 << SEQUENCE_BITS]}}, "head": {"$max": "$_id"}}},
        ],
        allowDiskUse=True,
    )
    totals: dict[str, int] = {}
    numbers = (found["head"] for found in heads)
    while batch := list(islice(numbers, _BATCH)):
        for entry in db.ledger.find({"_id": {"$in": batch}}, {"state": 1}):
            state = State.of(entry["state"])
            for name, wallet in fold(state, due(state, now)).wallets.items():
                totals[name] = totals.get(name, 0) + wallet.available
    return totals


def _mongodb(db: Mongo) -> dict[str, Any]:
    hello = db.command("hello")
    return {"primary": hello.get("primary"), "replica_set": hello.get("setName"), "members": hello.get("hosts", [])}


def _redis(settings: Settings) -> str:
    if settings.redis_url is None:
        return "not configured"
    link = RedisLink(settings.redis_url.get_secret_value())
    return "ok" if link.attempt(lambda client: client.ping()) else "away"


def _storage(path: Path) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        space = os.statvfs(path)
        return {
            "free_bytes": space.f_bavail * space.f_frsize,
            "total_bytes": space.f_blocks * space.f_frsize,
            # On a server only the folders below are the application's own; a new one makes them on first use.
            "writable": os.access(files if (files := path / "files").is_dir() else path, os.W_OK),
        }

    try:
        return {"path": str(path), **Bounded("the storage").call(look, seconds=_PATIENCE_SECONDS)}
    except OSError as error:
        return {"path": str(path), "error": error.strerror}


def _last_seal(db: Mongo) -> dict[str, Any] | None:
    seal = db.seals.find_one({}, {"sealed_at": 1, "count": 1, "hash": 1}, sort=[("_id", -1)])
    if seal is None:
        return None
    return {
        "number": seal["_id"],
        "sealed_at": seal["sealed_at"],
        "entries": seal["count"],
        "hash": bytes(seal["hash"]).hex(),
    }


def _problems(status: dict[str, Any]) -> Iterator[str]:
    if not status["mongodb"]["primary"]:
        yield "MongoDB has no primary. See: systemctl status mongod; journalctl -u mongod"
    if status["redis"] == "away":
        yield "Redis is away; everything works, slower. See: systemctl status redis-server"
    storage = status["storage"]
    if "error" in storage:
        yield f"{storage['path']}: {storage['error']}. Mount it, or set LOYALTY_STORAGE_PATH."
    elif not storage["writable"]:
        yield f"{storage['path']} cannot be written by this user. Check its owner and mount options."
    elif storage["free_bytes"] * 10 < storage["total_bytes"]:
        yield f"{storage['path']} is over 90 % full. Make room or enlarge it."
    for violation in status.get("violations", []):
        yield (
            f"The entry {violation['entry']} does not verify: {violation['what']}. {violation['member']} can spend "
            "nothing. See: loyalty ledger verify; then loyalty member unfreeze"
        )
    for job in status.get("jobs", []):
        if job["state"] == "failed":
            yield f"The job {job['name']} failed: {job['last_error']}. See: journalctl -u loyalty-jobs"
        elif job["state"] != "ok":
            yield f"The job {job['name']} is {job['state']}. See: systemctl status loyalty-jobs"
