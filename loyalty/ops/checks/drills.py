"""What must have been tried lately."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import days_since, hosts_of

HISTORIES = {"failover": "failover_drills.jsonl", "restore": "restore_drills.jsonl"}


@check("failover drill", "The last failover drill lost nothing, and is not long ago", level="notice")
def failover_drill(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    if len(hosts_of(seen, "mongodb")) < 3:
        return
    last = seen["drills"].get("failover")
    type_this = f"./appliance failover --drill --site {seen['site']}"
    if last is None:
        yield "site", "a failover was never rehearsed", type_this
    elif not last["ok"]:
        yield "site", f"the failover drill of {last['at'][:10]} was not passed", f"See what it said, then: {type_this}"
    elif days_since(seen, last["at"]) > limits.drill_days:
        yield "site", f"the last failover drill was {days_since(seen, last['at']):.0f} days ago", type_this


def last(directory: Path) -> dict[str, Any]:
    """The last drill of each kind that was done from here, out of the histories in the site's directory."""
    found: dict[str, Any] = {}
    for kind, name in HISTORIES.items():
        file = directory / name
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        found[kind] = json.loads(lines[-1]) if lines else None
    return found


def unfinished_restore(directory: Path) -> dict[str, Any] | None:
    """The restore into the site that has begun and not ended."""
    file = directory / "restore.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
