#!/usr/bin/python
"""Restart one member of a replica set so that the set goes on: gated, after stepping down, until it has caught up."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.replica_set import (
    ACCESS_OPTIONS,
    NO_PYMONGO,
    Access,
    Refused,
    condition,
    find_primary,
    step_down,
    until,
)

try:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError
except ImportError:
    MongoClient = None

DOCUMENTATION = r"""
module: mongodb_restart
short_description: Restart the local mongod as a member of its replica set
description:
  - Before, a majority of the votes must be with other members that do not lag. A primary steps down first. Afterwards
    waits until the member has caught up, so that the next one may follow.
  - Alone in its set, in no set, or dead anyway, it is restarted at once.
  - Runs on a member, with the Python that has PyMongo. Restart one member at a time (C(throttle: 1)).
options:
  host:
    description: The local member, as HOST:PORT.
    type: str
    required: true
  hosts:
    description: Every member, as HOST:PORT.
    type: list
    elements: str
    required: true
  unit:
    description: The unit to restart.
    type: str
    default: mongod.service
  spare_primary:
    description: >-
      Leave a primary that has other members beside it alone, and say so in C(spared). Its turn is after the others'.
    type: bool
    default: false
  lag_seconds:
    description: How far a member may lag and still count as caught up.
    type: int
    default: 10
  port:
    description: Port of the local member.
    type: int
    required: true
  ca_file:
    description: Certificate authority that signed the members' certificates.
    type: path
    required: true
  admin_password:
    description: Password of the user C(admin).
    type: str
    required: true
  timeout_seconds:
    description: How long to wait for the other members before, and for this one afterwards.
    type: int
    default: 120
author: loyalty
"""

RETURN = r"""
spared:
  description: Whether this is a primary that was left alone.
  type: bool
  returned: always
"""


class Failed(Exception):
    """systemd could not restart the unit."""


def restart(module: AnsibleModule, access: Access) -> dict[str, Any]:
    params = module.params
    host, hosts, lag = params["host"], params["hosts"], params["lag_seconds"]

    def deadline() -> float:
        return time.monotonic() + params["timeout_seconds"]

    before = access.hello()
    members = [*before.get("hosts", []), *before.get("passives", [])]
    has_peers = len(members) > 1 or bool(before.get("hidden"))
    leads = bool(before.get("isWritablePrimary"))
    if leads and has_peers and params["spare_primary"]:
        return {"changed": False, "spared": True}
    if module.check_mode:
        return {"changed": True, "spared": False}

    seen = ["the primary did not say"]

    def others_suffice() -> bool:
        found = condition(access, find_primary(access, hosts, deadline()))
        seen.append(str(found))
        return found.majority_without(host, lag)

    if has_peers:
        until(others_suffice, deadline(), lambda: (
            f"{host} was not restarted: without it no majority of the votes would be with members that lag by at most "
            f"{lag} s ({seen[-1]}). Bring the others up first: journalctl -u mongod on each."
        ))  # fmt: skip
    if leads and has_peers:
        step_down(access, host, hosts, deadline())
    code, _, error = module.run_command(["systemctl", "restart", params["unit"]])
    if code:
        raise Failed(f"{params['unit']} did not start: {error.strip()}. Look at: journalctl -u {params['unit']}")

    def is_back() -> bool:
        """In no set yet, it is back when it answers; in one, when it serves and does not lag."""
        said = access.hello()
        if not said or "setName" not in before:
            return bool(said)
        if said.get("isWritablePrimary"):
            return True
        if not said.get("secondary"):
            return False
        found = condition(access, find_primary(access, hosts, deadline()))
        seen.append(str(found))
        return found.has_caught_up(host, lag)

    until(is_back, deadline(), lambda: (
        f"{host} was restarted and has not caught up in {params['timeout_seconds']} s ({seen[-1]}). "
        "Look at it: journalctl -u mongod."
    ))  # fmt: skip
    return {"changed": True, "spared": False}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "hosts": {"type": "list", "elements": "str", "required": True},
            "unit": {"type": "str", "default": "mongod.service"},
            "spare_primary": {"type": "bool", "default": False},
            "lag_seconds": {"type": "int", "default": 10},
            **ACCESS_OPTIONS,
        },
        supports_check_mode=True,
    )
    if MongoClient is None:
        module.fail_json(msg=NO_PYMONGO)
    access = Access(module.params["port"], module.params["ca_file"], module.params["admin_password"])
    try:
        module.exit_json(**restart(module, access))
    except (Refused, Failed, PyMongoError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
