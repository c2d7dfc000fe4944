"""The points ledger: the database of record. One kind of document, one function that writes it, and no updates.

`state` and `movements` are the pure arithmetic, `entry` the document and its hash, `append` the writer, `heads` the
reader; `projection`, `seal` and `verify` follow what was written. Nothing here knows of HTTP, of a feature, or of the
time: instants and keys are handed in.
"""

from pymongo import ASCENDING, IndexModel

INDEXES = {
    "ledger": [IndexModel([("keys", ASCENDING)], name="keys", unique=True)],
    "wallets": [
        IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program"),
        IndexModel([("due_at", ASCENDING)], name="due_at", sparse=True),
    ],
}
"""What the collections of this package need beside `_id`."""

VALIDATORS = {
    "ledger": {
        "$jsonSchema": {
            "bsonType": "object",
            "required": [
                "_id",
                "program",
                "keys",
                "kind",
                "occurred_at",
                "recorded_at",
                "postings",
                "evidence",
                "state",
                "prev",
                "hash",
            ],
            "properties": {
                "_id": {"bsonType": "long"},
                "program": {"bsonType": "string"},
                "keys": {"bsonType": "array", "minItems": 1, "items": {"bsonType": "binData"}},
                "kind": {"bsonType": "string"},
                "occurred_at": {"bsonType": "date"},
                "recorded_at": {"bsonType": "date"},
                "postings": {"bsonType": "array", "items": {"bsonType": "object"}},
                "evidence": {"bsonType": "object", "required": ["request"]},
                "state": {"bsonType": "object", "required": ["wallets"]},
                "lapses": {"bsonType": "object"},
                "touches": {"bsonType": "array", "items": {"bsonType": "string"}},
                "prev": {"bsonType": "binData"},
                "hash": {"bsonType": "binData"},
            },
        }
    }
}
"""What MongoDB itself refuses to store: a last fence against a tool or a release that is mistaken about an entry."""

__all__ = ["INDEXES", "VALIDATORS"]
