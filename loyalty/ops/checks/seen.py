"""The document that checks judge, and the questions that several of them ask of it.

site, url, at            the site, its address, when it was looked at (UTC)
deep                     whether `doctor` or `verify` looked, or only `status`
virtual_address          the floating address, or ""
edges                    the connections that the topology draws
hosts                    {name: {address, services, unreachable, state, mongodb, edges, preflight}}
    unreachable          why the host could not be looked at, or ""
    state                what the module `host_state` returned, or null where nobody looked; in it, null where the host
                         has no such part: redis, sentinel, files (its copy), nodes (as its balancer sees them), backup
    mongodb              what `mongodb_state` returned: {"error"} or {self, members, oplog_hours}, or null
    edges                what `edge_state` returned (deep), or null
    preflight            problems that the preflight would find today (deep), or null
outside                  rows of `look_from_outside`: {host, check, ok, found, remedy}
application              `loyalty status --json`, or null when there was no answer
ledger                   `loyalty ledger verify --json`, or null where it was not asked for
drills                   {"failover": the last, "restore": the last}, null for one that was never done
restore                  the restore that has begun and not ended, {id, to, began, ...}, or null
disks                    samples of free space of earlier looks: [{at, host, path, free_bytes, total_bytes}]
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from loyalty.ops.checks.catalogue import Seen


def states(seen: Seen) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every host that could be looked at, with its state."""
    for name, host in seen["hosts"].items():
        if host["state"] is not None:
            yield name, host["state"]


def hosts_of(seen: Seen, service: str) -> list[str]:
    """The hosts that the topology gives a service to, reachable or not."""
    return [name for name, host in seen["hosts"].items() if service in host["services"]]


def away(seen: Seen, name: str) -> bool:
    """Whether a host could not be looked at: what follows from that needs no finding of its own."""
    return bool(seen["hosts"].get(name, {}).get("unreachable"))


def runs(seen: Seen, name: str, service: str) -> bool:
    """Whether the units of a service are active on a host: if not, what follows from that needs no finding either."""
    state = seen["hosts"][name]["state"]
    return state is not None and all(u["state"] == "active" for u in state["units"] if u["service"] == service)


def down(seen: Seen, name: str, service: str) -> bool:
    """Whether a host is away, or known not to run a service: what others say of that needs no finding of its own."""
    state = seen["hosts"].get(name, {}).get("state")
    return away(seen, name) or (state is not None and not runs(seen, name, service))


def replica_set(seen: Seen) -> list[dict[str, Any]]:
    """Members of the replica set, as its primary sees them, or else as whoever answers does."""
    views = [host["mongodb"] for host in seen["hosts"].values() if host["mongodb"] and "members" in host["mongodb"]]
    views.sort(key=lambda view: view["self"] != "PRIMARY")
    return list(views[0]["members"]) if views else []


def primary(seen: Seen) -> str:
    """The name of the host that is primary; empty when nobody knows of one."""
    return next((member["host"] for member in replica_set(seen) if member["state"] == "PRIMARY"), "")


def redis_masters(seen: Seen) -> list[str]:
    """The hosts whose Redis takes writes."""
    return [name for name, state in states(seen) if (state.get("redis") or {}).get("role") == "master"]


def waiting_files(seen: Seen) -> int | None:
    """How many entries of the file store are not on every copy, as far as hosts see; None when none can tell."""
    found = [state["files"]["waiting"].values() for _, state in states(seen) if state["files"]]
    return max((entries for copies in found for entries in copies if entries is not None), default=None)


def address_holders(seen: Seen) -> list[str]:
    """The hosts that have the floating address."""
    return [name for name, state in states(seen) if seen["virtual_address"] in state["addresses"]]


def lease_holder(seen: Seen) -> str:
    """The host whose jobs run; empty when the lease is free or nobody knows."""
    lease = (seen["application"] or {}).get("lease") or {}
    return str(lease.get("holder") or "").partition(":")[0]


def releases(seen: Seen) -> dict[str, list[str]]:
    """The hosts of each release that answers requests."""
    found: dict[str, list[str]] = {}
    for name, state in states(seen):
        if state["release"]:
            found.setdefault(state["release"]["release"], []).append(name)
    return found


def restore_drill(seen: Seen) -> dict[str, Any] | None:
    """The last restore drill: of those by hand, and those that the host which keeps the backups does by itself."""
    known = [seen["drills"].get("restore"), *((state["backup"] or {}).get("drill") for _, state in states(seen))]
    return max((drill for drill in known if drill), key=lambda drill: instant(drill["at"]), default=None)


def instant(text: str) -> datetime:
    """An instant as it stands in the document."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)


def days_since(seen: Seen, text: str) -> float:
    """Days from `text` until the site was looked at."""
    return (instant(seen["at"]) - instant(text)).total_seconds() / 86400
