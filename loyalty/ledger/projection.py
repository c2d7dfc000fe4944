"""The `wallets` collection: the latest state of each member, for lists, reports and jobs.

A projection follows the ledger and can be dropped and rebuilt from it, giving identical documents. It may lag, so no
balance is answered and nothing is decided from it. Applying an entry twice, or after a newer one, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from bson.int64 import Int64
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from loyalty.infra.mongo import Mongo
from loyalty.ledger.entry import SEQUENCE_BITS, member_of, sequence_of
from loyalty.ledger.movements import next_due
from loyalty.ledger.state import Document, State

_FIELDS = {"program": 1, "recorded_at": 1, "state": 1}
_MEMBERS: Final = 1000
"""How many are rebuilt together."""


def wallet_document(entry: Mapping[str, Any]) -> Document:
    """The projection of one entry. `due_at` is when time alone changes the member's points or tier next."""
    state = entry["state"]
    document = {
        "_id": member_of(entry["_id"]),
        "program": entry["program"],
        "sequence": sequence_of(entry["_id"]),
        "recorded_at": entry["recorded_at"],
        "wallets": state["wallets"],
    }
    if "facets" in state:
        document["facets"] = state["facets"]
    due_at = next_due(State.of(state))
    if due_at is not None:
        document["due_at"] = due_at
    return document


def project(db: Mongo, entries: Iterable[Mapping[str, Any]]) -> int:
    """Bring the wallets of these entries' members up to them; how many documents were written."""
    newest: dict[int, Document] = {}
    for entry in entries:
        document = wallet_document(entry)
        known = newest.get(document["_id"])
        if known is None or known["sequence"] < document["sequence"]:
            newest[document["_id"]] = document
    if not newest:
        return 0
    writes = [
        ReplaceOne({"_id": member, "sequence": {"$lt": document["sequence"]}}, document, upsert=True)
        for member, document in newest.items()
    ]
    try:
        result = db.wallets.bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        # A newer document stands there already: the filter did not match it, so the upsert met its _id.
        failures = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(failure["code"] != 11000 for failure in failures):
            raise
        return len(writes) - len(failures)
    return result.upserted_count + result.modified_count


def rebuild(db: Mongo, *, progress: Callable[[int], None] = lambda entries: None) -> int:
    """Make the projection anew from the whole ledger; the number of wallets. Safe while the ledger is written.

    `progress` is called with the number of entries whose members have their wallets.
    """
    db.wallets.delete_many({})
    wallets = entries = 0
    for ends in _ends(db):
        project(db, db.ledger.find({"_id": {"$in": [end["last"] for end in ends]}}, _FIELDS))
        wallets += len(ends)
        entries += sum(end["entries"] for end in ends)
        progress(entries)
    return wallets


def _ends(db: Mongo) -> Iterator[list[Document]]:
    """For some members after the others, the last entry of each and how many there are. The index alone answers."""
    begin = 1 << SEQUENCE_BITS
    while first := db.ledger.find_one({"_id": {"$gte": Int64(begin)}}, {"_id": 1}, sort=[("_id", 1)]):
        begin = member_of(first["_id"]) << SEQUENCE_BITS
        end = begin + (_MEMBERS << SEQUENCE_BITS)
        stages: list[Document] = [
            {"$match": {"_id": {"$gte": Int64(begin), "$lt": Int64(end)}}},
            {"$project": {"_id": 1}},
            {
                "$group": {
                    "_id": {"$subtract": ["$_id", {"$mod": ["$_id", 1 << SEQUENCE_BITS]}]},
                    "last": {"$max": "$_id"},
                    "entries": {"$sum": 1},
                }
            },
        ]
        yield list(db.ledger.aggregate(stages))
        begin = end
