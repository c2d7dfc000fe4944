"""What the target holds and how it goes, for whoever asks: an operator, or a check of the site."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from loyalty.backup.manifest import Archive, Target, read_catalogue
from loyalty.backup.records import alarms, runs
from loyalty.backup.target import free_bytes


def status(target: Target, now: datetime) -> dict[str, Any]:
    """The newest of each kind, how far the log reaches, the last run of each kind and the alarms. Ages in seconds."""
    catalogue = read_catalogue(target)
    fulls = [archive for archive in catalogue.physical if archive.kind == "full"]
    incrementals = [archive for archive in catalogue.physical if archive.kind == "incremental"]
    last_runs = {run.kind: run for run in runs(target)}
    spans = catalogue.spans
    return {
        "target": str(target.root),
        "free_bytes": free_bytes(target),
        "alarms": alarms(target),
        "damaged": list(catalogue.damaged),
        "newest": {
            "full": _newest(fulls, now),
            "incremental": _newest(incrementals, now),
            "log": _newest(catalogue.slices, now),
            "dump": _newest(catalogue.dumps, now),
            "files": _newest(catalogue.files, now),
        },
        "log": [{"from": span.from_.instant, "to": span.to.instant, "slices": len(span.slices)} for span in spans],
        "runs": {kind: msgspec.to_builtins(run) for kind, run in last_runs.items()},
    }


def _newest(archives: Sequence[Archive], now: datetime) -> dict[str, Any] | None:
    if not archives:
        return None
    archive = max(archives, key=lambda one: one.to)
    return {
        "id": archive.id,
        "at": archive.at,
        "age_s": round(now.timestamp() - archive.to.t),
        "bytes": archive.bytes,
        "stored_bytes": archive.stored_bytes,
        "took_s": archive.took_s,
        "locked_s": archive.locked_s,
        "server": archive.server,
        "role": archive.role,
    }
