"""Background work: one process, `python -m loyalty jobs run`, in its own unit, never inside gunicorn.

Several nodes may run it; a lease in MongoDB decides which one works, the others stand by. What runs when is
the table in `schedule.py`. Every job is idempotent by its period, so a crash at any instant is repaired by
running it again.

For the unit file: `Type=notify` (READY=1 once the lease loop runs, also while MongoDB is away),
`WatchdogSec=60` (fed every few seconds as long as the loop and the follower move), `TimeoutStopSec=15`
(SIGTERM ends it within 10 s and releases the lease), `Restart=always`. It needs the application's settings
and credentials, write access to `storage_path`, no listening socket, and less than 150 MB of memory.
"""

from pymongo import IndexModel

INDEXES = {
    "jobs": [],
    "leases": [],
    "positions": [],
    "seals": [IndexModel("sealed_at", name="sealed_at")],
}
"""What the collections of this package need beside `_id`; the daily seal file is looked up by time."""
