"""Sixteen processes over fifty members for some seconds: as if everybody had waited for their turn."""

from __future__ import annotations

import secrets

from loyalty.infra.mongo import connect
from tests.concurrency.check import judge
from tests.concurrency.traffic import prepare, run
from tests.servers import Mongod

SECONDS = 10


def test_nothing_is_overspent_lost_doubled_or_out_of_order(mongod: Mongod) -> None:
    """Cases 3.1, 3.3, 3.4 and 3.28, all at once."""
    database = f"test_{secrets.token_hex(8)}"
    plan, calls = prepare(mongod.uri, database, count=50, seconds=SECONDS)
    calls += run(plan, 16)
    db = connect(mongod.uri, database, serves_requests=False)
    try:
        verdict = judge(db, calls)
    finally:
        db.client.drop_database(database)
        db.client.close()
    assert verdict.wrong == []
    assert verdict.entries > 50
