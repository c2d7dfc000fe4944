#!/usr/bin/python
"""Ask this host's member of the replica set how it and the others are."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError
except ImportError:
    MongoClient = None
    PyMongoError = Exception

DOCUMENTATION = r"""
module: mongodb_state
short_description: Report the replica set as the member on this host sees it
description:
  - Only looks; never changes anything. A member that does not answer is reported, never an error.
  - Runs on a member, with the Python that has PyMongo, as the user C(loyalty_monitor), who can read nobody's data.
options:
  port:
    description: Port of the local member.
    type: int
    required: true
  ca_file:
    description: Certificate authority that signed the members' certificates.
    type: path
    required: true
  password:
    description: Password of the user C(loyalty_monitor).
    type: str
    required: true
author: loyalty
"""

RETURN = r"""
mongodb:
  description: >-
    C(error), or C(self) (state of this member), C(members) (host, state, lag_seconds, priority, hidden), C(oplog_hours)
    and C(oplog_wrapped) (whether the operation log has begun to drop its oldest).
  type: dict
  returned: always
"""

PATIENCE_MS = 3000


def member_rows(status: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """The members, each with its distance behind the primary in seconds (None where nobody knows)."""
    settings = {member["_id"]: member for member in config["members"]}
    ahead = [member["optimeDate"] for member in status["members"] if member["stateStr"] == "PRIMARY"]
    rows = []
    for member in status["members"]:
        behind = None
        if ahead and member["stateStr"] in ("PRIMARY", "SECONDARY"):
            behind = max(0.0, (ahead[0] - member["optimeDate"]).total_seconds())
        rows.append(
            {
                "host": member["name"].rpartition(":")[0],
                "state": member["stateStr"] if member["health"] else "UNREACHABLE",
                "lag_seconds": behind,
                "priority": settings[member["_id"]].get("priority", 1),
                "hidden": bool(settings[member["_id"]].get("hidden")),
            }
        )
    return rows


def look(params: dict[str, Any]) -> dict[str, Any]:
    client: Any = MongoClient(
        "localhost",
        params["port"],
        directConnection=True,
        tls=True,
        tlsCAFile=params["ca_file"],
        username="loyalty_monitor",
        password=params["password"],
        serverSelectionTimeoutMS=PATIENCE_MS,
        connectTimeoutMS=PATIENCE_MS,
        socketTimeoutMS=PATIENCE_MS,
    )
    status = client.admin.command("replSetGetStatus")
    config = client.admin.command("replSetGetConfig")["config"]
    server = client.admin.command("serverStatus", oplog=1)
    log = server["oplog"]
    seconds = log["latestOptime"].time - log["earliestOptime"].time
    return {
        "self": next(member["stateStr"] for member in status["members"] if member.get("self")),
        "members": member_rows(status, config),
        "oplog_hours": round(seconds / 3600, 1),
        "oplog_wrapped": server.get("oplogTruncation", {}).get("truncateCount", 0) > 0,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "ca_file": {"type": "path", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    if MongoClient is None:
        module.fail_json(msg="PyMongo is missing in the Python of this task. Let ansible_python_interpreter name one.")
    try:
        found = look(module.params)
    except PyMongoError as error:
        found = {"error": str(error).split(", Timeout:")[0].split(" (configured")[0]}
    module.exit_json(changed=False, mongodb=found)


if __name__ == "__main__":
    main()
