"""What the driver and the database can do at most: insert_many of entries like the ledger's, and nothing else.

Run as `python raw.py SECONDS SIZE`, with BENCH_MONGO_URI and, in standard input, one entry as extended JSON whose like
is inserted: random keys under the ledger's unique index, random hashes, ascending `_id`. Only the time in insert_many
counts. Majority and journal, one connection. Writes one JSON object: documents, seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from bson import json_util
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern


def main() -> None:
    seconds, size = float(sys.argv[1]), int(sys.argv[2])
    like: dict[str, Any] = json_util.loads(sys.stdin.read())
    with MongoClient[dict[str, Any]](os.environ["BENCH_MONGO_URI"]) as client:
        database = client.loyalty_bench
        database.raw.drop()
        database.raw.create_index("keys", unique=True)
        collection = database.get_collection("raw", write_concern=WriteConcern(w="majority", j=True))
        documents, elapsed = 0, 0.0
        while elapsed < seconds:
            entries = [_entry(like, documents + number) for number in range(size)]
            began = time.perf_counter()
            collection.insert_many(entries, ordered=False)
            elapsed += time.perf_counter() - began
            documents += size
        database.raw.drop()
    print(json.dumps({"documents": documents, "seconds": elapsed}))


def _entry(like: dict[str, Any], number: int) -> dict[str, Any]:
    return {**like, "_id": Int64(number), "keys": [os.urandom(16)], "prev": os.urandom(32), "hash": os.urandom(32)}


if __name__ == "__main__":
    main()
