#!/usr/bin/python
"""Look at one host and report everything that would make an installation fail, each with its remedy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: preflight_host
short_description: Report everything that would make an installation fail on this host
description: Only looks; never changes anything. Works in check mode.
options:
  systems:
    description: Supported systems, as "ID VERSION_ID" of /etc/os-release.
    type: list
    elements: str
    required: true
  memory_mb:
    description: Least memory.
    type: int
    required: true
  cores:
    description: Least number of processor cores.
    type: int
    required: true
  disk_free_mb:
    description: Least free space, by folder.
    type: dict
    required: true
  controller_time:
    description: Seconds since 1970 on the controller, to compare clocks.
    type: float
    required: true
  clock_skew_seconds:
    description: Most difference between the clocks.
    type: float
    required: true
  ports:
    description: Ports that must be free, with the processes that may already hold each ({"443" -> ["nginx"]}).
    type: dict
    required: true
  sources:
    description: Further addresses (URLs) that packages will be fetched from.
    type: list
    elements: str
    default: []
  programs:
    description: Programs that the installation brings. If one is missing, sources of packages must be reachable.
    type: list
    elements: str
    required: true
  admin_networks:
    description: Networks that will be allowed to use SSH.
    type: list
    elements: str
    required: true
author: loyalty
"""

RETURN = r"""
problems:
  description: What would fail. Each has check, found and remedy.
  type: list
  elements: dict
  returned: always
"""

SYSTEMD_MINIMUM = 247
PYTHON_MINIMUM = (3, 9)
PROBE_SECONDS = 5.0

Problem = dict[str, str]


def problem(check: str, found: str, remedy: str) -> Problem:
    return {"check": check, "found": found, "remedy": remedy}


def system(params: dict[str, Any]) -> Iterator[Problem]:
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    found = f"{release.get('ID', '?')} {release.get('VERSION_ID', '?')}".replace('"', "")
    if found not in params["systems"]:
        yield problem("operating system", found, f"Install one of: {', '.join(params['systems'])}.")
    if platform.machine() not in ("x86_64", "aarch64"):
        yield problem("architecture", platform.machine(), "Use a 64-bit Intel, AMD or ARM machine.")
    version = tuple(int(part) for part in platform.python_version_tuple()[:2])
    if version < PYTHON_MINIMUM:
        yield problem("Python", platform.python_version(), "Set ansible_python_interpreter to a Python 3.9 or later.")
    if not Path("/run/systemd/system").is_dir():
        yield problem("systemd", "not running", "Boot the server with systemd as its first process.")
        return
    banner = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"systemd (\d+)", banner)
    if not number or int(number.group(1)) < SYSTEMD_MINIMUM:
        yield problem("systemd", banner.splitlines()[0] if banner else "unknown", f"Use {SYSTEMD_MINIMUM} or later.")


def resources(params: dict[str, Any]) -> Iterator[Problem]:
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    if memory_mb < params["memory_mb"]:
        yield problem("memory", f"{memory_mb} MB", f"Give the server at least {params['memory_mb']} MB.")
    cores = len(os.sched_getaffinity(0))
    if cores < params["cores"]:
        yield problem("processor", f"{cores} cores", f"Give the server at least {params['cores']} cores.")
    for folder, wanted in params["disk_free_mb"].items():
        existing = Path(folder)
        while not existing.exists():
            existing = existing.parent
        free_mb = shutil.disk_usage(existing).free // 2**20
        if free_mb < int(wanted):
            yield problem(f"disk {folder}", f"{free_mb} MB free", f"Free or add space: {wanted} MB are needed.")


def clock(params: dict[str, Any]) -> Iterator[Problem]:
    skew = time.time() - params["controller_time"]
    if abs(skew) > params["clock_skew_seconds"]:
        yield problem(
            "clock",
            f"{skew:+.0f} s from the controller",
            "Set the clock of whichever is wrong (date -s ..., then chrony keeps it): certificates would not be valid.",
        )


def ports(params: dict[str, Any]) -> Iterator[Problem]:
    listening = dict(_listening())
    wanted = {int(port): ours for port, ours in params["ports"].items()}
    taken = {port: inode for port, inode in listening.items() if port in wanted}
    holders = _holders(set(taken.values())) if taken else {}
    for port, inode in sorted(taken.items()):
        holder = holders.get(inode, "an unknown process")
        if holder not in wanted[port]:
            yield problem(
                f"port {port}",
                f"used by {holder}",
                f"Stop and disable {holder}, or move it to another port: {wanted[port][0]} needs this one.",
            )


def _listening() -> Iterator[tuple[int, str]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    yield int(fields[1].rsplit(":", 1)[1], 16), fields[9]


def _holders(inodes: set[str]) -> dict[str, str]:
    """The name of the process that holds each socket."""
    found: dict[str, str] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                for descriptor in (process / "fd").iterdir():
                    inode = os.readlink(descriptor)[8:-1]
                    if inode in inodes:
                        found[inode] = (process / "comm").read_text(encoding="utf-8").strip()
            except OSError:
                continue  # The process ended, or is not ours to look at.
    return found


def way_in(params: dict[str, Any]) -> Iterator[Problem]:
    """The firewall must not cut off whoever sets it up."""
    client = _ssh_client()
    if client and not any(ip_address(client) in ip_network(network) for network in params["admin_networks"]):
        yield problem(
            "way in",
            f"you are connected from {client}",
            f"site_admin_networks would lock you out: add {client}, or its network, to it.",
        )


def _ssh_client() -> str:
    """The address that this very session came from; sudo hides it from us, but not from its own parents."""
    process = os.getpid()
    while process > 1:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        except OSError:
            return ""
        for variable in environment:
            if variable.startswith(b"SSH_CONNECTION="):
                return variable.split(b"=", 1)[1].decode().split(" ")[0].split("%")[0]
        process = int(status.rpartition(")")[2].split()[1])
    return ""


def sources(params: dict[str, Any]) -> Iterator[Problem]:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if all(shutil.which(program, path=places) for program in params["programs"]):
        return
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    proxy = re.search(r'^Acquire::https?::Proxy "(.+)";', settings, re.MULTILINE)
    if proxy and proxy.group(1) != "DIRECT":
        yield from _unreachable({proxy.group(1)}, "the proxy that apt is told to use")
        return
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=False
    ).stdout
    addresses = {line.strip() for line in listed.splitlines() if line.strip().startswith("http")}
    if not addresses:
        yield problem("package source", "none", "Add the distribution's sources to /etc/apt/sources.list.")
    yield from _unreachable(addresses | set(params["sources"]), "a source of packages")


def _unreachable(addresses: set[str], what: str) -> Iterator[Problem]:
    for address in sorted(addresses):
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            yield problem(
                f"reach {host}",
                str(error.strerror or error),
                f"It is {what}. Check DNS (getent hosts {host}), routing and firewall, or set a proxy for apt.",
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "systems": {"type": "list", "elements": "str", "required": True},
            "memory_mb": {"type": "int", "required": True},
            "cores": {"type": "int", "required": True},
            "disk_free_mb": {"type": "dict", "required": True},
            "controller_time": {"type": "float", "required": True},
            "clock_skew_seconds": {"type": "float", "required": True},
            "ports": {"type": "dict", "required": True},
            "sources": {"type": "list", "elements": "str", "default": []},
            "programs": {"type": "list", "elements": "str", "required": True},
            "admin_networks": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    checks = (system, resources, clock, ports, way_in, sources)
    found = [item for check in checks for item in check(module.params)]
    module.exit_json(changed=False, problems=found)


if __name__ == "__main__":
    main()
