"""The lease that makes one process the worker: a document in MongoDB, judged by the database's clock alone.

    {_id: "jobs", holder: "box1:4711:9f2c…", until: <database time>, term: 17}

Whoever finds `until` in the past takes it and raises `term`; the holder renews it. `term` is the fencing
token: what a job writes about itself carries it, and a write with a lower term than the stored one is
refused, so a process that was frozen through the end of its lease cannot undo what its successor did.

Locally the lease is trusted until a deadline on this host's boot clock, counted from *before* the request was
sent and shortened by a margin: no assumption about clocks being equal is made, only that they advance alike
for some seconds. By the same clock `now` goes on from what the database said, so that the periods of jobs are the
same whichever host has the lease, and whatever its own clock shows.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pymongo
from pymongo import ReturnDocument

from loyalty.infra.clock import system_clock, to_milliseconds
from loyalty.infra.mongo import Mongo

_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


class LeaseLost(Exception):
    """This process is not the worker any more (or is ending): stop at once, somebody else carries on."""


def boot_seconds() -> float:
    """Seconds since boot, counting suspension, which CLOCK_MONOTONIC does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One process's claim on the lease called `name`.

    `seconds` is how long a dead holder blocks the others. `patience_seconds` bounds each request, so that a
    frozen database is noticed while the loop still has time to feed the watchdog. Only one thread calls
    acquire and release; the rest is safe anywhere.
    """

    def __init__(
        self, db: Mongo, name: str, *, node: str, seconds: float = 10.0, patience_seconds: float = 2.0
    ) -> None:
        self._leases = db.leases
        self._name = name
        self._seconds = seconds
        self._patience = patience_seconds
        self._margin = seconds / 10
        self._deadline = 0.0
        self._revoked = False
        self._seeded = False
        self._said: tuple[datetime, float] | None = None  # the database's time, and ours in boot seconds
        self.holder = f"{node}:{os.getpid()}:{secrets.token_hex(4)}"
        self.term = 0

    def acquire(self) -> bool:
        """Take or renew the lease; False when another process has it. PyMongoError when nobody can tell."""
        asked = boot_seconds()
        with pymongo.timeout(self._patience):
            self._seed()
            mine = {"$eq": ["$holder", self.holder]}
            document = self._leases.find_one_and_update(
                {"_id": self._name, "$expr": {"$or": [{"$lt": ["$until", "$$NOW"]}, mine]}},
                [
                    {
                        "$set": {
                            "holder": self.holder,
                            "until": {"$add": ["$$NOW", int(self._seconds * 1000)]},
                            "term": {"$cond": [mine, "$term", {"$add": ["$term", 1]}]},
                        }
                    }
                ],
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            self._deadline = 0.0
            return False
        self.term = document["term"]
        self._said = document["until"] - timedelta(seconds=self._seconds), asked
        self._deadline = asked + self._seconds - self._margin
        return True

    def now(self) -> datetime:
        """The present by the database's clock. This host's own stands in until the lease was held once."""
        if self._said is None:
            return system_clock()
        instant, since = self._said
        return to_milliseconds(instant + timedelta(seconds=boot_seconds() - since))

    def _seed(self) -> None:
        """Make the document: MongoDB refuses $expr in an upsert, so `acquire` needs one that exists."""
        if not self._seeded:
            seed = {"holder": None, "until": _LONG_AGO, "term": 0}
            self._leases.update_one({"_id": self._name}, {"$setOnInsert": seed}, upsert=True)
            self._seeded = True

    def held(self, term: int | None = None) -> bool:
        """Whether this process is certainly still the holder (in that very `term`, if one is given)."""
        return not self._revoked and boot_seconds() < self._deadline and term in (None, self.term)

    def revoke(self) -> None:
        """Make every turn end, so that running jobs stop; others still wait until `release`."""
        self._revoked = True

    def release(self) -> None:
        """Give the lease to whoever asks next, if it is ours. Call it only when no job is running."""
        if self._deadline == 0.0:
            return
        self._deadline = 0.0
        with pymongo.timeout(self._patience):
            self._leases.update_one(
                {"_id": self._name, "holder": self.holder},
                {"$set": {"holder": None, "until": _LONG_AGO}},
            )


def holder(db: Mongo, name: str) -> str | None:
    """Who holds the lease at this moment, by the database's clock, as "node:process:random"; None when nobody does."""
    found = db.leases.aggregate([{"$match": {"_id": name, "$expr": {"$gt": ["$until", "$$NOW"]}}}])
    return next((document["holder"] for document in found), None)


@dataclass(frozen=True)
class Turn:
    """The right to work during one term of the lease."""

    lease: Lease
    term: int

    def check(self) -> None:
        """Raise LeaseLost unless the term still runs: jobs call it between the steps of long work."""
        if not self.lease.held(self.term):
            raise LeaseLost(f"term {self.term} of the lease is over")
