"""Reading what a majority has, as of now: also from a primary that was elected a moment ago.

A new primary has everything that was ever acknowledged. But read concern majority shows only what it knows a majority
to have, and of the newest it does not know that until the first entry of its own term has reached a majority: for a
moment, on a busy machine for seconds, it shows a state that is older than answers that were given. A linearizable read
waits until it knows, at a price that only the first read after an election pays.

MongoDB manual: Read Concern "majority", Availability; Raft, section 8 (a leader must commit an entry of its term before
it knows what is committed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from bson import ObjectId
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.server_type import SERVER_TYPE

from loyalty.infra.mongo import Document, Mongo

T = TypeVar("T")

_settled: Final[WeakKeyDictionary[MongoClient[Document], ObjectId]] = WeakKeyDictionary()
"""The election of each client's replica set whose winner is known to know what a majority has."""


def as_of_now(db: Mongo, collection: str, read: Callable[[Mongo], T]) -> T:
    """What `read` finds with read concern majority; nothing that was acknowledged before the call is missing.

    `collection` is one that the caller's user may read; `read` may be called again when another primary was elected
    meanwhile. A primary that has lost its followers and does not know it yet is not recognized: what it shows is true,
    and may be out of date by less than the election timeout.
    """
    lasting = db.with_options(read_concern=ReadConcern("majority"))
    while True:
        election = _election(db.client)
        if election is None or _settled.get(db.client) != election:
            _settle(db, collection)
            if election is None or _election(db.client) != election:
                continue
            _settled[db.client] = election
        found = read(lasting)
        # The driver repeats a read that has lost its primary, and asks the next one, which may have been elected since.
        if _election(db.client) == election:
            return found


def _settle(db: Mongo, collection: str) -> None:
    """Wait until the primary knows what a majority has. The document need not exist."""
    primary = db[collection].with_options(
        read_concern=ReadConcern("linearizable"), read_preference=ReadPreference.PRIMARY
    )
    primary.find_one({"_id": 0}, {"_id": 1})


def _election(client: MongoClient[Document]) -> ObjectId | None:
    """Which election has made the primary, as the driver knows it; None while it knows of no primary."""
    for server in client.topology_description.server_descriptions().values():
        if server.server_type == SERVER_TYPE.RSPrimary:
            return server.election_id
    return None
