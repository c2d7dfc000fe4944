"""What the target holds and how it goes, for whoever asks: an operator, or a check of the site."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from loyalty.backup.certificate import Certificate
from loyalty.backup.clocks import from_the_future
from loyalty.backup.manifest import Archive, Catalogue, Target, read_catalogue
from loyalty.backup.proof import last_proven
from loyalty.backup.records import Run, alarms, runs
from loyalty.backup.room import outlook
from loyalty.backup.running import under_way
from loyalty.backup.target import free_bytes
from loyalty.backup.verify import State, read_state

_RECENT: Final = 8


def status(target: Target, now: datetime) -> dict[str, Any]:
    """The newest of each kind, how far the log reaches, what runs now, the last runs, and of each command the last one,
    when each kind was last verified, which restore was proven last, when the target will be full, and the alarms. Ages
    in seconds."""
    catalogue = read_catalogue(target)
    fulls = [archive for archive in catalogue.physical if archive.kind == "full"]
    incrementals = [archive for archive in catalogue.physical if archive.kind == "incremental"]
    future = outlook(target, now=now)
    history = list(runs(target))
    last_runs = {run.kind: run for run in history}
    spans = catalogue.spans
    proven = last_proven(target)
    return {
        "target": str(target.root),
        "free_bytes": free_bytes(target),
        "alarms": _of_clocks(catalogue, proven, now) | alarms(target),
        "damaged": list(catalogue.damaged),
        "newest": {
            "full": _newest(fulls, now),
            "incremental": _newest(incrementals, now),
            "log": _newest(catalogue.slices, now),
            "dump": _newest(catalogue.dumps, now),
            "files": _newest(catalogue.files, now),
            "site": _newest(catalogue.site, now),
        },
        "log": [{"from": span.from_.instant, "to": span.to.instant, "slices": len(span.slices)} for span in spans],
        "verified": _verified(read_state(target)),
        "proven": proven
        and {
            "id": proven.id,
            "at": proven.at,
            "age_s": round((now - proven.began).total_seconds()),
            "rto_seconds": proven.rto_seconds,
            "rpo_seconds": proven.rpo_seconds,
        },
        "forecast": {
            "growth_bytes_per_day": future.growth_per_day if future else None,
            "full_at": future.full_at if future else None,
        },
        "running": [msgspec.to_builtins(run) for run in under_way(target)],
        "recent": [{**msgspec.to_builtins(run), "took_s": run.took_s} for run in _worth_telling(history)[-_RECENT:]],
        "runs": {kind: msgspec.to_builtins(run) for kind, run in last_runs.items()},
    }


def _of_clocks(catalogue: Catalogue, proven: Certificate | None, now: datetime) -> dict[str, str]:
    """An alarm when what is kept is from the future: by its age it would never be late."""
    archives = (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files, *catalogue.site)
    known = [(f"{archive.kind} {archive.id}", archive.to.instant) for archive in archives]
    known += [(f"last proven restore, {proven.id},", proven.began)] if proven else []
    sentence = from_the_future(known, now=now)
    return {"clock": sentence} if sentence else {}


def _worth_telling(history: Sequence[Run]) -> list[Run]:
    """The log is archived so often that it would leave no room for others."""
    return [run for run in history if run.kind != "log" or not run.ok]


def _verified(state: State) -> dict[str, str]:
    """When each kind was last read and found whole, ISO 8601, UTC. A chain is a full with its incrementals."""
    found: dict[str, str] = {}
    for key, at in state.read_at.items():
        kind = key.partition("/")[0]
        if key not in state.damaged and kind not in ("gap", "manifest"):
            found[kind] = max(at, found.get(kind, ""))
    return found


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
