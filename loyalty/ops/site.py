"""A lab site on disk: its names, its addresses, its keys, and the inventory that points Ansible at its servers."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from loyalty.ops.errors import Refusal
from loyalty.ops.process import run

CHECKOUT = Path(__file__).resolve().parents[2]
LAB_DIRECTORY = CHECKOUT / ".lab"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_FLOATING = 10
"""The address that balancers share; the bridge has the first of the subnet."""
_FIRST_SERVER = 11
"""Servers get their addresses from here on."""


@dataclass
class Site:
    """What must outlive a command, in ``site.json``: topology, subnet, each server's address and its base tree."""

    name: str
    subnet: IPv4Network | None = None
    base: str = ""
    addresses: dict[str, str] = field(default_factory=dict)
    cgroups: dict[str, list[str]] = field(default_factory=dict)
    topology: str = "one-box"

    def __post_init__(self) -> None:
        check_name("site", self.name)

    @classmethod
    def load(cls, name: str) -> Site:
        """Read the site's state, or return an empty one."""
        site = cls(name)
        if site.state_file.exists():
            stored: dict[str, Any] = json.loads(site.state_file.read_text())
            site.topology = stored.get("topology", site.topology)
            site.subnet = IPv4Network(stored["subnet"]) if stored["subnet"] else None
            site.base = stored["base"]
            site.addresses = stored["addresses"]
            site.cgroups = stored["cgroups"]
        return site

    def save(self) -> None:
        """Write the state so that a crash leaves either the old or the new."""
        self.make_directory()
        stored = {
            "site": self.name,
            "topology": self.topology,
            "subnet": str(self.subnet) if self.subnet else None,
            "base": self.base,
            "addresses": self.addresses,
            "cgroups": self.cgroups,
        }
        write_atomically(self.state_file, json.dumps(stored, indent=2) + "\n")

    @property
    def tag(self) -> str:
        """Name the site on this machine in at most 11 characters, distinct for each checkout and site."""
        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()[:4]
        return f"{self.name[:6].rstrip('-')}-{digest}"

    @property
    def directory(self) -> Path:
        """Everything of the site: state, keys, vault, servers, logs."""
        return LAB_DIRECTORY / "sites" / self.name

    @property
    def state_file(self) -> Path:
        """The file that says which subnet and addresses the site has."""
        return self.directory / "site.json"

    @property
    def inventory(self) -> Path:
        """The overlay that Ansible reads after the project's inventory."""
        return self.directory / "inventory"

    @property
    def key(self) -> Path:
        """The private SSH key that opens the site's servers, and only those."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The servers' host keys, taken from their disks and not from the network."""
        return self.directory / "known_hosts"

    @property
    def logs(self) -> Path:
        """One file for each run of a playbook."""
        return self.directory / "logs"

    def server_directory(self, host: str) -> Path:
        """Return where the server's layers and console log are."""
        return self.directory / "servers" / host

    def make_directory(self) -> None:
        """Make the site's directory, closed to everybody but root: it holds keys and secrets."""
        for directory in (LAB_DIRECTORY, LAB_DIRECTORY / "sites", self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)

    def allot_address(self, host: str) -> str:
        """Return the host's address; a new host gets the lowest free one and keeps it."""
        check_name("host", host)
        if self.subnet is None:
            raise Refusal(f"The site {self.name} has no network yet.", f"./appliance lab up --site {self.name}")
        if host not in self.addresses:
            used = set(self.addresses.values())
            candidates = (str(self.subnet[number]) for number in range(_FIRST_SERVER, 255))
            self.addresses[host] = next(address for address in candidates if address not in used)
        return self.addresses[host]

    def make_key(self) -> None:
        """Make the SSH key if there is none."""
        self.make_directory()
        if not self.key.exists():
            # ssh-keygen writes two files: only a pair that is whole gets the name.
            draft = self.directory / "id_ed25519.new"
            draft.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab site {self.name}", "-f", str(draft)])
            draft.with_name("id_ed25519.new.pub").rename(self.key.with_name("id_ed25519.pub"))
            draft.rename(self.key)

    def ssh_options(self) -> list[str]:
        """Return the options that make ssh use this site's key and trust this site's servers, and nothing else."""
        return [
            "-F", "none",
            "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={self.known_hosts}",
            "-o", "GlobalKnownHostsFile=none",
            "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=10",
        ]  # fmt: skip

    def write_inventory(self) -> None:
        """Write the overlay: addresses and keys of the hosts, and the few variables in which a lab differs."""
        groups = topology_groups(self.topology)
        hosts: dict[str, dict[str, Any]] = {
            host: {
                "ansible_host": address,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": " ".join(self.ssh_options()),
                "ansible_python_interpreter": "/usr/bin/python3",
            }
            for host, address in sorted(self.addresses.items(), key=lambda pair: ipaddress.ip_address(pair[1]))
        }
        for host in hosts.keys() & set(groups.get("backup", ())):
            # Lab servers have no second disk.
            hosts[host] |= {"backup_device": "", "backup_same_disk_enabled": True}
        if self.subnet is None:
            raise Refusal(f"The site {self.name} has no network yet.", f"./appliance lab up --site {self.name}")
        floating = str(self.subnet[_FLOATING]) if "balancer" in groups else ""
        # Group variables have to stand in group_vars to come after the project's own group_vars.
        variables = {
            "site_name": self.name,
            "site_domain": f"{self.name}.test",
            "site_directory": str(self.directory),
            "site_virtual_address": floating,
            # No name server knows the lab's domain; the certificate names the address.
            "mongodb_drill_url": f"https://{floating or self.addresses.get(groups['nginx'][0], '')}",
            "mongodb_source": "pypi",
            # The demo's shop.
            "site_currency": "USD",
            "site_timezone": "UTC",
        }
        (self.inventory / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
        head = "---\n# Written by `lab up`; the next one overwrites it.\n"
        write_atomically(
            self.inventory / "hosts.yml", head + yaml.safe_dump({"all": {"hosts": hosts}}, sort_keys=False)
        )
        write_atomically(
            self.inventory / "group_vars" / "all" / "lab.yml", head + yaml.safe_dump(variables, sort_keys=False)
        )


def topologies() -> list[str]:
    """Return the names of the example inventories, each a topology that the lab can build."""
    return sorted(file.parent.name for file in (CHECKOUT / "inventory").glob("*/hosts.yml"))


def topology_groups(topology: str) -> dict[str, list[str]]:
    """Return the groups of an example inventory, each with its hosts. Raises Refusal if there is no such example."""
    file = CHECKOUT / "inventory" / topology / "hosts.yml"
    if topology not in topologies():
        raise Refusal(f"There is no topology {topology}.", f"Choose from: {', '.join(topologies())}.")
    children: dict[str, Any] = yaml.safe_load(file.read_text())["loyalty"]["children"]
    return {group: list((content or {}).get("hosts") or {}) for group, content in children.items()}


def topology_hosts(topology: str) -> tuple[str, ...]:
    """Return the hosts of an example inventory, each once, in the order in which they are named."""
    return tuple(dict.fromkeys(host for hosts in topology_groups(topology).values() for host in hosts))


def check_name(what: str, name: str) -> None:
    """Refuse a name that could not be a host name, a file name and a part of an interface name alike."""
    if not _NAME.fullmatch(name):
        raise Refusal(f"{name!r} cannot be the name of a {what}.", "Use a-z, 0-9 and -, a letter first, 31 at most.")


def write_atomically(file: Path, text: str, *, mode: int = 0o600) -> None:
    """Write ``file`` so that a reader, or the next command after a crash, sees all of it or the old one."""
    draft = file.with_name(file.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def sites() -> list[str]:
    """Return the names of the lab sites of this checkout."""
    directory = LAB_DIRECTORY / "sites"
    return sorted(path.parent.name for path in directory.glob("*/site.json")) if directory.exists() else []
