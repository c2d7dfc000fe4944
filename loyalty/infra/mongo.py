"""The connection to MongoDB: one client a process, made after the fork, with time limits that were measured.

A request must be answered within 5 s even when the primary hangs (frozen, cable pulled), so a client that serves
requests gives up on an answer after 2 s and, when the driver then tries again, on finding a primary after 2 s more (it
looks in steps of half a second, so it may be 2.5). What is safe to repeat is repeated until then
(`loyalty.infra.patience`).

Writes are acknowledged by a majority and journalled: what was acknowledged survives any single failure.
"""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference, SecondaryPreferred
from pymongo.write_concern import WriteConcern

Document = dict[str, Any]
Mongo = Database[Document]

_MAJORITY = WriteConcern(w="majority", j=True)
_MOST_STALE_S = 90  # the least that the driver allows to ask for


def connect(
    uri: str, database: str, *, serves_requests: bool = True, from_secondaries: bool = False, pool: int = 32
) -> Mongo:
    """The database behind `uri`, connected lazily.

    `serves_requests` bounds every wait to what a client's patience allows; jobs and tools, whose scans run for minutes,
    pass False, and leave a server that hangs only after ten.
    `from_secondaries` spares the primary, for who can do without what was recorded in the last moments.
    `pool` is the most connections at a time; give it the number of threads.
    """
    client: MongoClient[Document] = MongoClient(
        uri,
        tz_aware=True,
        appname="loyalty",
        connectTimeoutMS=1500,
        serverSelectionTimeoutMS=2000 if serves_requests else 5000,
        heartbeatFrequencyMS=1000,
        maxPoolSize=pool,
        connect=False,
        socketTimeoutMS=2000 if serves_requests else 600_000,
    )
    return Database(
        client,
        database,
        write_concern=_MAJORITY,
        read_concern=ReadConcern("local"),
        read_preference=SecondaryPreferred(max_staleness=_MOST_STALE_S) if from_secondaries else ReadPreference.PRIMARY,
    )


def database_is_away(error: PyMongoError) -> bool:
    """True when the database did not answer or could not acknowledge: the same request may succeed in a moment."""
    if isinstance(error, (ConnectionFailure, WTimeoutError, ExecutionTimeout, WriteConcernError)):
        return True  # ConnectionFailure covers AutoReconnect, NetworkTimeout, ServerSelectionTimeoutError, WaitQueue
    if isinstance(error, BulkWriteError):
        details = error.details
        return bool(details["writeConcernErrors"]) or any(
            failure["code"] in _STEPPING_DOWN for failure in details["writeErrors"]
        )
    return isinstance(error, OperationFailure) and (
        error.has_error_label("RetryableWriteError")
        or error.has_error_label("TransientTransactionError")
        or error.code in _STEPPING_DOWN
    )


# Codes of a server that starts, stops or is no longer primary (state change errors of the driver specification).
_STEPPING_DOWN = frozenset({91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 133})
