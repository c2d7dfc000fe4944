#!/usr/bin/python
"""Find the services that still run code which an upgrade has replaced on disk."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: outdated_services
short_description: Find the services that still run code which was replaced
description:
  - A process goes on with the program and the libraries that it has loaded, also when an upgrade has put others in
    their place; a hole that was closed on disk stays open in it until it starts anew.
  - Names running services, as units of systemd. Changes nothing. Works in check mode.
options: {}
author: loyalty
"""

RETURN = r"""
services:
  description: Units that run replaced code, sorted.
  type: list
  returned: always
"""

# address perms offset device inode path: code (executable), of a file that has no name any more.
REPLACED = re.compile(r"^\S+ ..x\S* \S+ \S+ \S+ +/(?:usr|lib|lib64|bin|sbin|opt)/.* \(deleted\)$", re.MULTILINE)
UNIT = re.compile(r"/([^/]+\.service)(?:/|$)", re.MULTILINE)


def outdated(proc: Path, running: Collection[str]) -> list[str]:
    """The units among `running` that have a process with replaced code. `proc` is /proc."""
    found = set()
    for process in proc.glob("[0-9]*"):
        try:
            if REPLACED.search((process / "maps").read_text(errors="replace")):
                found.update(UNIT.findall((process / "cgroup").read_text()))
        except OSError:  # it has ended
            continue
    return sorted(found.intersection(running))


def running() -> list[str]:
    """Services that have started; one that does its work and ends (a backup) is not among them."""
    command = ["systemctl", "list-units", "--type=service", "--state=active", "--plain", "--no-legend", "--full"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, services=outdated(Path("/proc"), running()))
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"systemctl does not answer: {error.stderr.strip()}")


if __name__ == "__main__":
    main()
