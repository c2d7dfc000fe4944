"""A process that settles, for the test that kills it: small batches, so that there is a middle.

Run as `python -m tests.integration.jobs.settlement_process URI DATABASE INSTANT`.
"""

from __future__ import annotations

import sys
from datetime import datetime

from loyalty.infra.mongo import connect
from loyalty.jobs import settlement

if __name__ == "__main__":
    uri, database, instant = sys.argv[1:]
    now = datetime.fromisoformat(instant)
    settlement.BATCH = 50  # type: ignore[misc]
    for _ in settlement.settlements(connect(uri, database, serves_requests=False), clock=lambda: now):
        pass
