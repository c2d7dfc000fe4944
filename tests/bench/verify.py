"""How fast the ledger is verified: `python -m tests.bench.verify [--entries N] [--processes N]`.

Fills a ledger of its own with entries of every kind, seals and projects it, reads it raw (the database's and the
driver's share: nothing is decoded), and verifies it: chains, states, seals, projection. Writes one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import connect
from loyalty.ledger import INDEXES
from loyalty.ledger.projection import rebuild
from loyalty.ledger.seal import Sealer
from loyalty.ledger.verify import verify
from tests.chains import fill
from tests.servers import Mongod

_LENGTH = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loyalty-") as directory:
        server = Mongod(Path(directory))
        server.start()
        try:
            figures = _measure(server.uri, options.entries, options.processes)
        finally:
            server.stop()
    json.dump(figures, sys.stdout, indent=2)
    print()


def _measure(uri: str, entries: int, processes: int) -> dict[str, object]:
    db = connect(uri, "bench", serves_requests=False)
    for collection, indexes in INDEXES.items():
        db[collection].create_indexes(indexes)
    made = fill(db, members=2 * (entries // (2 * _LENGTH) + 1), length=_LENGTH)
    rebuild(db)
    key = Ed25519PrivateKey.generate()
    sealer = Sealer(db, key)
    while sealer.seal(system_clock()) is not None:
        pass
    began = time.perf_counter()
    size = sum(len(batch) for batch in db.ledger.find_raw_batches({}, sort=[("_id", 1)]))
    raw_seconds = time.perf_counter() - began
    before = _processor_seconds()
    began = time.perf_counter()
    found = verify(db, uri=uri, processes=processes, seal_key=key.public_key())
    seconds = time.perf_counter() - began
    processor = _processor_seconds() - before
    db.client.close()
    if not found.ok or found.entries != made or found.sealed_entries != made:
        raise SystemExit(f"the ledger is not whole: {found}")
    return {
        "entries": found.entries,
        "members": found.chains,
        "seals": found.seals,
        "bytes_an_entry": size // found.entries,
        "processes": processes,
        "raw_entries_per_second": round(found.entries / raw_seconds),
        "verified_entries_per_second": round(found.entries / seconds),
        "ratio_to_raw": round(raw_seconds / seconds, 3),
        # Without mongod's share. On a busy machine this says more than the rate.
        "processor_microseconds_an_entry": round(processor * 1e6 / found.entries, 1),
    }


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
