"""The site on one screen of at most 100 columns: hosts by services, who leads, the numbers, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loyalty.ops.checks.catalogue import Finding, Seen
from loyalty.ops.checks.seen import (
    address_holders,
    days_since,
    hosts_of,
    instant,
    lease_holder,
    primary,
    redis_masters,
    releases,
    replica_set,
    restore_drill,
    states,
    waiting_files,
)

WIDTH = 100
# Columns of the table, with what stands above them.
COLUMNS = {
    "balancer": "balancer",
    "nginx": "nginx",
    "app": "app",
    "scheduler": "jobs",
    "mongodb": "database",
    "redis": "redis",
    "sentinel": "sentinel",
    "storage": "files",
    "backup": "backup",
    "monitoring": "watch",
}
ABSENT = "·"
_RUNS = 3
"""So many runs of backups are told one by one, besides how old each kind is."""


def screen(seen: Seen, findings: Sequence[Finding]) -> str:
    """Everything about a site that fits on one screen."""
    problems = [finding for finding in findings if finding.level == "problem"]
    notices = [finding for finding in findings if finding.level == "notice"]
    lines = [f"Site {seen['site']} · {seen['url']} · {seen['at'].replace('T', ' ').replace('Z', ' UTC')}", ""]
    lines += table(seen)
    lines += ["", *numbers(seen)]
    lines += explained(problems, "problem") or ["", "All is well."]
    lines += explained(notices, "notice")
    return "\n".join(line.rstrip() for line in lines)


def table(seen: Seen) -> list[str]:
    """Hosts by the services that the site has."""
    services = [service for service in COLUMNS if hosts_of(seen, service)]
    rows = [["host", *(COLUMNS[service] for service in services), "disk"]]
    for name, host in seen["hosts"].items():
        rows.append([name, *(_cell(seen, name, host, service) for service in services), _disk(host["state"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    return [(" " * gap).join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def _cell(seen: Seen, name: str, host: Mapping[str, Any], service: str) -> str:
    """The one thing worth knowing of a service on a host; capitals where something is wrong."""
    if service not in host["services"]:
        return ABSENT
    if host["unreachable"]:
        return _told_by_others(seen, name) if service == "mongodb" else "AWAY"
    state = host["state"]
    units = [unit for unit in state["units"] if unit["service"] == service]
    if broken := [unit for unit in units if unit["state"] not in ("active", "reloading")]:
        return "STOPPED" if broken[0]["state"] == "inactive" else str(broken[0]["state"]).upper()
    if service == "mongodb":
        return _told_by_others(seen, name)
    if service == "redis":
        redis = state["redis"] or {}
        return {"master": "master", "slave": "replica"}.get(redis.get("role", ""), "MUTE")
    if service == "storage" and state["files"]:
        return "ok" if state["files"]["served"] else "MUTE"
    if service == "balancer":
        return "holds" if seen["virtual_address"] in state["addresses"] else "stands by"
    if service == "scheduler":
        if "lease" not in (seen["application"] or {}):
            return "?"
        return "runs" if lease_holder(seen) == name else "stands by" if lease_holder(seen) else "NO LEASE"
    if service == "app":
        return str(state["release"]["colour"]) if state["release"] else "NONE"
    if service == "backup":
        return "NONE" if "error" in state["backup"] else "ALARM" if state["backup"]["alarms"] else "ok"
    return "ok"


def _told_by_others(seen: Seen, name: str) -> str:
    """The state of a member of the replica set, as its primary sees it."""
    state = next((member["state"] for member in replica_set(seen) if member["host"] == name), "UNKNOWN")
    if state == "UNREACHABLE":
        return "AWAY"
    return str(state).lower() if state in ("PRIMARY", "SECONDARY") else str(state)


def _disk(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "?"
    known = [disk["free_percent"] for disk in state["disks"].values() if disk]
    return f"{min(known)}% free" if known else "?"


def numbers(seen: Seen) -> list[str]:
    """Who leads, what follows, and how much there is: a line each."""
    rows = [
        ("Database", _database(seen)),
        ("Redis", _redis(seen)),
        ("Files", _files(seen)),
        ("Address", _address(seen)),
        ("Jobs", _jobs(seen)),
        ("Release", _release(seen)),
        ("Certificates", _certificates(seen)),
        ("Clocks", _clocks(seen)),
        ("Ledger", _ledger(seen)),
        ("Backups", _backups(seen)),
        ("Backup runs", _backup_runs(seen)),
        ("Drills", _drills(seen)),
    ]
    lines = []
    for title, text in rows:
        if text:
            lines += textwrap.wrap(text, WIDTH, initial_indent=f"{title:<14}", subsequent_indent=" " * 14)
    return lines


def _database(seen: Seen) -> str:
    members = replica_set(seen)
    if not members:
        return ""
    parts = [f"primary {primary(seen) or 'NONE'}"]
    for member in members:
        if member["state"] == "SECONDARY":
            behind = "" if member["lag_seconds"] is None else f" {member['lag_seconds']:.0f} s behind"
            parts.append(member["host"] + behind)
    windows = [
        host["mongodb"]["oplog_hours"] for host in seen["hosts"].values() if "oplog_hours" in (host["mongodb"] or {})
    ]
    if windows:
        parts.append(f"log reaches back {min(windows):.1f} h")
    return " · ".join(parts)


def _redis(seen: Seen) -> str:
    followers = [name for name, state in states(seen) if (state["redis"] or {}).get("role") == "slave"]
    if not followers and len(hosts_of(seen, "redis")) < 2:
        return ""
    masters = redis_masters(seen)
    return f"master {' and '.join(masters) or 'NONE'}" + (
        f" · {', '.join(followers)} follow{'s' if len(followers) == 1 else ''}" if followers else ""
    )


def _files(seen: Seen) -> str:
    """Where the copies are, and what is not on each of them; nothing where there is no other copy."""
    if len(hosts_of(seen, "gluster")) < 2:
        return ""
    served = [name for name, state in states(seen) if (state["files"] or {}).get("served")]
    waiting = waiting_files(seen)
    said = {None: "", 0: " · none waits for another"}.get(waiting, f" · {waiting} entries wait to be copied")
    return f"copies on {', '.join(served) or 'NO HOST'}{said}"


def _address(seen: Seen) -> str:
    if not seen["virtual_address"]:
        return ""
    return f"{seen['virtual_address']} held by {' and '.join(address_holders(seen)) or 'NOBODY'}"


def _jobs(seen: Seen) -> str:
    jobs = (seen["application"] or {}).get("jobs")
    if jobs is None:
        return ""
    late = [job["name"] for job in jobs if job["state"] != "ok"]
    holder = lease_holder(seen)
    return (
        f"{len(jobs) - len(late)} of {len(jobs)} fine"
        + (f", not: {' '.join(late)}" if late else "")
        + (f" · run by {holder}" if holder else "")
    )


def _release(seen: Seen) -> str:
    found = releases(seen)
    return " · ".join(f"{release} on {', '.join(hosts)}" for release, hosts in found.items())


def _certificates(seen: Seen) -> str:
    found = [
        (certificate["days_left"], which, name)
        for name, state in states(seen)
        for which, certificate in state["certificates"].items()
    ]
    if not found:
        return ""
    days, which, name = min(found)
    return f"{len(found)}, the first to end is {which} of {name} in {days} days"


def _clocks(seen: Seen) -> str:
    own = [state["time"] for _, state in states(seen) if state["time"]["own"]]
    known = [abs(time["offset_ms"]) for time in own if time["synchronised"]]
    return f"at most {max(known):.1f} ms off" if known else ""


def _ledger(seen: Seen) -> str:
    ledger, application = seen["ledger"], seen["application"]
    if ledger:
        whole = "every entry, chain, seal and wallet is right" if ledger["ok"] else "NOT WHOLE"
        return f"{counted(ledger['chains'], ledger['entries'], ledger['available'])} · {whole}"
    if application and "members" in application:
        return counted(application["members"], application["entries"], application["points_available"])
    return ""


def counted(members: int, entries: int, available: Mapping[str, int]) -> str:
    points = [f"{points:,} {wallet} available" for wallet, points in sorted(available.items())]
    return " · ".join([f"{members:,} members", f"{entries:,} entries", *points])


def _kept(seen: Seen) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The hosts that keep backups and could be asked what they keep."""
    for name, state in states(seen):
        if state["backup"] and "error" not in state["backup"]:
            yield name, state["backup"]


def _backups(seen: Seen) -> str:
    """How old the newest of each kind is, and when the archived log ends."""
    parts = []
    for name, backup in _kept(seen):
        for kind in ("full", "incremental", "files", "dump", "verify"):
            if kind in backup["good"]:
                what = "verified" if kind == "verify" else kind
                parts.append(f"{what} {_ago(seen, backup['good'][kind])}")
        if backup["log_reaches"]:
            parts.append(f"log until {_ago(seen, backup['log_reaches'])}")
        parts = [f"on {name}: {' · '.join(parts) or 'none yet'}"]
    return " · ".join(parts)


def _backup_runs(seen: Seen) -> str:
    """What is taken now and how far it is, and how the last runs went."""
    parts = []
    for _, backup in _kept(seen):
        for run in backup["running"]:
            minutes = days_since(seen, run["began"]) * 1440
            step = f", at {run['step']}" if run["step"] else ""
            share = f", {100 * run['done'] // run['whole']} %" if run["whole"] else ""
            parts.append(f"{run['kind']} runs for {minutes:.0f} min{step}{share}")
        for run in backup["recent"][-_RUNS:]:
            took = (instant(run["ended"]) - instant(run["began"])).total_seconds()
            size = f"{_size(run['bytes'])} in " if run["bytes"] else ""
            result = f", {size}{_duration(took)}" if run["ok"] else " FAILED"
            parts.append(f"{run['kind']} {_ago(seen, run['ended'])}{result}")
    return " · ".join(parts)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _ago(seen: Seen, at: str) -> str:
    minutes = days_since(seen, at) * 1440
    for size, unit in ((1440, "d"), (60, "h")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {unit} ago"
    return f"{max(minutes, 0):.0f} min ago"


def _drills(seen: Seen) -> str:
    parts = []
    if failover := seen["drills"].get("failover"):
        parts.append(
            f"failover {_days_ago(seen, failover)}: {_verdict(failover)}, planned gap "
            f"{failover['planned_gap_seconds']:.1f} s, unplanned {failover['unplanned_gap_seconds']:.1f} s, "
            f"{failover['acknowledged_lost']} of {failover['acknowledged']:,} acknowledged writes lost"
        )
    if restore := restore_drill(seen):
        parts.append(
            f"restore {_days_ago(seen, restore)}: {_verdict(restore)}, {restore['entries']:,} entries back in "
            f"{restore['rto_seconds']:.0f} s, {restore['rpo_seconds']:.0f} s would have been lost"
        )
    return " · ".join(parts)


def _days_ago(seen: Seen, drill: Mapping[str, Any]) -> str:
    when = days_since(seen, drill["at"])
    return "today" if when < 1 else f"{when:.0f} days ago"


def _verdict(drill: Mapping[str, Any]) -> str:
    return "passed" if drill["ok"] else "NOT PASSED"


def explained(findings: Iterable[Finding], kind: str) -> list[str]:
    """Each finding with its remedy; nothing where there is none."""
    found = list(findings)
    if not found:
        return []
    lines = ["", f"{len(found)} {kind}{'s' if len(found) > 1 else ''}:"]
    for finding in found:
        lines += textwrap.wrap(f"{finding.host} · {finding.check}: {finding.found}", WIDTH, subsequent_indent="    ")
        lines += textwrap.wrap(
            f"-> {finding.remedy}", WIDTH, initial_indent="    ", subsequent_indent="       ", break_long_words=False
        )
    return lines
