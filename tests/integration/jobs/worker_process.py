"""A scheduler process for the lease tests: one job every second, whose runs can be counted afterwards.

Run as `python -m tests.integration.jobs.worker_process URI DATABASE NODE`.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from loyalty.config import load_settings
from loyalty.infra.mongo import connect
from loyalty.jobs.model import PeriodicJob, Work
from loyalty.jobs.worker import Worker, run_until_signalled


def leave_a_mark(work: Work, slot: datetime) -> None:
    """Deliberately not idempotent: a slot that runs twice leaves two marks."""
    work.db.marks.insert_one(
        {"slot": slot, "node": work.settings.node_name, "pid": os.getpid(), "term": work.turn.term}
    )


if __name__ == "__main__":
    uri, database, node = sys.argv[1:]
    settings = load_settings(
        mongo_uri=uri,
        secret_key="s" * 32,
        seal_key="A" * 43 + "=",
        storage_path=Path("/nonexistent"),
        node_name=node,
    )
    job = PeriodicJob("mark", "Leaves a mark.", timedelta(seconds=1), leave_a_mark)
    db = connect(uri, database, serves_requests=False)
    run_until_signalled(Worker(db, settings, [job], lease_seconds=3.0, renew_seconds=0.5))
