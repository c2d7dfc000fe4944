"""A scheduler process whose job takes a while and writes late, for the tests of fencing.

Run as `python -m tests.integration.jobs.slow_worker_process URI DATABASE NODE`. The lease is that of a real site. The
job runs once in an hour. It leaves a mark, waits until it is told to go on, and then writes what it has done.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from loyalty.config import load_settings
from loyalty.infra.mongo import connect
from loyalty.jobs import records
from loyalty.jobs.model import PeriodicJob, Work
from loyalty.jobs.worker import Worker, run_until_signalled


def work_slowly(work: Work, slot: datetime) -> None:
    """Deliberately without `turn.check()`: only the database can refuse what is written here too late."""
    node = work.settings.node_name
    work.db.marks.insert_one({"slot": slot, "node": node, "term": work.turn.term})
    while work.db.signals.find_one({"_id": node}) is None:
        time.sleep(0.05)  # a poll: the test lets it go on by a document
    records.progress(work.db, "slow", turn=work.turn, items=1)
    work.db.ends.insert_one({"node": node})


if __name__ == "__main__":
    uri, database, node = sys.argv[1:]
    settings = load_settings(
        mongo_uri=uri,
        secret_key="s" * 32,
        seal_key="A" * 43 + "=",
        storage_path=Path("/nonexistent"),
        node_name=node,
    )
    job = PeriodicJob("slow", "Works slowly.", timedelta(hours=1), work_slowly)
    run_until_signalled(Worker(connect(uri, database, serves_requests=False), settings, [job]))
