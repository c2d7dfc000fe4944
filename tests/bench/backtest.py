"""How fast rules are tried on what happened: `python -m tests.bench.backtest [--purchases N] [--processes N]`.

Fills a ledger of its own with a real shop's purchases, as a program with one rule recorded them, and back-tests the
rich program over it: another rule set with a cap and a multiplier, points that wait and expire, and tiers. Beside it
the same documents are only read and decoded. One process decides unless told otherwise; the database has processors of
its own. Writes one JSON object. Seconds of the processor are those of the deciding process: on a machine that others
use at the same time they say what a core does, and the clock on the wall does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bson.int64 import Int64
from pymongo.write_concern import WriteConcern

from loyalty.backtests import running
from loyalty.backtests.evaluation import Plan
from loyalty.backtests.running import parts_of
from loyalty.backtests.totals import Totals
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.entry import member_of
from loyalty.migrations import migrate
from loyalty.ops.demo import purchases
from loyalty.programs import service as programs
from tests import cdnow
from tests.servers import Mongod

PLAIN: dict[str, Any] = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}
_BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--purchases", type=int, help="Only the first ones. Default: all.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loyalty-") as directory:
        server = Mongod(Path(directory))
        server.start()
        try:
            figures = _measure(server.uri, options.purchases, options.rounds, options.processes)
        finally:
            server.stop()
    json.dump(figures, sys.stdout, indent=2)
    print()


def fill(db: Mongo, limit: int | None = None) -> int:
    """The shop's purchases as a program with one rule recorded them, and its members; how many purchases."""
    migrate(db, release="bench", clock=system_clock)
    program = cdnow.terms(policies=cdnow.POLICIES, rules=PLAIN, tiers=None)
    db.programs.insert_one(program.program.to_document())
    ledger = db.ledger.with_options(write_concern=WriteConcern(w=1))
    entries: list[dict[str, Any]] = []
    count = 0
    for number, chain in enumerate(cdnow.chains(program, purchases(limit)), start=1):
        db.members.insert_one(_member(member_of(chain[0]["_id"]), program.program.id))
        for entry in chain:
            entries.append({**entry, "keys": [number.to_bytes(8, "big") + entry["_id"].to_bytes(8, "big")]})
        count += len(chain)
        if len(entries) >= _BATCH:
            ledger.insert_many(entries)
            entries = []
    if entries:
        ledger.insert_many(entries)
    return count


def spec() -> dict[str, Any]:
    """The back-test of the rich program over everything, each purchase decided when it happened."""
    return {
        "program": "cdnow",
        "rules": cdnow.RULES,
        "tiers": cdnow.TIERS,
        "from": None,
        "to": cdnow.CLOSED,
        "clock": "occurred",
        "segments": ["tier"],
    }


def _member(number: int, program: str) -> dict[str, Any]:
    instants = {"created_at": cdnow.OPENED, "updated_at": cdnow.OPENED}
    handles = [f"ext:{number:05d}"]
    return {
        "_id": Int64(number),
        "program": program,
        "handles": handles,
        "status": "active",
        "profile": {},
        "version": 1,
        **instants,
    }


def _measure(uri: str, limit: int | None, rounds: int, processes: int) -> dict[str, object]:
    db = connect(uri, "bench", serves_requests=False)
    made = fill(db, limit)
    programs.read(db, "cdnow")
    reads, decides, busy = [], [], []
    totals = Totals()
    gc.disable()  # as in the processes that share a back-test
    for _ in range(rounds):  # in turns, so that whatever else this machine does meets both alike
        reads.append(_seconds_of(_read(db)))
        before = time.process_time()
        began = time.perf_counter()
        totals, events = Totals(), 0
        for done in running.run(
            db, spec(), parts_of(db, "cdnow"), uri=uri if processes > 1 else None, processes=processes
        ):
            totals.merge(done.totals)
            events += done.events
        decides.append(time.perf_counter() - began)
        busy.append(time.process_time() - before)
        if events != made:
            raise SystemExit(f"{made} purchases were recorded and {events} decided")
    db.client.close()
    figures: dict[str, object] = {
        "events": made,
        "members": totals.sums["members",],
        "points_issued": totals.sums["issued", "points", "draft"],
        "processes": processes,
        "events_per_second": round(made / statistics.median(decides)),
        "read_per_second": round(made / statistics.median(reads)),
        "ratio_to_reading": round(statistics.median(read / took for read, took in zip(reads, decides, strict=True)), 3),
    }
    if processes == 1:
        figures["events_per_second_of_the_processor"] = round(made / statistics.median(busy))
    return figures


def _read(db: Mongo) -> Iterator[object]:
    """The same documents, read and decoded as a back-test reads them, and nothing else."""
    plan: Plan = running.plan_of(db, spec())
    for part in parts_of(db, "cdnow"):
        for _, _, entries in running.histories(db, plan, part):
            yield from entries


def _seconds_of(documents: Iterator[object]) -> float:
    began = time.perf_counter()
    for _ in documents:
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
