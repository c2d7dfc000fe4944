#!/usr/bin/python
"""Initiate a replica set and keep its settings, which community.mongodb.mongodb_replicaset does not look at."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from pymongo import MongoClient
    from pymongo.errors import ConnectionFailure, OperationFailure
except ImportError:
    MongoClient = None

DOCUMENTATION = r"""
module: mongodb_replica_set
short_description: Initiate a replica set and keep its settings
description:
  - Initiates the set through the localhost exception if no member knows of it, and waits for a primary.
  - Brings the set's settings to the wanted values. Adding and removing members is not done here.
  - Runs on a member, with the Python that has PyMongo. Supports check mode.
options:
  name:
    description: Name of the replica set.
    type: str
    required: true
  port:
    description: Port of the local member.
    type: int
    required: true
  ca_file:
    description: Certificate authority that signed the members' certificates.
    type: path
    required: true
  members:
    description: Every member, as C(host) (HOST:PORT), C(priority) and C(hidden).
    type: list
    elements: dict
    required: true
  settings:
    description: Wanted values in the C(settings) of the replica set's configuration.
    type: dict
    default: {}
  admin_password:
    description: Password of the user C(admin), to read and change settings.
    type: str
    required: true
  timeout_seconds:
    description: How long to wait for the server to answer and for a primary.
    type: int
    default: 120
author: loyalty
"""

RETURN = r"""
administered:
  description: Whether the user C(admin) can log in. If not, it is to be created through the localhost exception.
  type: bool
  returned: always
primary:
  description: HOST:PORT of the primary.
  type: str
  returned: when there is one
"""

AUTHENTICATION_FAILED = 18
UNAUTHORIZED = 13


class Refused(Exception):
    """The set is not where it should be; the message says what to do."""


def connect(params: dict[str, Any], *, as_admin: bool = False) -> Any:
    credentials = {"username": "admin", "password": params["admin_password"]} if as_admin else {}
    return MongoClient(
        "localhost",
        params["port"],
        directConnection=True,
        tls=True,
        tlsCAFile=params["ca_file"],
        serverSelectionTimeoutMS=3000,
        **credentials,
    )


def hello(client: Any, deadline: float) -> dict[str, Any]:
    """What the local member says of itself, as soon as it answers."""
    while True:
        try:
            answer: dict[str, Any] = client.admin.command("hello")
            return answer
        except ConnectionFailure as error:
            if time.monotonic() > deadline:
                raise Refused(f"mongod does not answer: {error}. Look at: journalctl -u mongod") from error
            time.sleep(0.2)


def wait_for_primary(client: Any, deadline: float) -> str:
    while True:
        answer = hello(client, deadline)
        if answer.get("primary"):
            return str(answer["primary"])
        if time.monotonic() > deadline:
            raise Refused(
                "No primary was elected. A majority of the members must run and reach each other: "
                "journalctl -u mongod on each, and the names in /etc/hosts."
            )
        time.sleep(0.2)


def initiated(client: Any) -> bool:
    """A member of a set names it in `hello`; before, it only says that it would like to be one."""
    return "setName" in client.admin.command("hello")


def has_users(client: Any) -> bool:
    """While there is no user, the localhost exception lets anyone on the host ask for the status."""
    try:
        client.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:
            return True
        raise
    return False


def configuration(params: dict[str, Any]) -> dict[str, Any]:
    members = [
        {
            "_id": number,
            "host": member["host"],
            "priority": float(member["priority"]),
            "hidden": bool(member["hidden"]),
        }
        for number, member in enumerate(params["members"])
    ]
    return {"_id": params["name"], "version": 1, "members": members, "settings": params["settings"]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "ca_file": {"type": "path", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True},
            "settings": {"type": "dict", "default": {}},
            "admin_password": {"type": "str", "required": True, "no_log": True},
            "timeout_seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if MongoClient is None:
        module.fail_json(msg="PyMongo is missing in the Python of this task. Let ansible_python_interpreter name one.")
    params = module.params
    params["settings"] = {name: int(value) for name, value in params["settings"].items()}
    try:
        module.exit_json(**ensure(params, check_mode=module.check_mode))
    except (Refused, ConnectionFailure, OperationFailure) as error:
        module.fail_json(msg=str(error))


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    deadline = time.monotonic() + params["timeout_seconds"]
    client = connect(params)
    hello(client, deadline)
    if not initiated(client):
        if check_mode:
            return {"changed": True, "administered": False}
        client.admin.command("replSetInitiate", configuration(params))
        return {"changed": True, "administered": False, "primary": wait_for_primary(client, deadline)}

    primary = wait_for_primary(client, deadline)
    admin = connect(params, as_admin=True)
    try:
        found = admin.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != AUTHENTICATION_FAILED:
            raise
        if has_users(client):
            raise Refused(
                "The database has users, but its administrator has another password than the site's vault: this server "
                "was set up with another site folder. Restore that folder (site_directory) from its backup."
            ) from error
        return {"changed": False, "administered": False, "primary": primary}
    before = {name: found.get("settings", {}).get(name) for name in params["settings"]}
    result = {
        "changed": before != params["settings"],
        "administered": True,
        "primary": primary,
        "diff": {"before": before, "after": params["settings"]},
    }
    if result["changed"] and not check_mode:
        found["version"] += 1
        found["settings"].update(params["settings"])
        # Only the primary can change the set, and it need not be this member.
        host, _, port = primary.rpartition(":")
        MongoClient(
            host,
            int(port),
            directConnection=True,
            tls=True,
            tlsCAFile=params["ca_file"],
            username="admin",
            password=params["admin_password"],
        ).admin.command("replSetReconfig", found)
    return result


if __name__ == "__main__":
    main()
