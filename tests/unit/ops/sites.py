"""Healthy sites, as the role `verify` sees them, for tests that break one thing each."""

from __future__ import annotations

from typing import Any

from loyalty.ops.site import topology_groups

SERVICES = ("app", "nginx", "scheduler", "mongodb", "redis", "storage", "balancer", "backup", "monitoring")
UNITS = {
    "host": ("loyalty-firewall", "chrony"),
    "nginx": ("nginx",),
    "scheduler": ("loyalty-jobs",),
    "mongodb": ("mongod",),
    "redis": ("redis-server",),
    "sentinel": ("redis-sentinel",),
    "balancer": ("haproxy", "keepalived"),
    "gluster": ("glusterd", "loyalty-brick"),
    "app": ("loyalty@blue",),
    "backup": ("loyalty-backup-full", "loyalty-backup-log"),
}
RELEASE = "20261127T081500Z-0123456789ab"
AT = "2026-11-28T12:00:00Z"
FLOATING = "192.0.2.10"


def unit(service: str, name: str) -> dict[str, Any]:
    return {
        "service": service,
        "unit": f"{name}.service",
        "state": "active",
        "sub_state": "running",
        "restarts": 0,
        "since": "Fri 2026-11-27 08:15:00 UTC",
    }


def disk(free_percent: int = 70) -> dict[str, Any]:
    return {
        "total_bytes": 10**12,
        "free_bytes": free_percent * 10**10,
        "free_percent": free_percent,
        "read_only": False,
    }


def backup() -> dict[str, Any]:
    ended = {
        "full": "2026-11-28T01:42:00Z",
        "incremental": "2026-11-28T07:14:00Z",
        "files": "2026-11-28T02:12:00Z",
        "dump": "2026-11-22T03:31:00Z",
        "verify": "2026-11-28T04:20:00Z",
        "prune": "2026-11-28T05:14:00Z",
        "copy": "2026-11-28T05:55:00Z",
    }
    return {
        "created_at": "2026-10-01T09:00:00Z",
        "alarms": [],
        "last": {kind: {"ended": at, "ok": True, "error": None} for kind, at in ended.items()},
        "good": ended,
        "log_reaches": "2026-11-28T11:55:00Z",
        "running": [],
        "recent": [
            {"kind": kind, "began": f"{at[:14]}00:00Z", "ended": at, "ok": True, "bytes": size, "error": None}
            for kind, at, size in (
                ("prune", ended["prune"], 0),
                ("copy", ended["copy"], 1_700_000_000),
                ("incremental", ended["incremental"], 271_000_000),
            )
        ],
        "log_continuous": False,
        "second_copy": True,
        "drill": {
            "at": "2026-11-22T06:12:00Z",
            "ok": True,
            "rto_seconds": 412.0,
            "rpo_seconds": 540.0,
            "entries": 2_950_000,
            "verified": True,
        },
    }


def copies(host: str, storage: list[str]) -> dict[str, Any]:
    """One copy of the files on each of the hosts, as `host` sees them; of a single copy nobody has anything to say."""
    others = [name for name in storage if name != host]
    return {
        "served": True,
        "peers": dict.fromkeys(others, True),
        "waiting": dict.fromkeys(storage, 0) if others else {},
    }


def healthy(shape: str = "ha") -> dict[str, Any]:
    """A site of that shape where nothing is wrong, looked at in depth."""
    groups = topology_groups(shape)
    names = list(dict.fromkeys(name for service in SERVICES for name in groups.get(service, [])))
    balanced = "balancer" in groups
    members = [
        {
            "host": name,
            "state": "SECONDARY" if number else "PRIMARY",
            "lag_seconds": 0.0,
            "priority": 1,
            "hidden": False,
        }
        for number, name in enumerate(groups["mongodb"])
    ]
    hosts: dict[str, Any] = {}
    for number, name in enumerate(names, 11):
        services = [service for service in SERVICES if name in groups.get(service, [])]
        if "redis" in services and len(groups["redis"]) > 1:
            services.append("sentinel")
        remote = "storage" in services and not set(groups["app"]) <= set(groups["storage"])
        if remote:
            services.append("gluster")
        redis: dict[str, Any] | None = None
        if "redis" in services:
            leader = groups["redis"][0]
            redis = {"role": "master", "master": None, "link": None, "replicas": 2, "offset": 1}
            if name != leader:
                redis = {"role": "slave", "master": leader, "link": "up", "replicas": 0, "offset": 1}
        mongodb = None
        if "mongodb" in services:
            own = next(member["state"] for member in members if member["host"] == name)
            mongodb = {"self": own, "members": members, "oplog_hours": 31.5, "oplog_wrapped": True}
        hosts[name] = {
            "address": f"192.0.2.{number}",
            "services": services,
            "unreachable": "",
            "state": {
                "services": services,
                "units": [unit(s, u) for s in ("host", *services) for u in UNITS.get(s, ())],
                "release": {"colour": "blue", "release": RELEASE, "previous": RELEASE} if "app" in services else None,
                "upstream": "blue" if "nginx" in services else None,
                "disks": {"/": disk(), "/var/lib/mongodb": disk(60)},
                "unmounted": [],
                "certificates": {
                    which: {"path": f"/etc/loyalty/tls/{which}.crt", "not_after": "2027-11-28", "days_left": 364}
                    for which in ("ca", "site", "mongod")
                },
                "addresses": [f"192.0.2.{number}", *([FLOATING] if balanced and name == "box1" else [])],
                "listening": [],
                "versions": {},
                "time": {"own": True, "synchronised": True, "offset_ms": 0.3},
                "redis": redis,
                "sentinel": "OK 3 usable Sentinels." if "sentinel" in services else None,
                "files": copies(name, groups["storage"]) if remote else None,
                "nodes": dict.fromkeys(groups["nginx"], "UP") if "balancer" in services else None,
                "backup": backup() if "backup" in services else None,
                "deep": {"stale": [], "open_secrets": [], "failed_units": [], "reboot": []},
            },
            "mongodb": mongodb,
            "edges": [],
            "preflight": [],
        }
    return {
        "site": "shop",
        "url": "https://loyalty.shop.example",
        "at": AT,
        "deep": True,
        "virtual_address": FLOATING if balanced else "",
        "edges": [],
        "hosts": hosts,
        "outside": [{"host": names[0], "check": "https", "ok": True, "found": "", "remedy": ""}],
        "application": {
            "release": RELEASE,
            "mongodb": {"primary": members[0]["host"]},
            "members": 50_000,
            "entries": 3_000_000,
            "points_available": {"points": 12_345_678, "status": 4_000_000},
            "lease": {"holder": f"{groups['scheduler'][0]}:4711:9f2c0000"},
            "jobs": [{"name": name, "state": "ok"} for name in ("projection", "seals", "settlement")],
            "problems": [],
        },
        "ledger": None,
        "drills": {
            "failover": {
                "at": "2026-11-20T10:00:00Z",
                "ok": True,
                "planned_gap_seconds": 0.9,
                "unplanned_gap_seconds": 2.9,
                "acknowledged": 12_000,
                "acknowledged_lost": 0,
            },
            "restore": None,
        },
        "restore": None,
        "disks": [],
    }


def cut_power(seen: dict[str, Any], host: str) -> None:
    """The host is away: nobody can look at it, and what the others say of members and copies tells so."""
    seen["hosts"][host] |= {"unreachable": "No route to host", "state": None, "mongodb": None, "edges": None}
    for other in seen["hosts"].values():
        for member in (other["mongodb"] or {}).get("members", ()):
            if member["host"] == host:
                member |= {"state": "UNREACHABLE", "lag_seconds": None}
        files = (other["state"] or {}).get("files")
        if files and host in files["peers"]:
            files["peers"][host] = False
            files["waiting"].clear()
