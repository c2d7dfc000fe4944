"""What `status` says, as Prometheus reads it: for the text-file collector of its node exporter.

Ages are not among them, but the instants from which they are counted: so a file that is not written any more shows it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest


def as_text(status: dict[str, Any]) -> bytes:
    """The metrics of a status."""
    registry = CollectorRegistry()

    def gauge(name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"loyalty_backup_{name}", help, labels, registry=registry)

    newest = gauge("newest_timestamp_seconds", "The instant up to which the newest archive of a kind reaches.", "kind")
    size = gauge("newest_bytes", "Size of what the newest archive of a kind holds.", "kind")
    stored = gauge("newest_stored_bytes", "What the newest archive of a kind added to the target.", "kind")
    took = gauge("newest_duration_seconds", "How long it took to take the newest archive of a kind.", "kind")
    for kind, archive in status["newest"].items():
        if archive is not None:
            newest.labels(kind).set(_seconds(archive["at"]))
            size.labels(kind).set(archive["bytes"])
            stored.labels(kind).set(archive["stored_bytes"])
            took.labels(kind).set(archive["took_s"])
    last = gauge("run_timestamp_seconds", "When the last run of a command ended.", "command")
    ok = gauge("run_ok", "Whether the last run of a command succeeded.", "command")
    for command, run in status["runs"].items():
        last.labels(command).set(_seconds(run["ended"]))
        ok.labels(command).set(run["ok"])
    verified = gauge("verified_timestamp_seconds", "When something of a kind was last read and found whole.", "kind")
    for kind, at in status["verified"].items():
        verified.labels(kind).set(_seconds(at))
    proven = gauge("proven_timestamp_seconds", "When the last drill began that proved a restore.")
    if status["proven"] is not None:
        proven.set(_seconds(status["proven"]["at"]))
    gauge("free_bytes", "Room on the target.").set(status["free_bytes"])
    full_at = gauge("full_timestamp_seconds", "When the target will be full if it goes on as lately.")
    if status["forecast"]["full_at"] is not None:
        full_at.set(status["forecast"]["full_at"].timestamp())
    else:
        full_at.set(float("inf"))
    if status["log"]:
        reach = gauge("log_timestamp_seconds", "The stretch of the log without a gap that ends last.", "end")
        reach.labels("from").set(status["log"][-1]["from"].timestamp())
        reach.labels("to").set(status["log"][-1]["to"].timestamp())
    gauge("alarms", "Alarms that stand.").set(len(status["alarms"]) + len(status["damaged"]))
    return generate_latest(registry)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
