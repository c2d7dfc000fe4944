"""What a long history costs: purchases of a member of many years against purchases of a new one.

    python -m tests.bench.history

Servers of its own. The old member has 10,000 entries and 60 open lots, one for each of the next 60 days; the new ones
have none. Requests take turns, so both see the same machine. The ratio of the medians must stay below 1.5, and an
entry of the old member below 4 KB.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import bson
import httpx

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft
from loyalty.ledger.heads import read_entries
from loyalty.ledger.movements import credit
from loyalty.ledger.state import State
from loyalty.members import service as members
from tests.servers import Application, Mongod, Redis, new_program

ENTRIES = 10_000
LOTS = 60
ROUNDS = 1_500
MOST_RATIO = 1.5
MOST_BYTES = 4_096

RULES = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}


def main() -> int:
    """Exit code 1 when a limit is missed."""
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory:
        servers = Mongod(Path(directory) / "mongod"), Redis(Path(directory) / "redis")
        mongod, redis = servers
        try:
            for server in servers:
                server.start()
            key = new_program(mongod.uri, "loyalty")
            app = Application(
                Path(directory) / "app",
                mongo_uri=mongod.uri,
                database="loyalty",
                redis_url=redis.url,
                rate_limit_per_minute="0",
            )
            try:
                app.start()
                return measure(app.url, key, connect(mongod.uri, "loyalty", serves_requests=False))
            finally:
                app.stop()
        finally:
            for server in servers:
                server.stop()


def measure(url: str, key: str, db: Mongo) -> int:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as api:
        api.post("/v1/rules/versions", json=RULES).raise_for_status()
        purchase(api, "old")
        program = db.programs.find_one({"_id": {"$ne": ""}}) or {}
        number = members.find(db, program["_id"], "ext:old").number
        live_long(db, program["_id"], number)
        taken: dict[str, list[float]] = {"old": [], "new": []}
        for turn in range(ROUNDS):
            for name, member in (("old", "old"), ("new", f"new-{turn % 50}")):
                began = time.perf_counter()
                purchase(api, member)
                if turn >= 50:  # by then every new member is enrolled
                    taken[name].append(time.perf_counter() - began)
    newest = read_entries(db.ledger, number, before=None, limit=1)[0]
    size = len(bson.encode(newest))
    medians = {name: statistics.median(samples) for name, samples in taken.items()}
    ratio = medians["old"] / medians["new"]
    print(f"entries {ENTRIES:,}, open lots {len(newest['state']['wallets']['points']['lots'])}")
    print(f"median of the old member {medians['old'] * 1e3:.2f} ms, of a new one {medians['new'] * 1e3:.2f} ms")
    print(
        f"ratio {ratio:.2f} (at most {MOST_RATIO}); an entry of the old member {size:,} bytes (at most {MOST_BYTES:,})"
    )
    return 0 if ratio <= MOST_RATIO and size <= MOST_BYTES else 1


def purchase(api: httpx.Client, member: str) -> None:
    event = {
        "source": "bench",
        "id": secrets.token_hex(8),
        "type": "purchase",
        "member": {"external_id": member},
        "amount": "11.77",
        "currency": "USD",
    }
    api.post("/v1/events", json=event).raise_for_status()


def live_long(db: Mongo, program: str, member: int) -> None:
    """Entries of awards whose points expire on one of the next days."""
    tomorrow = system_clock().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)

    def award(place: int) -> Operation:
        def decide(state: State, sequence: int, now: datetime) -> Draft:
            expires_at = tomorrow + timedelta(days=place % LOTS)
            postings = credit(state, "points", 7, source="issuance", sequence=sequence, expires_at=expires_at)
            return Draft("earn", now, postings, {})

        return Operation(program, member, (secrets.token_bytes(16),), b"", decide)

    for start in range(0, ENTRIES, 1000):
        append(db.ledger, [award(start + place) for place in range(1000)], clock=system_clock)


if __name__ == "__main__":
    sys.exit(main())
