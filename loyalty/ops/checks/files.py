"""What must be so of the copies of the files, where file servers keep them (GlusterFS)."""

from __future__ import annotations

from collections.abc import Iterator

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import down, hosts_of, runs, states, waiting_files


@check("copies", "Every copy of the files is served, and the file servers see each other")
def copies(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        found = state["files"]
        if found is None or not runs(seen, name, "gluster"):
            continue
        if not found["served"]:
            yield (
                name,
                "its copy of the files is not served",
                f"It is started again within a minute. If not, on {name}: journalctl -u loyalty-brick; ls -t "
                "/var/log/glusterfs/bricks. Until then do not stop another data host.",
            )
        missing = [peer for peer, connected in found["peers"].items() if not connected]
        for peer in missing:
            if not _explained(seen, _named(seen, peer)):
                yield (
                    name,
                    f"its file server does not see the one of {peer}",
                    f"on {name}: gluster pool list; on {peer}: journalctl -u glusterd -n 50. A connection that does "
                    f"not work: ./appliance doctor --site {seen['site']}",
                )
        unreached = [host for host, entries in found["waiting"].items() if entries is None]
        for host in unreached:
            if not _explained(seen, host):
                yield (
                    name,
                    f"it does not reach the copy of the files on {host}",
                    f"on {name}: gluster volume status loyalty; on {host}: journalctl -u loyalty-brick",
                )
        others = [other for other in hosts_of(seen, "gluster") if other != name]
        unknown = found["served"] and found["peers"] and not missing and not found["waiting"]
        if unknown and not any(_explained(seen, other) for other in others):
            yield (
                name,
                "it cannot tell whether the copies of the files are alike",
                f"on {name}: gluster volume heal loyalty info",
            )


@check("heal", "No copy of the files waits for what another has", level="notice")
def heal(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    waiting = waiting_files(seen)
    if waiting:
        yield (
            "site",
            f"{waiting} entries of the file store are not on every copy yet",
            "They are copied by themselves; until then do not stop another data host. If it goes on, on "
            f"{hosts_of(seen, 'storage')[0]}: gluster volume heal loyalty info; all copies served? then: "
            "gluster volume heal loyalty",
        )


def _named(seen: Seen, peer: str) -> str:
    """The host behind the name or address under which another knows it."""
    return next((name for name, host in seen["hosts"].items() if peer in (name, host["address"])), peer)


def _explained(seen: Seen, host: str) -> bool:
    """Whether a finding of its own says why a host's copy is not there."""
    state = seen["hosts"].get(host, {}).get("state")
    return down(seen, host, "gluster") or (
        state is not None and state["files"] is not None and not state["files"]["served"]
    )
