"""What must be so between hosts, and of the site as its clients see it."""

from __future__ import annotations

from collections.abc import Iterator

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import address_holders, away, down, hosts_of, states


@check("floating address", "One balancer holds the floating address")
def floating_address(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    address = seen["virtual_address"]
    if not address:
        return
    holders = address_holders(seen)
    balancers = hosts_of(seen, "balancer")
    if len(holders) > 1:
        yield (
            "site",
            f"{' and '.join(holders)} both hold {address}",
            "They do not hear each other: is the protocol VRRP (112) dropped between them? On each: journalctl -u "
            "keepalived -n 50",
        )
    elif not holders and not all(away(seen, name) for name in balancers):
        yield (
            "site",
            f"no host holds {address}, so no client reaches the site",
            f"on {' and '.join(name for name in balancers if not away(seen, name))}: journalctl -u keepalived "
            "-u haproxy -n 50",
        )


@check("nodes", "Every balancer sends requests to every node")
def nodes(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    refused: dict[str, dict[str, str]] = {}
    for name, state in states(seen):
        for node, held_for in (state["nodes"] or {}).items():
            if held_for != "UP" and not down(seen, node, "nginx") and not down(seen, node, "app"):
                refused.setdefault(node, {})[name] = held_for.removeprefix("DOWN ")
    for node, reasons in refused.items():
        yield (
            node,
            f"{' and '.join(reasons)} send it no requests: {' / '.join(dict.fromkeys(reasons.values()))}",
            f"Layer7: on {node}, curl -k https://127.0.0.1:8444/readyz says which part; Layer6: its certificate; "
            "Layer4: its NGINX, or the firewall. It gets requests again by itself (balancer-nodes).",
        )


@check("outside", "Clients reach the site, with a certificate that they trust, and nothing else of it")
def outside(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for row in seen["outside"]:
        if not row["ok"] and not away(seen, row["host"]):
            yield row["host"], row["found"], row["remedy"]


@check("edge", "Every connection that the topology draws works, from its source, by its name, with TLS", deep=True)
def edge(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, host in seen["hosts"].items():
        for row in host["edges"] or ():
            if row["drawn"] and not row["open"] and not away(seen, row["to"]):
                yield (
                    name,
                    f"it does not reach {row['service']} of {row['to']} (port {row['port']}): {row['error']}",
                    f"Needed because {row['why']}. on {row['to']}: nft list ruleset | grep {row['port']}; and "
                    f"ss -ltn 'sport = :{row['port']}'. ./appliance apply --site {seen['site']} redraws names, "
                    "certificates and firewall.",
                )


@check("closed", "What the topology does not draw is closed, from every host", deep=True)
def closed(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, host in seen["hosts"].items():
        for row in host["edges"] or ():
            if not row["drawn"] and row["open"]:
                yield (
                    row["to"],
                    f"port {row['port']} ({row['service']}) is open to {name}, and no edge says so",
                    f"./appliance apply --site {seen['site']} loads the firewall anew; "
                    f"on {row['to']}: systemctl status loyalty-firewall",
                )
