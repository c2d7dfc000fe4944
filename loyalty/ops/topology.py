"""The topology of a site as its inventory gives it, without asking any host: the same edges that feed the firewall."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import yaml

from loyalty.ops.errors import Refusal
from loyalty.ops.inventory import Inventory
from loyalty.ops.site import CHECKOUT

_PLUGIN = CHECKOUT / "roles" / "topology" / "action_plugins" / "derive_topology.py"
_DEFAULTS = CHECKOUT / "roles" / "topology" / "defaults" / "main.yml"


@dataclass(frozen=True)
class Edge:
    """A connection between machines. `source` is a host, "any" (clients) or "admin"; `port` may be a range."""

    source: str
    target: str
    service: str
    port: str
    proto: str
    why: str


@dataclass(frozen=True)
class Topology:
    """Who does what (host: services, in the order of the inventory), and who talks to whom."""

    site: str
    hosts: dict[str, list[str]]
    edges: list[Edge]
    virtual_address: str


def topology(site: str) -> Topology:
    """Derive the topology of a site. Raises Refusal with everything that cannot work, as a playbook would."""
    inventory = Inventory(site)
    groups = inventory.groups()
    names = groups.get("loyalty", [])
    if not names:
        raise Refusal(f"The inventory of {site} has no host in the group loyalty.", "Start from inventory/one-box.")
    plugin = _plugin()
    of_hosts = ("ansible_port", *plugin.HOST_VARIABLES)
    hosts = {name: {"address": "", **inventory.values(name, of_hosts)} for name in names}
    for found in hosts.values():
        found["ssh_port"] = found.pop("ansible_port", None)
    shared = inventory.values(
        names[0], ("site_admin_networks", "site_virtual_address", "storage_device", "topology_ports")
    )
    derived: dict[str, Any] = plugin.derive(
        hosts,
        groups,
        yaml.safe_load(_DEFAULTS.read_text())["topology_ports"] | shared.get("topology_ports", {}),
        list(shared.get("site_admin_networks", ())),
        virtual_address=str(shared.get("site_virtual_address", "")),
        storage_shared=bool(re.search(":|^//", str(shared.get("storage_device", "")))),  # as the role decides it
        hosts_may_be_away=True,
    )
    if derived["problems"]:
        raise Refusal(f"The inventory of {site} cannot work as it is.", "\n".join(derived["problems"]))
    edges = [
        Edge(edge["from"], edge["to"], edge["service"], str(edge["port"] or ""), edge["proto"], edge["why"])
        for edge in derived["edges"]
    ]
    services = {name: host["services"] for name, host in derived["hosts"].items()}
    return Topology(site, services, edges, derived["virtual_address"])


def _plugin() -> ModuleType:
    """The plugin that the playbooks use. Roles are no package, so it is loaded from its file."""
    spec = importlib.util.spec_from_file_location(_PLUGIN.stem, _PLUGIN)
    if spec is None or spec.loader is None:
        raise Refusal(f"{_PLUGIN} is missing.", "git status says what else is; git restore brings it back.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
