"""Derive who talks to whom from the inventory, once, for every role.

The inventory says which host is in which group. Everything that follows from that (addresses, names, connection
strings, firewall edges, listen addresses, shares of memory) is worked out here by one pure function, `derive`, so
that no role asks how many servers there are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

try:
    from ansible.plugins.action import ActionBase
except ImportError:  # Template tests import `derive` without Ansible.
    ActionBase = object

SERVICES = ("app", "nginx", "scheduler", "mongodb", "redis", "storage")
ANYWHERE = ["0.0.0.0/0", "::/0"]
LOOPBACK = "127.0.0.1"
# Relative need of memory. A host's memory is divided among what runs on it in this proportion.
MEMORY_WEIGHTS = {"mongodb": 5, "app": 3, "redis": 1, "scheduler": 1}
# (who connects, to what, port setting, why)
INTERNAL_EDGES = (
    ("app", "mongodb", "mongodb", "the application reads and writes the ledger"),
    ("scheduler", "mongodb", "mongodb", "background jobs follow the ledger"),
    ("mongodb", "mongodb", "mongodb", "members replicate"),
    ("app", "redis", "redis", "cache and rate limits"),
    ("scheduler", "redis", "redis", "cache invalidation"),
)
_HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


def derive(
    hosts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, list[str]],
    ports: Mapping[str, int],
    admin_networks: list[str],
) -> dict[str, Any]:
    """The topology of `hosts` ({name: {"address", "ssh_port"}}) in `groups`.

    Returns hosts, edges, mongodb, redis and `problems`: what cannot work, each with the reason and the way out.
    """
    problems: list[str] = []
    services = {name: [s for s in SERVICES if name in groups.get(s, [])] for name in hosts}
    for service in SERVICES:
        if not groups.get(service):
            problems.append(
                f"No host is in group '{service}'. Every service needs a host: add one under "
                f"'{service}: hosts:' in the inventory (see inventory/one-box/hosts.yml)."
            )
        problems += [
            f"Host '{name}' is in group '{service}' but not under 'loyalty'. Put the group under 'loyalty: children:'."
            for name in groups.get(service, [])
            if name not in hosts
        ]
    problems += _refused_layouts(groups)

    addresses: dict[str, str] = {}
    several = len(hosts) > 1
    for name, facts in hosts.items():
        if not _HOST_NAME.match(name):
            problems.append(
                f"'{name}' is no host name that certificates and MongoDB accept. Use lower-case letters, digits and "
                "dashes in the inventory, and put the address in ansible_host."
            )
        address = str(facts.get("address") or "")
        if not address:
            problems.append(
                f"The address of '{name}' is unknown: it was not asked, or has no default route. "
                f"Set topology_host_address for it in the inventory, or run without --limit."
            )
        elif several and ipaddress.ip_address(address).is_loopback:
            problems.append(
                f"Other hosts would reach '{name}' at {address}, which is themselves. "
                f"Set ansible_host (or topology_host_address) of '{name}' to its address in your network."
            )
        addresses[name] = address

    edges = _edges(hosts, groups, ports)
    networks = _networks(admin_networks, problems)
    if not networks:
        problems.append("site_admin_networks is empty: nobody could use SSH. Name at least one network.")

    # A name leads to the loopback address where nobody else needs it, so that nothing has to listen on the network.
    reached = {(edge["to"], edge["service"]) for edge in edges if edge["from"] in hosts}
    visited = {name for name, _ in reached}
    described = {}
    for name in hosts:
        weights = {s: MEMORY_WEIGHTS[s] for s in services[name] if s in MEMORY_WEIGHTS}
        described[name] = {
            "address": addresses[name],
            "name_address": addresses[name] if name in visited else LOOPBACK,
            "services": services[name],
            "inbound": [
                {**edge, "sources": _sources(edge["from"], addresses, networks)} for edge in edges if edge["to"] == name
            ],
            "memory_share": {s: round(w / sum(weights.values()), 3) for s, w in weights.items()},
            # Listen addresses of the services that only edges of the topology may reach.
            "bind": {
                service: [LOOPBACK, *([addresses[name]] if (name, service) in reached else [])]
                for service in ("mongodb", "redis")
                if service in services[name]
            },
        }

    members = groups.get("mongodb", [])
    redis_hosts = groups.get("redis", [])
    return {
        "hosts": described,
        "edges": edges,
        "admin_networks": networks,
        "mongodb_members": [f"{name}:{ports['mongodb']}" for name in members],
        "mongodb_seed": members[0] if members else "",
        "redis_host": redis_hosts[0] if redis_hosts else "",
        "redis_over_network": any(edge["service"] == "redis" for edge in edges),
        "problems": problems,
    }


def _refused_layouts(groups: Mapping[str, list[str]]) -> list[str]:
    """Layouts that no role supports, with the reason and the way out."""
    problems = []
    members = groups.get("mongodb", [])
    if members and len(members) % 2 == 0:
        problems.append(
            f"{len(members)} members in 'mongodb' cannot elect a primary when one fails: a majority of "
            f"{len(members)} is {len(members) // 2 + 1}. Use 1 or 3 members."
        )
    if len(groups.get("redis", [])) > 1:
        problems.append("Only one host may be in group 'redis': the cache is not replicated. Keep one.")
    if len(groups.get("scheduler", [])) > 1:
        problems.append("Only one host may be in group 'scheduler': jobs run once for the whole site. Keep one.")
    if set(groups.get("nginx", [])) != set(groups.get("app", [])):
        problems.append(
            "Groups 'nginx' and 'app' must hold the same hosts: NGINX talks to the application by a UNIX socket. "
            "List the same hosts in both."
        )
    if set(groups.get("app", [])) - set(groups.get("storage", [])):
        problems.append(
            "A host in 'app' is not in 'storage': the application writes files to a path on its own host. Add it to "
            "'storage', and let storage_device point to a share when there are several."
        )
    if set(groups.get("scheduler", [])) - set(groups.get("app", [])):
        problems.append(
            "The host in 'scheduler' is not in 'app': jobs run from the application's release. Add it to 'app'."
        )
    return problems


def _edges(
    hosts: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], ports: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Every connection between two machines. What stays on one host is no edge."""
    edges: dict[tuple[str, str, int], dict[str, Any]] = {}

    def draw(source: str, target: str, service: str, port: int, why: str) -> None:
        edge = edges.setdefault(
            (source, target, port),
            {"from": source, "to": target, "service": service, "port": port, "proto": "tcp", "why": why},
        )
        if why not in edge["why"]:
            edge["why"] += f"; {why}"

    for name, facts in hosts.items():
        draw("admin", name, "ssh", int(facts.get("ssh_port") or 22), "administration and Ansible")
    for name in groups.get("nginx", []):
        draw("any", name, "nginx", ports["https"], "the service")
        draw("any", name, "nginx", ports["http"], "redirect to HTTPS")
    for client, server, service, why in INTERNAL_EDGES:
        for source in groups.get(client, []):
            for target in groups.get(server, []):
                if source != target:
                    draw(source, target, service, ports[service], why)
    return list(edges.values())


def _networks(written: list[str], problems: list[str]) -> list[str]:
    """`written` without overlaps, which nftables refuses; what is no network is added to `problems`."""
    v4: list[ipaddress.IPv4Network] = []
    v6: list[ipaddress.IPv6Network] = []
    for text in written:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            problems.append(f"site_admin_networks: '{text}' is no network. Write it as 192.0.2.0/24.")
            continue
        if isinstance(network, ipaddress.IPv4Network):
            v4.append(network)
        else:
            v6.append(network)
    return [str(n) for n in ipaddress.collapse_addresses(v4)] + [str(n) for n in ipaddress.collapse_addresses(v6)]


def _sources(origin: str, addresses: Mapping[str, str], admin_networks: list[str]) -> list[str]:
    if origin == "any":
        return ANYWHERE
    return admin_networks if origin == "admin" else [addresses[origin]]


def _address(host: Mapping[str, Any]) -> str:
    """Where other hosts reach this one: as told, else where Ansible reaches it, else its default address."""
    default = (host.get("ansible_facts") or {}).get("default_ipv4") or {}
    for candidate in (host.get("topology_host_address"), host.get("ansible_host"), default.get("address")):
        try:
            return str(ipaddress.ip_address(str(candidate)))
        except ValueError:
            continue
    return ""


class ActionModule(ActionBase):  # type: ignore[misc]
    """`derive_topology: {ports: {...}, admin_networks: [...]}` returns the result of `derive` as `topology`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"ports", "admin_networks"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        groups = {name: list(members) for name, members in variables["groups"].items()}
        hosts = {}
        for name in groups.get("loyalty", []):
            host = variables["hostvars"][name]
            hosts[name] = {"address": _address(host), "ssh_port": host.get("ansible_port")}
        ports = {name: int(port) for name, port in self._task.args["ports"].items()}
        result["topology"] = derive(hosts, groups, ports, list(self._task.args["admin_networks"]))
        result["changed"] = False
        return result
