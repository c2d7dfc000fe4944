"""What must be so of the database, the cache, the jobs and the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import away, hosts_of, lease_holder, primary, redis_masters, replica_set, runs, states

HEALTHY = ("PRIMARY", "SECONDARY", "ARBITER")


@check("database", "The database answers on each of its hosts")
def database(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, host in seen["hosts"].items():
        if host["mongodb"] and "error" in host["mongodb"] and runs(seen, name, "mongodb"):
            yield name, f"mongod does not answer: {host['mongodb']['error']}", f"on {name}: journalctl -u mongod -n 50"


@check("primary", "The replica set has a primary")
def has_primary(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    members = replica_set(seen)
    told = seen["application"]
    if not members and told and not told["mongodb"].get("primary"):
        yield (
            "site",
            "no member of the replica set answers: nothing can be read or written",
            "See the rows of its hosts.",
        )
    if members and not primary(seen):
        healthy = sum(member["state"] in HEALTHY for member in members)
        yield (
            "site",
            f"the replica set has no primary: {healthy} of {len(members)} members are healthy",
            f"Nothing can be written until {len(members) // 2 + 1} members run and reach each other. Bring back the "
            "members below; do not force a smaller set unless their disks are lost for good (see "
            "docs/operator/failures.md).",
        )


@check("member", "Every member of the replica set is healthy")
def member_state(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for member in replica_set(seen):
        name = member["host"]
        mute = "error" in (seen["hosts"].get(name, {}).get("mongodb") or {})
        if member["state"] in HEALTHY or away(seen, name) or mute:
            continue
        yield (
            name,
            f"its member of the replica set is {member['state']}",
            "STARTUP2 and RECOVERING end by themselves once it has caught up. Else, "
            f"on {name}: journalctl -u mongod -n 50",
        )


@check("lag", "Every copy of the database follows the primary closely")
def lag(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for member in replica_set(seen):
        behind = member["lag_seconds"]
        if member["state"] == "SECONDARY" and behind is not None and behind > limits.lag_seconds:
            yield (
                member["host"],
                f"its copy of the database is {behind:.0f} s behind",
                f"Slow disk or network? on {member['host']}: iostat -x 5 3, or top. It catches up by itself; until "
                "then do not stop another member.",
            )


@check("oplog window", "A member that was away for some hours can still catch up", level="notice")
def oplog_window(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    if len(replica_set(seen)) < 2:
        return
    for name, host in seen["hosts"].items():
        hours = (host["mongodb"] or {}).get("oplog_hours")
        # A young or idle log is short because little was written to it, and nothing has been dropped from it.
        if hours is not None and hours < limits.oplog_hours and host["mongodb"]["oplog_wrapped"]:
            yield (
                name,
                f"its operation log reaches back {hours:.1f} h",
                "A member that is away for longer has to copy everything anew. Set mongodb_oplog_mb higher; on a "
                "running member: db.adminCommand({replSetResizeOplog: 1, size: MEGABYTES})",
            )


@check("redis", "One Redis takes writes, and the others follow it")
def redis(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    wanted = hosts_of(seen, "redis")
    masters = redis_masters(seen)
    for name, state in states(seen):
        found = state.get("redis")
        if found is None:
            continue
        if "error" in found:
            if not runs(seen, name, "redis"):
                continue
            yield name, f"Redis does not answer: {found['error']}", f"on {name}: journalctl -u redis-server -n 50"
        elif found["role"] == "slave" and found["link"] != "up":
            yield (
                name,
                f"its Redis does not follow {found['master']}: the link is {found['link']}",
                f"on {name}: journalctl -u redis-server -n 50. It connects again by itself when {found['master']} "
                "answers.",
            )
    if len(masters) > 1:
        yield (
            "site",
            f"Redis on {' and '.join(masters)} take writes",
            "The sentinels end this within seconds. If not, on each of them: journalctl -u redis-sentinel -n 50",
        )
    if not masters and wanted and all(seen["hosts"][name]["state"] for name in wanted):
        yield (
            "site",
            "no Redis takes writes",
            "Everything works, slower: it holds only what can be rebuilt. On its hosts: journalctl -u redis-server "
            "-u redis-sentinel -n 50",
        )


@check("sentinel", "The Sentinels would choose another Redis if the one that takes writes failed")
def sentinel(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        said = state["sentinel"]
        if said is not None and not said.startswith("OK") and runs(seen, name, "sentinel"):
            yield (
                name,
                f"its Sentinel could not have another master chosen: {said or 'it gives no answer'}",
                "Most of them must run and see each other. On the hosts of Redis: journalctl -u redis-sentinel -n 50",
            )


@check("lease", "One host's jobs run")
def lease(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    application = seen["application"]
    if application and "lease" in application and primary(seen) and not lease_holder(seen):
        yield (
            "site",
            "no host holds the lease of the jobs",
            "A dead holder's lease is taken over within 15 s. If it stays free: journalctl -u loyalty-jobs -n 50 on "
            f"{' or '.join(hosts_of(seen, 'scheduler'))}",
        )


@check("application", "The application can tell how it is, and nothing is wrong with it")
def application(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    told = seen["application"]
    if told is None:
        asked = hosts_of(seen, "scheduler")
        if not all(away(seen, name) for name in asked):
            yield (
                "site",
                "`loyalty status` gave no answer",
                f"on {' or '.join(name for name in asked if not away(seen, name))}: loyalty status",
            )
        return
    for sentence in told["problems"]:
        # The rows of the database and of Redis say more.
        if sentence.startswith("MongoDB") and not primary(seen):
            continue
        if sentence.startswith("Redis") and not redis_masters(seen):
            continue
        said, _, remedy = sentence.partition(". ")
        yield "site", said.rstrip("."), remedy or "loyalty status, on a host of the jobs"


@check("ledger", "Every entry, chain, seal and wallet of the ledger is right, where it was verified")
def ledger(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    told = seen["ledger"]
    if told is not None and not told["ok"]:
        for defect in told["defects"][:5]:
            yield (
                "site",
                f"{defect['where']}: {defect['what']}",
                "Stop, keep everything as it is, and restore from a backup beside it to compare "
                '(docs/operator/failures.md, "When an entry does not verify").',
            )
