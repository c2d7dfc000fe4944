"""Renders a role's template as Ansible would on a server that is not there: milliseconds instead of minutes.

The inventory is a real example (one-box, unless a test names another), the topology is derived by the role's own
function, defaults and variables come from the roles. Only the facts of the server are written down here, once for each
system that we support.
"""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

from ansible.inventory.manager import InventoryManager  # type: ignore[import-untyped]
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.plugins.loader import init_plugin_loader  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]
from ansible.vars.manager import VariableManager  # type: ignore[import-untyped]

try:  # ansible-core 2.19 renders only what it is told to trust; older ones have no such notion.
    from ansible.template import trust_as_template
except ImportError:

    def trust_as_template(value: str) -> str:
        return value


PROJECT = Path(__file__).parents[2]
ROLES = PROJECT / "roles"
TEMPLATES = sorted(str(path.relative_to(ROLES)) for path in ROLES.glob("*/templates/*.j2"))
HOST = "box1"

_COMMON = {
    "architecture": "x86_64",
    "processor_vcpus": 4,
    "processor_nproc": 4,
    "memtotal_mb": 16000,
    "all_ipv4_addresses": ["192.0.2.11"],
    "all_ipv6_addresses": ["fe80::1"],
    "default_ipv4": {"address": "192.0.2.11", "interface": "eth0"},
    "virtualization_role": "guest",
    "virtualization_type": "kvm",
    "service_mgr": "systemd",
    "os_family": "Debian",
    "hostname": HOST,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "ubuntu-22.04": {
        **_COMMON,
        "distribution": "Ubuntu",
        "distribution_release": "jammy",
        "distribution_version": "22.04",
        "distribution_major_version": "22",
        "python": {"version": {"major": 3, "minor": 10, "micro": 12}},
    },
    "debian-12": {
        **_COMMON,
        "distribution": "Debian",
        "distribution_release": "bookworm",
        "distribution_version": "12.8",
        "distribution_major_version": "12",
        "python": {"version": {"major": 3, "minor": 11, "micro": 2}},
    },
}

# What tasks find out or choose before they render a template.
_FOUND = {
    "__app_colour": "blue",
    "__app_release": "20260131T120000Z-0123456789ab",
    "__app_package": {"sha": "0123456789ab", "path": "loyalty.tar.gz"},
    "__app_source": {"directory": str(PROJECT / "loyalty"), "commit": "0" * 40, "described": "v1.0.0"},
    "__backup_host_keys": {"box1": "AAAAC3NzaC1lZDI1NTE5AAAAIJ6N7Bdvwqm0hVYfFcDMZ0FfQXCnXb5wUqZz0jvEoKxC"},
    "__backup_seal_public_key": "0" * 64,
    "__backup_public": {"database": "ssh-ed25519 AAAAC3Nz database", "files": "ssh-ed25519 AAAAC3Nz files"},
    "__backup_arrival": {"path": "/var/lib/mongodb/.arrived", "owner": "mongodb"},
    "__scheduler_active": {"release": "20260131T120000Z-0123456789ab", "fingerprint": "0" * 64},
}
# Roles that the one-box does without.
_SIMPLEST = {"balancer": "ha", "storage": "ha", "backup": "three-server"}
# Redis of each system, which its role asks for.
_REDIS = {"ubuntu-22.04": "6.0.16", "debian-12": "7.0.15"}


@cache
def _loader() -> DataLoader:
    init_plugin_loader()
    return DataLoader()


@cache
def _inventory(topology: str) -> tuple[VariableManager, InventoryManager]:
    inventory = InventoryManager(loader=_loader(), sources=[str(PROJECT / "inventory" / topology)])
    return VariableManager(loader=_loader(), inventory=inventory), inventory


def _variables(topology: str, host: str) -> dict[str, Any]:
    """What the example says about the host."""
    manager, inventory = _inventory(topology)
    variables: dict[str, Any] = manager.get_vars(host=inventory.get_host(host))
    return variables


def _groups(topology: str) -> dict[str, list[str]]:
    return {name: list(hosts) for name, hosts in _inventory(topology)[1].get_groups_dict().items()}


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    loader = _loader()
    try:
        return loader.load_from_file(str(path), trusted_as_template=True) or {}
    except TypeError:  # ansible-core 2.16
        return loader.load_from_file(str(path)) or {}


@cache
def _topology(topology: str, host: str) -> dict[str, Any]:
    """The facts that the role topology sets, from the function that derives them."""
    plugin = runpy.run_path(str(ROLES / "topology" / "action_plugins" / "derive_topology.py"))
    defaults, variables = (_load(ROLES / "topology" / folder / "main.yml") for folder in ("defaults", "vars"))
    groups = _groups(topology)
    hosts = {}
    for number, name in enumerate(groups["loyalty"]):
        known = _variables(topology, name)
        hosts[name] = {"address": f"192.0.2.{11 + number}"}
        hosts[name] |= {variable: known[variable] for variable in plugin["HOST_VARIABLES"] if variable in known}
    derived = plugin["derive"](
        hosts,
        groups,
        dict(defaults["topology_ports"]),
        ["0.0.0.0/0"],
        virtual_address=_variables(topology, host).get("site_virtual_address", ""),
    )
    assert derived["problems"] == []
    secrets = {name: f"secret-of-{name}" for name in defaults["topology_secrets"]}
    return {
        **secrets,
        "topology_ports": defaults["topology_ports"],
        "topology_hosts": derived["hosts"],
        "topology_edges": derived["edges"],
        "topology_address": derived["hosts"][host]["address"],
        "topology_services": derived["hosts"][host]["services"],
        "topology_inbound": derived["hosts"][host]["inbound"],
        "topology_bind": derived["hosts"][host]["bind"],
        "topology_memory_share": derived["hosts"][host]["memory_share"],
        "topology_mongodb_members": derived["mongodb_members"],
        "topology_mongodb_seed": derived["mongodb_seed"],
        "topology_mongodb_hosts": ",".join(member["host"] for member in derived["mongodb_members"]),
        "topology_mongodb_options": variables["__topology_mongodb_options"],
        "topology_redis_hosts": derived["redis_hosts"],
        "topology_redis_host": derived["redis_hosts"][0],
        "topology_redis_sentinels": derived["redis_sentinels"],
        "topology_redis_over_network": derived["redis_over_network"],
        "topology_balancers": derived["balancers"],
        "topology_balanced": bool(derived["balancers"]),
        "topology_virtual_address": derived["virtual_address"],
        "topology_local_url": "https://127.0.0.1:8444" if derived["balancers"] else "https://127.0.0.1",
        "topology_storage_hosts": derived["storage_hosts"],
        "topology_storage_mode": derived["storage_mode"],
        "topology_kernel_owned": True,
    }


def render(template: str, system: str, *, topology: str = "", host: str = HOST, **overrides: Any) -> str:
    """`role/templates/name.j2` for a host of an example on `system` (a key of SYSTEMS).

    The example is the simplest one that has the role, unless another is named. An undefined variable is an error.
    """
    path = ROLES / template
    templar = _templar(template.split("/", 1)[0], system, topology, host, overrides)
    text: str = templar.template(
        trust_as_template(path.read_text(encoding="utf-8")), preserve_trailing_newlines=True, escape_backslashes=False
    )
    return text


def value(role: str, variable: str, system: str, *, topology: str = "", host: str = HOST, **overrides: Any) -> Any:
    """What a variable of a role is on such a host."""
    return _templar(role, system, topology, host, overrides).template(trust_as_template("{{ " + variable + " }}"))


def _templar(role_name: str, system: str, topology: str, host: str, overrides: dict[str, Any]) -> Templar:
    loader = _loader()
    topology = topology or _SIMPLEST.get(role_name, "one-box")
    role = ROLES / role_name
    variables = {
        **_load(role / "defaults" / "main.yml"),
        **_variables(topology, host),
        "ansible_facts": SYSTEMS[system],
        "ansible_managed": "Ansible managed",
        "inventory_hostname": host,
        "inventory_dir": str(PROJECT / "inventory" / topology),
        "playbook_dir": str(PROJECT / "playbooks"),
        "groups": _groups(topology),
        **_topology(topology, host),
        **_load(role / "vars" / "main.yml"),
        **_FOUND,
        "__redis_version": _REDIS[system],
        **overrides,
    }
    loader.set_basedir(str(role))
    return Templar(loader=loader, variables=variables)
