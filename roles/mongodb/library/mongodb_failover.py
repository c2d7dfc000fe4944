#!/usr/bin/python
"""See that a replica set can lose its primary, and let the primary hand over."""

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
module: mongodb_failover
short_description: See that a replica set can lose its primary, and let the primary hand over
description:
  - Waits until the set has a primary and every member has caught up, and fails if that does not come or if the others
    alone would be no majority.
  - Then lets the primary step down, if it is to, and waits for the next one.
  - Runs on a member, with the Python that has PyMongo.
options:
  hosts:
    description: Every member, as HOST:PORT.
    type: list
    elements: str
    required: true
  hand_over:
    description: Whether the primary shall step down.
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
    description: How long to wait for the members, and for the next primary.
    type: int
    default: 120
author: loyalty
"""

RETURN = r"""
primary:
  description: HOST:PORT of the primary, after the handing over if there was one.
  type: str
  returned: always
"""


def failover(module: AnsibleModule, access: Access) -> dict[str, Any]:
    params = module.params
    hosts, lag = params["hosts"], params["lag_seconds"]
    deadline = time.monotonic() + params["timeout_seconds"]
    seen = ["no member answers"]

    def whole() -> str:
        found = condition(access, find_primary(access, hosts, deadline))
        seen[:] = [str(found)]
        caught_up = all(found.has_caught_up(host, lag) for host in found.votes)
        return found.primary if caught_up and found.majority_without(found.primary, lag) else ""

    primary = str(
        until(
            whole,
            deadline,
            lambda: (
                f"The replica set would not survive the loss of its primary ({seen[0]}). It takes three members that "
                f"lag by at most {lag} s. Mend the one that is missing (journalctl -u mongod), or add members: "
                "./appliance replica add --help"
            ),
        )
    )
    if params["hand_over"] and not module.check_mode:
        primary = step_down(access, primary, hosts, time.monotonic() + params["timeout_seconds"])
    return {"changed": params["hand_over"], "primary": primary}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hosts": {"type": "list", "elements": "str", "required": True},
            "hand_over": {"type": "bool", "default": False},
            "lag_seconds": {"type": "int", "default": 10},
            **ACCESS_OPTIONS,
        },
        supports_check_mode=True,
    )
    if MongoClient is None:
        module.fail_json(msg=NO_PYMONGO)
    access = Access(module.params["port"], module.params["ca_file"], module.params["admin_password"])
    try:
        module.exit_json(**failover(module, access))
    except (Refused, PyMongoError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
