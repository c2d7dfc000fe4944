"""What the driver and the database can do at most: insert_many of documents like the ledger's, and nothing else.

Run as `python raw.py SECONDS SIZE`, with BENCH_MONGO_URI and, in standard input, one document as extended JSON whose
like is inserted. Writes one JSON object with documents, seconds. Majority and journal, one connection, _id index only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from bson import json_util
from bson.objectid import ObjectId
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern


def main() -> None:
    seconds, size = float(sys.argv[1]), int(sys.argv[2])
    like: dict[str, Any] = json_util.loads(sys.stdin.read())
    with MongoClient[dict[str, Any]](os.environ["BENCH_MONGO_URI"]) as client:
        concern = WriteConcern(w="majority", j=True)
        collection = client.loyalty_bench.get_collection("raw", write_concern=concern)
        documents = 0
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            collection.insert_many([{**like, "_id": ObjectId()} for _ in range(size)], ordered=False)
            documents += size
        elapsed = time.perf_counter() - started
        collection.drop()
    print(json.dumps({"documents": documents, "seconds": elapsed}))


if __name__ == "__main__":
    main()
