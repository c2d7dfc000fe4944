#!/usr/bin/python
"""Keep the members and settings of a replica set, which community.mongodb.mongodb_replicaset does not plan."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from ansible.module_utils.replica_set_plan import Impossible, Member, Step, plan, put_off, told

try:
    from pymongo import MongoClient
    from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
except ImportError:
    MongoClient = None

DOCUMENTATION = r"""
module: mongodb_replica_set
short_description: Bring members and settings of a replica set to what is wanted
description:
  - Plans the way from the members that the set has to those that are wanted, in steps that change one vote each and
    keep a majority, and carries it out. New members join without a vote and get it when they have caught up. Before
    each step a majority of the votes must be with members that answer and do not lag.
  - A member that is not wanted is refused, unless it is named in I(leaving).
  - In check mode, and in the difference, shows the plan. In check mode there may be no set yet.
  - Runs on a host that reaches the members, with the Python that has PyMongo.
options:
  members:
    description: Every wanted member, as C(host) (HOST:PORT), C(priority) and C(hidden).
    type: list
    elements: dict
    required: true
  leaving:
    description: Members (HOST:PORT) that may be taken out.
    type: list
    elements: str
    default: []
  joining:
    description: Members (HOST:PORT) that may be added. Every wanted one where this is left out.
    type: list
    elements: str
  postponed:
    description: Wanted members (HOST:PORT) that do not join in this run; those that did already stay as they are.
    type: list
    elements: str
    default: []
  settings:
    description: Wanted values in the C(settings) of the replica set's configuration.
    type: dict
    default: {}
  lag_seconds:
    description: How far a member may lag and still count as caught up.
    type: int
    default: 10
  sync_timeout_seconds:
    description: How long a new member may take to copy the data.
    type: int
    default: 43200
  port:
    description: Port of the members.
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
    description: How long to wait for a primary, and before each step for a majority that has caught up.
    type: int
    default: 120
author: loyalty
"""

RETURN = r"""
unexpected:
  description: Members that would join or leave and may not.
  type: list
  returned: when the task failed because of them
plan:
  description: The steps, one sentence each.
  type: list
  returned: always
told:
  description: The steps as their operator reads them, in order, each with what it waits for.
  type: str
  returned: when there is a set
primary:
  description: HOST:PORT of the primary, as it was before or is after the steps.
  type: str
  returned: always
"""

# Another change of the configuration is on its way or came between: read it again, and try again.
PASSING = (103, 109, 308)


class Unexpected(Refused):
    """Members would join or leave that nobody named."""

    def __init__(self, message: str, hosts: list[str]) -> None:
        super().__init__(message)
        self.hosts = hosts


class ReplicaSet:
    """The set that `hosts` lead to."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.access = Access(params["port"], params["ca_file"], params["admin_password"])
        self.hosts = [*(member["host"] for member in params["members"]), *params["leaving"]]

    def primary(self) -> str:
        return find_primary(self.access, self.hosts, self._deadline())

    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = self.access.ask(self.primary(), "replSetGetConfig")["config"]
        return found

    def configuration_of_any(self) -> dict[str, Any] | None:
        """What some member of the set says of it, with or without a primary; None where no member answers."""
        for host in self.hosts:
            if "setName" in self.access.hello(host):
                found: dict[str, Any] = self.access.ask(host, "replSetGetConfig")["config"]
                return found
        return None

    def carry_out(self, step: Step) -> None:
        """One step, gated on a majority that has caught up. Refused where it is not there in time."""
        host = step.member.host
        self._wait_for_majority(step)
        if step.do == "step down":
            step_down(self.access, host, self.hosts, self._deadline())
            return
        if step.do == "add":
            until(lambda: self.access.hello(host), self._deadline(), lambda: (
                f"{host} does not answer, so it was not added. Is it installed? journalctl -u mongod on it; then run "
                "the playbook again."
            ))  # fmt: skip
        if step.do == "change" and step.member.votes and not self._configured(host)["votes"]:
            self._wait_until_caught_up(host, self.params["timeout_seconds"])
        self.reconfigure(lambda config: _changed(config, step))
        if step.do == "add":
            self._wait_until_caught_up(host, self.params["sync_timeout_seconds"])

    def reconfigure(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Commit the configuration that `change` makes of the present one."""
        refusals: list[str] = []

        def attempt() -> bool:
            config = self.configuration()
            config = {**change(config), "version": config["version"] + 1}
            try:
                self.access.ask(self.primary(), {"replSetReconfig": config, "maxTimeMS": 20_000})
            except ConnectionFailure as error:
                refusals.append(str(error))
                return False
            except OperationFailure as error:
                if error.code not in PASSING:
                    raise
                refusals.append(str(error))
                return False
            return True

        until(attempt, self._deadline(), lambda: f"The set did not take its new configuration: {refusals[-1]}.")

    def _configured(self, host: str) -> dict[str, Any]:
        return next(member for member in self.configuration()["members"] if member["host"] == host)

    def _wait_for_majority(self, step: Step) -> None:
        lag = self.params["lag_seconds"]
        seen = ["the primary did not say"]

        def healthy() -> bool:
            found = condition(self.access, self.primary())
            seen.append(str(found))
            return found.majority_without("", lag)

        until(healthy, self._deadline(), lambda: (
            f"Before the step “{step}”, no majority of the votes was with members that lag by at most {lag} s: "
            f"{seen[-1]}. Look at those that are behind: journalctl -u mongod. What was done before stays; run the "
            "playbook again."
        ))  # fmt: skip

    def _wait_until_caught_up(self, host: str, timeout_seconds: int) -> None:
        seen = ["the primary did not say"]

        def caught_up() -> bool:
            found = condition(self.access, self.primary())
            seen.append(str(found))
            # The primary hears of a member by heartbeats, which are older than what the member says itself.
            serves = bool(self.access.hello(host).get("secondary"))
            return serves and found.has_caught_up(host, self.params["lag_seconds"])

        until(caught_up, time.monotonic() + timeout_seconds, lambda: (
            f"{host} did not catch up in {timeout_seconds} s: {seen[-1]}. Look at it: journalctl -u mongod. If it "
            "holds data of another or a much older set: stop mongod there, move its data folder aside, start it, and "
            "run the playbook again."
        ))  # fmt: skip

    def _deadline(self) -> float:
        return time.monotonic() + self.params["timeout_seconds"]


def _changed(config: dict[str, Any], step: Step) -> dict[str, Any]:
    wanted = step.member
    values = {"host": wanted.host, "votes": wanted.votes, "priority": wanted.priority, "hidden": wanted.hidden}
    members = config["members"]
    if step.do == "add":
        # A first attempt may have gone through although its answer was lost.
        if all(member["host"] != wanted.host for member in members):
            members = [*members, {"_id": max(member["_id"] for member in members) + 1, **values}]
    elif step.do == "remove":
        members = [member for member in members if member["host"] != wanted.host]
    else:
        members = [{**member, **values} if member["host"] == wanted.host else member for member in members]
    return {**config, "members": members}


def _members(config: dict[str, Any]) -> list[Member]:
    return [
        Member(member["host"], int(member["votes"]), float(member["priority"]), bool(member["hidden"]))
        for member in config["members"]
    ]


def _described(members: list[Member], settings: dict[str, Any]) -> str:
    lines = [
        f"{member.host}: {'vote' if member.votes else 'no vote'}, priority {member.priority:g}"
        + (", hidden" if member.hidden else "")
        for member in sorted(members, key=lambda member: member.host)
    ]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in sorted(settings.items()))]) + "\n"


def refuse_unexpected(
    current: list[Member], wanted: list[Member], joining: list[str] | None, leaving: list[str]
) -> None:
    """Who holds the data is never guessed: what leaves must be named, and what joins if anything is named."""
    has, shall_have = {member.host for member in current}, {member.host for member in wanted}
    if surplus := sorted(has - shall_have - set(leaving)):
        names = " ".join(host.partition(":")[0] for host in surplus)
        raise Unexpected(
            f"{names} belongs to the replica set and is not in the inventory's group mongodb. Nothing was changed. To "
            f"take it out: ./appliance replica remove {names}. To keep it: put it back into the group.",
            surplus,
        )
    if joining is not None and (more := sorted(shall_have - has - set(joining))):
        names = " ".join(host.partition(":")[0] for host in more)
        raise Unexpected(
            f"{names} would join the replica set as well, for the inventory's group mongodb names it. Nothing was "
            f"changed. Name it too (./appliance replica add ... {names}), or take it out of the group.",
            more,
        )


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    replica_set = ReplicaSet(params)
    wanted = [Member(m["host"], 1, float(m["priority"]), bool(m["hidden"])) for m in params["members"]]
    config = replica_set.configuration_of_any()
    if config is None:
        if check_mode:
            return {"changed": False, "plan": []}
        config = replica_set.configuration()
    current = _members(config)
    wanted = put_off(wanted, params["postponed"], current)
    refuse_unexpected(current, wanted, params["joining"], params["leaving"])
    primary = replica_set.primary()
    steps = plan(current, wanted, primary=primary, dead=condition(replica_set.access, primary).dead)
    settings = {name: config.get("settings", {}).get(name) for name in params["settings"]}
    result = {
        "changed": bool(steps) or settings != params["settings"],
        "plan": [str(step) for step in steps],
        "told": told(current, steps, primary=primary, lag_seconds=params["lag_seconds"]),
        "primary": primary,
        "diff": {
            "prepared": "".join(f"{number}. {step}\n" for number, step in enumerate(steps, 1)),
            "before": _described(current, settings),
            "after": _described(wanted, params["settings"]),
        },
    }
    if check_mode or not result["changed"]:
        return result
    if settings != params["settings"]:
        replica_set.reconfigure(lambda config: {**config, "settings": {**config["settings"], **params["settings"]}})
    for step in steps:
        replica_set.carry_out(step)
    return {**result, "primary": replica_set.primary()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "members": {"type": "list", "elements": "dict", "required": True},
            "leaving": {"type": "list", "elements": "str", "default": []},
            "joining": {"type": "list", "elements": "str"},
            "postponed": {"type": "list", "elements": "str", "default": []},
            "settings": {"type": "dict", "default": {}},
            "lag_seconds": {"type": "int", "default": 10},
            "sync_timeout_seconds": {"type": "int", "default": 43200},
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
    try:
        module.exit_json(**ensure(params, check_mode=module.check_mode))
    except Unexpected as error:
        module.fail_json(msg=str(error), unexpected=error.hosts)
    except (Refused, Impossible, PyMongoError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
