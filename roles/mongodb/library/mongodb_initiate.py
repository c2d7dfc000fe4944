#!/usr/bin/python
"""Start the replica set of a site that has none, and never a second one beside it."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.replica_set import ACCESS_OPTIONS, NO_PYMONGO, Access, Refused, find_primary, until

try:
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure, PyMongoError
except ImportError:
    MongoClient = None

DOCUMENTATION = r"""
module: mongodb_initiate
short_description: Start the replica set of a site that has none
description:
  - Waits until every member answers. If none of them knows of a set, the local one starts it, alone and through the
    localhost exception. So it is the primary, and the first user can be made on it; the others join afterwards. With
    restored data it has its users already, and its administrator starts the set.
  - If one of them knows of a set, nothing is done. A member whose disk was replaced joins its old set by itself.
  - Runs on a member, with the Python that has PyMongo. Supports check mode.
options:
  name:
    description: Name of the replica set.
    type: str
    required: true
  host:
    description: The local member, as HOST:PORT.
    type: str
    required: true
  hosts:
    description: Every member, as HOST:PORT.
    type: list
    elements: str
    required: true
  settings:
    description: C(settings) of the new set's configuration.
    type: dict
    default: {}
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
    description: How long to wait for the members to answer and for a primary.
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
NOT_YET_INITIALIZED = 94
ANOTHER_SITE = (
    "The database has users, but its administrator has another password than the site's vault: this server was set up "
    "with another site folder. Restore that folder (site_directory) from its backup."
)


def has_users(access: Access) -> bool:
    """While there is no user, the localhost exception lets anyone on the host ask for the status."""
    try:
        access.ask("localhost", "replSetGetStatus", as_admin=False)
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:
            return True
        if error.code != NOT_YET_INITIALIZED:
            raise
    return False


def is_administered(access: Access, primary: str, host: str) -> bool:
    try:
        access.ask(primary, "replSetGetConfig")
    except OperationFailure as error:
        if error.code != AUTHENTICATION_FAILED:
            raise
        if primary != host or has_users(access):
            raise Refused(ANOTHER_SITE) from error
        return False
    return True


def initiate(params: dict[str, Any], access: Access, *, check_mode: bool) -> dict[str, Any]:
    deadline = time.monotonic() + params["timeout_seconds"]
    hosts, host = params["hosts"], params["host"]
    answers: dict[str, dict[str, Any]] = {}

    def look() -> bool:
        """A set that one member knows of exists; that there is none, all must say."""
        answers.update({name: access.hello(name) for name in hosts})
        return any("setName" in answer for answer in answers.values()) or all(answers.values())

    def silent() -> str:
        names = " ".join(name for name, answer in answers.items() if not answer)
        return (
            f"{names} did not answer, so nobody knows whether the site has a database already; a second one is never "
            f"started beside it. Look at {names}: journalctl -u mongod, nft list ruleset, and /etc/hosts on {host}."
        )

    until(look, deadline, silent)
    if not any("setName" in answer for answer in answers.values()):
        if check_mode:
            return {"changed": True, "administered": False}
        members = [{"_id": 0, "host": host}]
        configuration = {"_id": params["name"], "version": 1, "members": members, "settings": params["settings"]}
        restored = has_users(access)
        try:
            access.ask("localhost", {"replSetInitiate": configuration}, as_admin=restored)
        except OperationFailure as error:
            if error.code != AUTHENTICATION_FAILED:
                raise
            raise Refused(ANOTHER_SITE) from error
        return {"changed": True, "administered": restored, "primary": find_primary(access, [host], deadline)}
    primary = find_primary(access, hosts, deadline)
    return {"changed": False, "administered": is_administered(access, primary, host), "primary": primary}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "hosts": {"type": "list", "elements": "str", "required": True},
            "settings": {"type": "dict", "default": {}},
            **ACCESS_OPTIONS,
        },
        supports_check_mode=True,
    )
    if MongoClient is None:
        module.fail_json(msg=NO_PYMONGO)
    params = module.params
    params["settings"] = {
        name: value if isinstance(value, bool) else int(value) for name, value in params["settings"].items()
    }
    access = Access(params["port"], params["ca_file"], params["admin_password"])
    try:
        module.exit_json(**initiate(params, access, check_mode=module.check_mode))
    except (Refused, PyMongoError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
