#!/usr/bin/python
"""Look at the releases of the application on one host."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_releases
short_description: Report the releases of the application on this host
description: Only looks. A host without the application has no releases.
options:
  directory:
    description: Where the role app keeps the releases.
    type: path
    required: true
author: loyalty (@loyalty)
"""

EXAMPLES = r"""
- name: Look at the releases
  app_releases:
    directory: /opt/loyalty
"""

RETURN = r"""
releases:
  description:
    - C(active) (colour, release, previous, since, fingerprint; empty before the first), C(installed) (the finished
      releases, the oldest first, each with what RELEASE.json says, C(active), C(previous) and C(void)), C(void) (why a
      release must not be chosen, by its sha), C(lock) (who works here; empty when nobody does).
  type: dict
  returned: always
"""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def look(directory: Path, now: float) -> dict[str, Any]:
    """All that is known here of releases."""
    active = read_json(directory / "active.json")
    void = {path.stem: read_json(path) for path in sorted(directory.glob("void/*.json"))}
    installed = []
    for path in sorted(directory.glob("releases/*/RELEASE.json")):
        release = read_json(path)
        release["active"] = release["release"] == active.get("release")
        release["previous"] = release["release"] == active.get("previous") and not release["active"]
        release["void"] = void.get(release["sha"])
        installed.append(release)
    lock = {name: value for name, value in read_json(directory / "deploy.lock").items() if name != "token"}
    if lock.get("expires", 0) <= now:
        lock = {}
    return {"active": active, "installed": installed, "void": void, "lock": lock}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, releases=look(Path(module.params["directory"]), time.time()))


if __name__ == "__main__":
    main()
