"""The points ledger: the database of record. One kind of document, one function that writes it, and no updates.

`state` is the pure arithmetic, `entry` the document and its hash, `append` the writer, `heads` the reader;
`projection`, `seal` and `verify` follow what was written. Nothing here knows of HTTP, of a feature, or of the time:
instants and keys are handed in.
"""

from pymongo import ASCENDING, IndexModel

INDEXES = {
    "ledger": [IndexModel([("keys", ASCENDING)], name="keys", unique=True)],
    "wallets": [IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program")],
}
"""What the collections of this package need beside `_id`."""

__all__ = ["INDEXES"]
