"""What `status` says, as Prometheus reads it: for the text-file collector of its node exporter.

Ages are not among them, but the instants from which they are counted: so a file that is not written any more shows it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from loyalty.backup.manifest import Target, write_whole
from loyalty.backup.status import status
from loyalty.infra.clock import system_clock


def write_metrics(target: Target, output: Path) -> None:
    """Replace the file of a text-file collector, which runs as somebody else."""
    write_whole(output, as_text(status(target, system_clock())))
    output.chmod(0o644)


def as_text(found: dict[str, Any]) -> bytes:
    """The metrics of a status."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest  # a web server comes with it

    registry = CollectorRegistry()

    def gauge(name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"loyalty_backup_{name}", help, labels, registry=registry)

    newest = gauge("newest_timestamp_seconds", "The instant up to which the newest archive of a kind reaches.", "kind")
    size = gauge("newest_bytes", "Size of what the newest archive of a kind holds.", "kind")
    stored = gauge("newest_stored_bytes", "What the newest archive of a kind added to the target.", "kind")
    took = gauge("newest_duration_seconds", "How long it took to take the newest archive of a kind.", "kind")
    locked = gauge("newest_locked_seconds", "How long the member took no writes for the newest copy of a kind.", "kind")
    for kind, archive in found["newest"].items():
        if archive is not None:
            newest.labels(kind).set(_seconds(archive["at"]))
            size.labels(kind).set(archive["bytes"])
            stored.labels(kind).set(archive["stored_bytes"])
            took.labels(kind).set(archive["took_s"])
            if kind in ("full", "incremental"):
                locked.labels(kind).set(archive["locked_s"])
    last = gauge("run_timestamp_seconds", "When the last run of a command ended.", "command")
    ok = gauge("run_ok", "Whether the last run of a command succeeded.", "command")
    for command, run in found["runs"].items():
        last.labels(command).set(_seconds(run["ended"]))
        ok.labels(command).set(run["ok"])
    verified = gauge("verified_timestamp_seconds", "When something of a kind was last read and found whole.", "kind")
    for kind, at in found["verified"].items():
        verified.labels(kind).set(_seconds(at))
    proven = gauge("proven_timestamp_seconds", "When the last drill began that proved a restore.")
    if found["proven"] is not None:
        proven.set(_seconds(found["proven"]["at"]))
    gauge("free_bytes", "Room on the target.").set(found["free_bytes"])
    full_at = gauge("full_timestamp_seconds", "When the target will be full if it goes on as lately.")
    if found["forecast"]["full_at"] is not None:
        full_at.set(found["forecast"]["full_at"].timestamp())
    else:
        full_at.set(float("inf"))
    if found["log"]:
        reach = gauge("log_timestamp_seconds", "The stretch of the log without a gap that ends last.", "end")
        reach.labels("from").set(found["log"][-1]["from"].timestamp())
        reach.labels("to").set(found["log"][-1]["to"].timestamp())
    gauge("alarms", "Alarms that stand.").set(len(found["alarms"]) + len(found["damaged"]))
    return generate_latest(registry)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
