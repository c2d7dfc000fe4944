"""Free space over time, kept in the site's directory, so that a disk that fills up is noticed before it is full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loyalty.ops.checks.catalogue import Seen
from loyalty.ops.checks.seen import states

FILE = "disks.json"
AT_MOST_EVERY_SECONDS = 3600
KEPT_SECONDS = 30 * 86400


def remember(directory: Path, seen: Seen, now: float) -> list[dict[str, Any]]:
    """Add what was just seen to the samples of the last 30 days, at most once an hour, and return them all."""
    file = directory / FILE
    samples: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    if samples and now - samples[-1]["at"] < AT_MOST_EVERY_SECONDS:
        return samples
    samples = [sample for sample in samples if now - sample["at"] < KEPT_SECONDS]
    for host, state in states(seen):
        for path, disk in state["disks"].items():
            if disk:
                samples.append({"at": int(now), "host": host, "path": path, "free_bytes": disk["free_bytes"]})
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(samples), encoding="utf-8")
    draft.chmod(0o600)
    draft.replace(file)
    return samples
