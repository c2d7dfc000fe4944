"""Derive who talks to whom from the inventory, once, for every role.

The inventory says which host is in which group. Everything that follows from that (addresses, names, connection
strings, firewall edges, listen addresses, shares of memory) is worked out here by one pure function, `derive`, so
that no role asks how many servers there are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

try:
    from ansible.plugins.action import ActionBase
except ImportError:  # Template tests import `derive` without Ansible.
    ActionBase = object

SERVICES = ("app", "nginx", "scheduler", "mongodb", "redis", "storage")
# Groups that a site may do without.
OPTIONAL_SERVICES = ("balancer", "backup", "monitoring")
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
# Where Redis has replicas, its hosts watch each other and say who is the master.
SENTINEL_EDGES = (
    ("redis", "redis", "redis", "replicas follow the master"),
    ("redis", "redis", "sentinel", "sentinels agree on the master"),
    ("app", "redis", "sentinel", "the application asks who is the master"),
    ("scheduler", "redis", "sentinel", "background jobs ask who is the master"),
)
GLUSTER_EDGES = (
    ("storage", "storage", "gluster", "file servers agree on the volume"),
    ("storage", "storage", "gluster_bricks", "file servers copy files to each other"),
    ("app", "storage", "gluster", "the application mounts the file store"),
    ("app", "storage", "gluster_bricks", "the application reads and writes files"),
)
# Whoever keeps backups fetches everything by itself: nobody else can reach what it keeps. The files are where the
# application finds them.
BACKUP_EDGES = (
    ("backup", "mongodb", "mongodb", "backups follow the operation log"),
    ("backup", "mongodb", "ssh", "backups copy the database"),
    ("backup", "app", "ssh", "backups copy the files"),
)
_HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


def derive(
    hosts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, list[str]],
    ports: Mapping[str, int | str],
    admin_networks: list[str],
    *,
    virtual_address: str = "",
    storage_shared: bool = False,
    even_members: bool = False,
    hosts_may_be_away: bool = False,
) -> dict[str, Any]:
    """The topology of `hosts` in `groups`.

    A host is {"address", "ssh_port"} and, for members of the replica set, "mongodb_priority", "mongodb_hidden" and
    "mongodb_arbiter"; for backup hosts "storage_device", "backup_device" and "backup_same_disk_enabled". A port may be
    a range ("49152-49161"). `virtual_address` is the floating address of the balancers; `storage_shared` says that
    every host of `storage` mounts the same share; `even_members` lets the replica set have two or four members, as it
    has on the way to one more or one less. With `hosts_may_be_away` an address that nobody knows is no problem: whoever
    only looks needs none.

    Returns hosts, edges, what each service must know of its peers, and `problems`: what cannot work, each with the
    reason and the way out.
    """
    problems: list[str] = []
    known = (*SERVICES, *OPTIONAL_SERVICES)
    services = {name: [s for s in known if name in groups.get(s, [])] for name in hosts}
    for service in known:
        if service in SERVICES and not groups.get(service):
            problems.append(
                f"No host is in group '{service}'. Every service needs a host: add one under "
                f"'{service}: hosts:' in the inventory (see inventory/one-box/hosts.yml)."
            )
        problems += [
            f"Host '{name}' is in group '{service}' but not under 'loyalty'. Put the group under 'loyalty: children:'."
            for name in groups.get(service, [])
            if name not in hosts
        ]
    # Hosts outside the site are refused above. Nothing is known of them, so all that follows goes by the others.
    groups = {service: [name for name in members if name in hosts] for service, members in groups.items()}
    for name, offered in services.items():
        if not offered:
            problems.append(f"Host '{name}' is in no group. Name its part in the inventory, or take it out.")
    problems += _refused_layouts(groups, storage_shared)
    problems += _refused_replica_sets(hosts, groups, even_members)
    problems += _refused_balancers(groups, virtual_address)
    problems += _refused_backups(hosts, groups)
    gluster = _storage_mode(groups, storage_shared) == "gluster"

    addresses: dict[str, str] = {}
    several = len(hosts) > 1
    for name, facts in hosts.items():
        if not _HOST_NAME.match(name):
            problems.append(
                f"'{name}' is no host name that certificates and MongoDB accept. Use lower-case letters, digits and "
                "dashes in the inventory, and put the address in ansible_host."
            )
        address = str(facts.get("address") or "")
        if not address and not hosts_may_be_away:
            problems.append(
                f"The address of '{name}' is unknown: it was not asked, or has no default route. "
                f"Set topology_host_address for it in the inventory, or run without --limit."
            )
        elif address and several and ipaddress.ip_address(address).is_loopback:
            problems.append(
                f"Other hosts would reach '{name}' at {address}, which is themselves. "
                f"Set ansible_host (or topology_host_address) of '{name}' to its address in your network."
            )
        addresses[name] = address

    edges = _edges(hosts, groups, ports, gluster=gluster)
    networks = _networks(admin_networks, problems)
    if not networks:
        problems.append("site_admin_networks is empty: nobody could use SSH. Name at least one network.")

    # A name leads to the loopback address where nobody else needs it, so that nothing has to listen on the network.
    reached = {(edge["to"], edge["service"]) for edge in edges if edge["from"] in hosts}
    visited = {name for name, _ in reached}
    described = {}
    for name, facts in hosts.items():
        weights = {s: MEMORY_WEIGHTS[s] for s in services[name] if s in MEMORY_WEIGHTS}
        described[name] = {
            "address": addresses[name],
            "ssh_port": _ssh_port(facts),
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

    members = [
        {
            "host": f"{name}:{ports['mongodb']}",
            "priority": float(hosts[name].get("mongodb_priority", 1)),
            "hidden": bool(hosts[name].get("mongodb_hidden", False)),
        }
        for name in groups.get("mongodb", [])
    ]
    electable = [str(member["host"]).rpartition(":")[0] for member in members if member["priority"]]
    redis_hosts = groups.get("redis", [])
    sentinels = [f"{name}:{ports['sentinel']}" for name in redis_hosts] if len(redis_hosts) > 1 else []
    return {
        "hosts": described,
        "edges": edges,
        "admin_networks": networks,
        "balancers": groups.get("balancer", []),
        "mongodb_members": members,
        "mongodb_seed": electable[0] if electable else "",
        "redis_hosts": redis_hosts,
        "redis_sentinels": sentinels,
        "redis_over_network": any(edge["service"] == "redis" for edge in edges),
        "storage_hosts": groups.get("storage", []),
        "storage_mode": "gluster" if gluster else "local",
        "virtual_address": virtual_address,
        "problems": problems,
    }


def _storage_mode(groups: Mapping[str, list[str]], shared: bool) -> str:
    """`local` where every application host has the files on a path of its own disk or share, else `gluster`."""
    servers = groups.get("storage", [])
    at_hand = set(groups.get("app", [])) <= set(servers)
    return "local" if at_hand and (shared or len(servers) == 1) else "gluster"


def _refused_replica_sets(
    hosts: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], even_members: bool
) -> list[str]:
    """Replica sets that could not elect a primary, or whose primary could not commit, when one machine fails."""
    problems = []
    members = groups.get("mongodb", [])
    if members and len(members) % 2 == 0 and not even_members:
        problems.append(
            f"{len(members)} members in 'mongodb' cannot elect a primary when one fails: a majority of "
            f"{len(members)} is {len(members) // 2 + 1}. Use 1 or 3 members; the third may be on a host of the "
            "application, with mongodb_priority: 0. On the way, ./appliance replica add and remove take any number."
        )
    if len(members) > 7:
        problems.append(f"{len(members)} members in 'mongodb': a replica set has at most 7 votes. Use 3, 5 or 7.")
    problems += [
        f"'{name}' is to be an arbiter (mongodb_arbiter). It would vote without holding data: when a data member "
        "fails, the rest elects a primary whose writes never reach a majority, so nothing is saved by it. Remove "
        "mongodb_arbiter and give the host mongodb_priority: 0: it then holds a copy, votes, and never leads."
        for name in members
        if hosts[name].get("mongodb_arbiter")
    ]
    problems += [
        f"'{name}' is hidden (mongodb_hidden) and could be elected: clients would not find their primary. Set its "
        "mongodb_priority to 0."
        for name in members
        if hosts[name].get("mongodb_hidden") and float(hosts[name].get("mongodb_priority", 1))
    ]
    problems += [
        f"'{one}' and '{other}' in 'mongodb' have the same address ({hosts[one]['address']}): two copies on one "
        "machine are lost together. Set ansible_host (or topology_host_address) of each to that of its own machine."
        for one, other in combinations(members, 2)
        if hosts[one]["address"] and hosts[one]["address"] == hosts[other]["address"]
    ]
    if members and not any(float(hosts[name].get("mongodb_priority", 1)) for name in members):
        problems.append("Every member in 'mongodb' has mongodb_priority 0: none could lead. Leave it out for one.")
    return problems


def _refused_balancers(groups: Mapping[str, list[str]], virtual_address: str) -> list[str]:
    balancers = groups.get("balancer", [])
    if not balancers:
        if virtual_address:
            return [
                f"site_virtual_address is {virtual_address}, and no host is in group 'balancer' to hold it. Add the "
                "hosts that share it, or leave it empty."
            ]
        if len(groups.get("nginx", [])) > 1:
            return [
                "Several hosts are in 'nginx' and none in 'balancer': clients would know only one of them. Add the "
                "hosts that share site_virtual_address to 'balancer' (they may be the same hosts)."
            ]
        return []
    problems = []
    try:
        ipaddress.IPv4Address(virtual_address)
    except ValueError:
        problems.append(
            "Group 'balancer' has hosts, and site_virtual_address "
            + (f"('{virtual_address}') is no IPv4 address" if virtual_address else "is not set")
            + ". Set it to a free address of the hosts' network: it moves to whichever balancer is alive."
        )
    return problems


def _refused_backups(hosts: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[str]:
    """Backups that one broken disk would take together with what they protect, or that would be taken twice."""
    keepers = groups.get("backup", [])
    if len(keepers) > 1:
        return [
            f"{len(keepers)} hosts in 'backup': each would take the same backups from the same servers. Name one, and "
            "let it copy what it keeps to another place (backup_copy_to)."
        ]
    problems = []
    for name in keepers:
        host = hosts[name]
        # What several hosts hold outlives the disk of any of them. Whether two devices are two disks is for the backup
        # program to see, on the host.
        held_alone = {
            "the database": groups.get("mongodb") == [name],
            "the files": groups.get("storage") == [name] and not host.get("storage_device"),
        }
        only_copies = [what for what, alone in held_alone.items() if alone]
        if only_copies and not (host.get("backup_device") or host.get("backup_same_disk_enabled")):
            problems.append(
                f"Backups on '{name}' would be on the disk of the only copy of {' and '.join(only_copies)}: one broken "
                "disk would take both. Set backup_device there to another disk, drive or share, or name a host in "
                "'backup' that holds nothing else. To try things out without one: backup_same_disk_enabled: true."
            )
    return problems


def _refused_layouts(groups: Mapping[str, list[str]], storage_shared: bool) -> list[str]:
    """Layouts that no role supports, with the reason and the way out."""
    problems = []
    redis_hosts = groups.get("redis", [])
    if len(redis_hosts) not in (0, 1, 3):
        problems.append(
            f"{len(redis_hosts)} hosts in 'redis': a new master is chosen by a majority of sentinels, one a host. "
            "Use 1 or 3."
        )
    if _storage_mode(groups, storage_shared) == "gluster" and len(groups.get("storage", [])) not in (0, 1, 3):
        problems.append(
            f"{len(groups['storage'])} hosts in 'storage': two copies of a file that differ have no third to judge "
            "them. Use 1 or 3, or let storage_device be a network share on every application host."
        )
    if set(groups.get("nginx", [])) != set(groups.get("app", [])):
        problems.append(
            "Groups 'nginx' and 'app' must hold the same hosts: NGINX talks to the application by a UNIX socket. "
            "List the same hosts in both."
        )
    if set(groups.get("scheduler", [])) - set(groups.get("app", [])):
        problems.append(
            "A host in 'scheduler' is not in 'app': jobs run from the application's release. Add it to 'app'."
        )
    return problems


def _edges(
    hosts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, list[str]],
    ports: Mapping[str, int | str],
    *,
    gluster: bool,
) -> list[dict[str, Any]]:
    """Every connection between two machines. What stays on one host is no edge."""
    edges: dict[tuple[str, str, int | str], dict[str, Any]] = {}

    def draw(source: str, target: str, service: str, port: int | str, why: str, proto: str = "tcp") -> None:
        edge = edges.setdefault(
            (source, target, port),
            {"from": source, "to": target, "service": service, "port": port, "proto": proto, "why": why},
        )
        if why not in edge["why"]:
            edge["why"] += f"; {why}"

    for name, facts in hosts.items():
        draw("admin", name, "ssh", _ssh_port(facts), "administration and Ansible")
    balancers = groups.get("balancer", [])
    for name in balancers or groups.get("nginx", []):
        service = "balancer" if balancers else "nginx"
        draw("any", name, service, ports["https"], "the service")
        draw("any", name, service, ports["http"], "redirect to HTTPS")
    internal = [*INTERNAL_EDGES, *BACKUP_EDGES]
    if len(groups.get("redis", [])) > 1:
        internal += SENTINEL_EDGES
    if gluster:
        internal += GLUSTER_EDGES
    if balancers:
        internal.append(("balancer", "nginx", "balanced", "requests of the site"))
    for client, server, service, why in internal:
        for source in groups.get(client, []):
            for target in groups.get(server, []):
                if source != target:
                    port = _ssh_port(hosts[target]) if service == "ssh" else ports[service]
                    draw(source, target, service, port, why)
    for source in balancers:
        for target in balancers:
            if source != target:
                draw(source, target, "balancer", 0, "balancers agree on who holds the floating address", "vrrp")
    return list(edges.values())


def _ssh_port(host: Mapping[str, Any]) -> int:
    return int(host.get("ssh_port") or 22)


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


# Variables of a host that its place in the topology depends on.
HOST_VARIABLES = (
    "mongodb_priority",
    "mongodb_hidden",
    "mongodb_arbiter",
    "storage_device",
    "backup_device",
    "backup_same_disk_enabled",
)


class ActionModule(ActionBase):  # type: ignore[misc]
    """`derive_topology: {ports, admin_networks, ...}` returns the result of `derive` as `topology`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(
        {"ports", "admin_networks", "virtual_address", "storage_shared", "even_members", "hosts_may_be_away"}
    )

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        groups = {name: list(members) for name, members in variables["groups"].items()}
        hosts = {}
        for name in groups.get("loyalty", []):
            host = variables["hostvars"][name]
            hosts[name] = {"address": _address(host), "ssh_port": host.get("ansible_port")}
            hosts[name] |= {variable: host[variable] for variable in HOST_VARIABLES if variable in host}
        args = self._task.args
        ports = {name: int(port) if str(port).isdigit() else str(port) for name, port in args["ports"].items()}
        result["topology"] = derive(
            hosts,
            groups,
            ports,
            list(args["admin_networks"]),
            virtual_address=str(args["virtual_address"]),
            storage_shared=bool(args["storage_shared"]),
            even_members=bool(args["even_members"]),
            hosts_may_be_away=bool(args["hosts_may_be_away"]),
        )
        result["changed"] = False
        return result
