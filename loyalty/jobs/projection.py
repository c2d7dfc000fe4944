"""Follows the ledger with a change stream and keeps the `wallets` projection up to date.

The position (the stream's resume token) is stored after what it stands for has been projected, so a crash repeats
some entries and misses none; projecting an entry twice changes nothing. Neither write waits for a majority: if a
failover undoes the projection, it undoes the position written after it too.

The stream is driven by the plain commands, because their batches are what a projection wants: everything that
came in while the last batch was written, in one go. Any failure ends the run; the worker starts it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pymongo
import structlog
from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.write_concern import WriteConcern

from loyalty.infra.mongo import Document, Mongo, connect
from loyalty.jobs.lease import LeaseLost
from loyalty.jobs.model import Work
from loyalty.ledger.projection import project, rebuild

POSITION: Final = "wallets"
BATCH: Final = 1000
AWAIT_SECONDS: Final = 1.0  # the server answers sooner when something happens
GATHER_SECONDS: Final = 0.2  # under load many entries share a batch; it is the lag that a busy ledger shows
PROJECT_SECONDS: Final = 30.0
SAVE_SECONDS: Final = 1.0
IDLE_SAVE_SECONDS: Final = 30.0  # a ledger at rest moves on in the oplog too

# The oplog does not reach back to the position, or the position is not one that this ledger gave.
_HISTORY_LOST: Final = frozenset({9, 15, 136, 260, 280, 286})

log = structlog.get_logger(__name__)


class LedgerChanges:
    """The entries that are added to the ledger after `token`, or from now on.

    `db` must be a connection with a limit on the wait for an answer (`serves_requests`), longer than AWAIT_SECONDS:
    a server that hangs must not hang the follower.
    """

    def __init__(self, db: Mongo, token: Document | None) -> None:
        self._db = db
        self._session = db.client.start_session()
        stages: list[Document] = [
            {"$changeStream": {"resumeAfter": token} if token else {}},
            {"$match": {"operationType": "insert"}},
            {"$project": {f"fullDocument.{name}": 1 for name in ("_id", "program", "recorded_at", "state")}},
        ]
        try:
            cursor = self._ask({"aggregate": "ledger", "pipeline": stages, "cursor": {"batchSize": 0}})
        except BaseException:
            self._session.end_session()
            db.client.close()
            raise
        self._cursor = cursor["id"]
        self.token: Document = cursor["postBatchResumeToken"]

    def next(self) -> list[Document]:
        """What was added since the last call, at most a batch; waits a moment when there is nothing."""
        cursor = self._ask(
            {
                "getMore": Int64(self._cursor),
                "collection": "ledger",
                "batchSize": BATCH,
                "maxTimeMS": int(AWAIT_SECONDS * 1000),
            }
        )
        self._cursor = cursor["id"]
        self.token = cursor["postBatchResumeToken"]
        if not self._cursor:
            raise OperationFailure("the ledger was dropped or renamed", 280)
        return [change["fullDocument"] for change in cursor["nextBatch"]]

    def close(self) -> None:
        """Let the server forget the cursor."""
        try:
            if self._cursor:
                self._ask({"killCursors": "ledger", "cursors": [Int64(self._cursor)]})
        except pymongo.errors.PyMongoError:
            pass  # the server forgets an idle cursor by itself
        finally:
            self._session.end_session()
            self._db.client.close()

    def _ask(self, command: Document) -> Any:
        return self._db.command(command, codec_options=self._db.codec_options, session=self._session).get("cursor")


def follow(work: Work, beat: Callable[[float | None, int], None]) -> None:
    """Project the ledger until the turn is over (LeaseLost) or the database fails (PyMongoError)."""
    db: Mongo = work.db.with_options(write_concern=WriteConcern(w=1))
    position = db.positions.find_one({"_id": POSITION})
    try:
        _follow_from(work, db, position and position["token"], beat)
    except OperationFailure as error:
        if error.code not in _HISTORY_LOST:
            raise
        log.warning("the position in the ledger is lost; the projection will be rebuilt", error=str(error))
        db.positions.delete_one({"_id": POSITION, "term": {"$lte": work.turn.term}})
        raise


def _follow_from(work: Work, db: Mongo, token: Document | None, beat: Callable[[float | None, int], None]) -> None:
    uri = work.settings.mongo_uri.get_secret_value()
    changes = LedgerChanges(connect(uri, db.name, serves_requests=True, pool=2), token)
    try:
        if token is None:
            # The stream is open already: what is added while the projection is rebuilt comes through it.
            log.info("the projection is rebuilt")
            wallets = rebuild(db, progress=lambda entries: beat(None, 0))
            log.info("the projection was rebuilt", wallets=wallets)
            _save(db, changes.token, work)
        saved = time.monotonic()
        while True:
            entries = changes.next()
            work.turn.check()
            lag = 0.0
            if entries:
                with pymongo.timeout(PROJECT_SECONDS):
                    project(db, entries)
                lag = max(0.0, (work.clock() - entries[-1]["recorded_at"]).total_seconds())
            beat(lag, len(entries))
            if time.monotonic() - saved >= (SAVE_SECONDS if entries else IDLE_SAVE_SECONDS):
                _save(db, changes.token, work)
                saved = time.monotonic()
            if 0 < len(entries) < BATCH:
                time.sleep(GATHER_SECONDS)
    finally:
        changes.close()


def _save(db: Mongo, token: Document, work: Work) -> None:
    """Store the position; LeaseLost when a later term has stored one."""
    turn = work.turn
    try:
        db.positions.update_one(
            {"_id": POSITION, "term": {"$lte": turn.term}},
            {"$set": {"token": token, "term": turn.term, "saved_at": work.clock()}},
            upsert=True,
        )
    except DuplicateKeyError:
        raise LeaseLost("a later term follows the ledger") from None
