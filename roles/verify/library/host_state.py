#!/usr/bin/python
"""Look at one host: its units, disks, certificate, release and listening addresses."""

from __future__ import annotations

import calendar
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_state
short_description: Report units, disks, certificate, release and listening addresses of this host
description: Only looks; never changes anything. What does not exist is reported as missing, never as an error.
options:
  services:
    description: Services that the topology puts on this host.
    type: list
    elements: str
    required: true
  release_directory:
    description: Where the role app keeps the releases.
    type: path
    required: true
  storage_path:
    description: The file store.
    type: path
    required: true
  certificate:
    description: The certificate that visitors see.
    type: path
    required: true
author: loyalty (@loyalty)
"""

EXAMPLES = r"""
- name: Look at the host
  host_state:
    services: "{{ topology_services }}"
    release_directory: /opt/loyalty
    storage_path: /mnt/storage
    certificate: /etc/loyalty/tls/site.crt
"""

RETURN = r"""
state:
  description: C(units), C(disks), C(certificate), C(release), C(listening), C(versions).
  type: dict
  returned: always
"""

UNITS = {
    "nginx": "nginx.service",
    "scheduler": "loyalty-jobs.service",
    "mongodb": "mongod.service",
    "redis": "redis-server.service",
}
VERSIONS = {
    "mongodb": ("--version", r"db version v([\d.]+)"),
    "redis": ("--version", r"v=([\d.]+)"),
    "nginx": ("-v", r"nginx/([\d.]+)"),
}


def said(*command: str) -> str:
    """What a command prints, both streams; empty when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def unit_state(unit: str) -> dict[str, Any]:
    """State, start instant and restarts of one unit."""
    shown = said("systemctl", "show", unit, "--property=ActiveState,SubState,NRestarts,ActiveEnterTimestamp")
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {
        "unit": unit,
        "state": found.get("ActiveState", "unknown"),
        "sub_state": found.get("SubState", "unknown"),
        "restarts": int(found.get("NRestarts") or 0),
        "since": found.get("ActiveEnterTimestamp", ""),
    }


def certificate_state(path: Path) -> dict[str, Any] | None:
    """When the certificate ends. None when there is none."""
    match = re.search(r"notAfter=(.+)", said("openssl", "x509", "-noout", "-enddate", "-in", str(path)))
    if match is None:
        return None
    ends = calendar.timegm(time.strptime(match.group(1).strip(), "%b %d %H:%M:%S %Y %Z"))
    return {
        "path": str(path),
        "not_after": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends)),
        "days_left": int((ends - time.time()) // 86400),
    }


def disk_state(path: str) -> dict[str, Any] | None:
    """Size and free space of the file system that holds `path`."""
    if not os.path.isdir(path):
        return None
    usage = shutil.disk_usage(path)
    return {"total_bytes": usage.total, "free_bytes": usage.free, "free_percent": round(100 * usage.free / usage.total)}


def release_state(directory: Path) -> dict[str, Any] | None:
    """The active colour and release, without the fingerprint of their settings."""
    try:
        active: dict[str, Any] = json.loads((directory / "active.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return {name: active[name] for name in ("colour", "release", "previous")}


def listening() -> list[str]:
    """Local addresses with a TCP listener."""
    return sorted({line.split()[3] for line in said("ss", "-H", "-ltn").splitlines() if len(line.split()) > 3})


def version_of(service: str) -> str | None:
    """The version of the program that runs, wherever it was installed from."""
    option, pattern = VERSIONS[service]
    pid = said("systemctl", "show", UNITS[service], "--property=MainPID", "--value").strip()
    match = re.search(pattern, said(f"/proc/{pid}/exe", option))
    return match.group(1) if match else None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "release_directory": {"type": "path", "required": True},
            "storage_path": {"type": "path", "required": True},
            "certificate": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    services = module.params["services"]
    release = release_state(Path(module.params["release_directory"]))
    units = {service: unit_state(UNITS[service]) for service in services if service in UNITS}
    if "app" in services:
        units["app"] = unit_state(f"loyalty@{release['colour'] if release else 'blue'}.service")
    paths = ["/", *([module.params["storage_path"]] if "storage" in services else [])]
    state = {
        "services": services,
        "units": units,
        "release": release,
        "disks": {path: disk_state(path) for path in paths},
        "certificate": certificate_state(Path(module.params["certificate"])) if "nginx" in services else None,
        "listening": listening(),
        "versions": {service: version_of(service) for service in services if service in VERSIONS},
    }
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
