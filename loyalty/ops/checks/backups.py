"""What must be so of backups: they are there, young, whole, and were restored lately."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import days_since, hosts_of, restore_drill, states

DAILY = {
    "full": "copy of the database",
    "files": "copy of the files",
    "verify": "verification of the archives",
    "prune": "removal of what need not be kept",
    "copy": "second copy",
}
"""What happens every day, in words; the copy where there is a place for it."""

_CLOCKS_DIFFER_BY_MINUTES = 5


@check("backups kept", "A host keeps backups of the site", level="notice")
def kept(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    if not hosts_of(seen, "backup"):
        yield (
            "site",
            "nobody keeps backups of it",
            "Name a host in the group backup, with a backup_device if it holds data itself: docs/operator/backups.md.",
        )


@check("backup", "Backups are taken as often as they should be, and the last of each kind went well")
def taken(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, backup in _backups(seen):
        if "error" in backup:
            yield (
                name,
                f"its backups cannot be looked at: {backup['error']}",
                f"Is the drive plugged in and mounted? ./appliance apply --site {seen['site']} mounts and prepares it.",
            )
            continue
        alarmed = {line.partition(": ")[0] for line in backup["alarms"]}
        for kind, run in backup["last"].items():
            # A drill has a check of its own, and so have alarms.
            if not run["ok"] and kind not in {"drill", *alarmed}:
                yield name, f"the last backup {kind} failed: {run['error'] or 'no reason given'}", _words(name, kind)
        for kind, what, most_hours in _expected(backup, limits):
            hours = days_since(seen, _last_good(backup, kind)) * 24
            if hours > most_hours and backup["last"].get(kind, {"ok": True})["ok"]:
                yield name, f"the last {what} is {hours:.0f} h old", _words(name, kind)
        minutes = days_since(seen, backup["log_reaches"] or backup["created_at"]) * 1440
        if minutes > (limits.backup_log_continuous_minutes if backup["log_continuous"] else limits.backup_log_minutes):
            yield (
                name,
                f"the archived log ends {minutes:.0f} min ago: what was written since is on the servers alone",
                f"on {name}: loyalty-backup log; journalctl -u loyalty-backup-log -n 30",
            )
        elif minutes < -_CLOCKS_DIFFER_BY_MINUTES:
            yield (
                name,
                f"the archived log ends {-minutes:.0f} min from now: a clock is wrong, and it may be late",
                f"on {name} and the hosts of the database: chronyc sources; here: date --utc",
            )


@check("second copy", "The backups are copied once more, to another place", level="notice")
def second_copy(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, backup in _backups(seen):
        if not backup.get("second_copy", True):
            yield (
                name,
                "its backups are nowhere else: a fire there, or a thief, takes them all",
                "Name a place in backup_copy_to, away from this building: docs/operator/backups.md.",
            )


@check("backup alarm", "The backup program gives no alarm")
def alarm(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, backup in _backups(seen):
        for line in backup.get("alarms", ()):
            said, _, remedy = line.partition(". ")
            yield name, said.rstrip("."), remedy or f"on {name}: loyalty-backup status"


@check("restore drill", "The backups were restored lately, and the ledger in them was whole")
def drill(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, backup in _backups(seen):
        if "error" in backup:
            continue
        last = restore_drill(seen)
        type_this = f"./appliance drill restore --site {seen['site']}"
        if last is None:
            if days_since(seen, backup["created_at"]) > limits.restore_drill_days:
                yield name, "its backups were never restored", type_this
        elif not last["ok"]:
            yield name, f"the restore drill of {last['at'][:10]} was not passed", f"See what it said, then: {type_this}"
        elif days_since(seen, last["at"]) > limits.restore_drill_days:
            yield name, f"its backups were last restored {days_since(seen, last['at']):.0f} days ago", type_this


@check("restore", "No restore has stopped half way")
def restore(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    begun = seen["restore"]
    if begun is not None:
        yield (
            "site",
            f"a restore to {begun['to']} has begun at {begun['began']} and has not ended: the site is closed",
            f"./appliance restore --to {begun['to']} --site {seen['site']} --confirm {seen['site']} goes on with it.",
        )


def _backups(seen: Seen) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, state in states(seen):
        if state["backup"] is not None:
            yield name, state["backup"]


def _expected(backup: dict[str, Any], limits: Limits) -> Iterator[tuple[str, str, int]]:
    """What is taken, in words, and how many hours old the last one may be."""
    for kind, what in DAILY.items():
        if kind != "copy" or backup["second_copy"]:
            yield kind, what, limits.backup_hours
    yield "incremental", "copy of what changed in the database", limits.backup_incremental_hours
    yield "dump", "dump of the documents", limits.backup_dump_days * 24


def _last_good(backup: dict[str, Any], kind: str) -> str:
    """When one of that kind last went well, or else when there could first have been one."""
    kinds = ("full", "incremental") if kind == "incremental" else (kind,)  # a full has all that changed, too
    return max((backup["good"][one] for one in kinds if one in backup["good"]), default=backup["created_at"])


def _words(host: str, kind: str) -> str:
    unit = "loyalty-backup-log" if kind == "log" else f"loyalty-backup@{kind}"
    return f"on {host}: journalctl -u {unit} -n 30; mend the cause, then: systemctl start {unit}"
