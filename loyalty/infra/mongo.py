"""The connection to MongoDB: one client a process, made after the fork, with time limits that were measured.

A request must be answered within 5 s even when the primary hangs (frozen, cable pulled), so a client that serves
requests gives up on an answer after 2.5 s and, when the driver then tries again, on finding a server after 1.5 s.
Writes are acknowledged by a majority and journalled: what was acknowledged survives any single failure.
"""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

Document = dict[str, Any]
Mongo = Database[Document]

_MAJORITY = WriteConcern(w="majority", j=True)


def connect(uri: str, database: str, *, serves_requests: bool = True, pool: int = 32) -> Mongo:
    """The database behind `uri`, connected lazily.

    `serves_requests` bounds every wait; jobs and tools, whose scans run for minutes, pass False.
    `pool` is the most connections at a time; give it the number of threads.
    """
    client: MongoClient[Document] = MongoClient(
        uri,
        tz_aware=True,
        appname="loyalty",
        connectTimeoutMS=1500,
        serverSelectionTimeoutMS=1500 if serves_requests else 2000,
        heartbeatFrequencyMS=1000,
        maxPoolSize=pool,
        connect=False,
        socketTimeoutMS=2500 if serves_requests else None,
    )
    return Database(client, database, write_concern=_MAJORITY, read_concern=ReadConcern("local"))
