#!/usr/bin/python
"""The deploy lock of one host: who works on its application, why, and until when."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: deploy_lock
short_description: Take or give back the deploy lock of this host
description:
  - The lock is a file that says who holds it, why, and until when. Taken again with the same token it is prolonged;
    one that has run out is taken over.
  - Taking and giving back reports no change, because a run leaves the host without a lock as it has found it. Breaking
    the lock of somebody else does.
options:
  path:
    description: The file. Its folder must exist.
    type: path
    required: true
  token:
    description: What this run is known by. Only the holder's token, or I(force), opens the lock.
    type: str
    required: true
  state:
    description: Whether the lock is taken or given back.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description: Who takes it.
    type: str
    default: ""
  reason:
    description: What for.
    type: str
    default: ""
  minutes:
    description: When it runs out, should nobody give it back.
    type: int
    default: 30
  force:
    description: Give back the lock of somebody else.
    type: bool
    default: false
author: loyalty (@loyalty)
"""

EXAMPLES = r"""
- name: Take the lock
  deploy_lock:
    path: /opt/loyalty/deploy.lock
    token: "{{ __app_lock_token }}"
    owner: alice
    reason: a new release
"""

RETURN = r"""
holder:
  description: Who held the lock before, without the token. Empty when nobody did.
  type: dict
  returned: always
"""


def instant(seconds: float) -> str:
    """An instant as people and scripts read it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def read_lock(path: Path, now: float) -> dict[str, Any]:
    """What the lock says; empty when there is none, or it has run out, or it cannot be read."""
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return held if float(held["expires"]) > now else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def write_lock(path: Path, held: dict[str, Any]) -> None:
    """All or nothing, and for root alone: the token opens the lock."""
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(held, stream, sort_keys=True)
    draft.replace(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of two runs that look at once, one looks first. The process may outlive the look, so the lock is given back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def answer(module: AnsibleModule, path: Path) -> NoReturn:
    """Take the lock or give it back, as the module was asked, and say so."""
    wanted = module.params
    now = time.time()
    held = read_lock(path, now)
    holder = {name: value for name, value in held.items() if name != "token"}
    foreign = bool(held) and held["token"] != wanted["token"]
    if wanted["state"] == "absent":
        if (wanted["force"] or not foreign) and not module.check_mode:
            path.unlink(missing_ok=True)
        module.exit_json(changed=bool(held) and wanted["force"], holder=holder)
    if foreign:
        module.fail_json(
            msg=f"{held['owner']} works here since {held['since']}: {held['reason']}. Wait until it is done; if that "
            f"run is gone, its lock ends at {instant(held['expires'])}, or open it now: ./appliance unlock --force",
            holder=holder,
        )
    if not module.check_mode:
        lock = {
            "token": wanted["token"],
            "owner": wanted["owner"],
            "reason": wanted["reason"],
            "since": held.get("since", instant(now)),
            "expires": now + 60 * wanted["minutes"],
        }
        write_lock(path, lock)
    module.exit_json(changed=False, holder=holder)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "token": {"type": "str", "required": True, "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "owner": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "minutes": {"type": "int", "default": 30},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    if not path.parent.is_dir():
        module.fail_json(msg=f"{path.parent} is missing: there is no application here yet. Run the playbook site.yml.")
    with alone(path.parent):
        answer(module, path)


if __name__ == "__main__":
    main()
