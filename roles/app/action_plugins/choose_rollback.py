"""Choose the release that a site goes back to, and the one that it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


def choose(hosts: Mapping[str, Mapping[str, Any]], named: str = "") -> dict[str, str]:
    """`release` to go back to, and `bad`, which is not chosen again unless it is named.

    `hosts` has for each host what the module app_releases reports. A deploy that stopped half way has left hosts with
    different releases; the bad one is what was switched to last. AnsibleError when nothing can be chosen.
    """
    active = {name: looked["active"] for name, looked in hosts.items() if looked["active"]}
    if not active:
        raise AnsibleError("No host runs the application yet: there is nothing to go back from. Run: ./appliance apply")
    latest = max(active, key=lambda name: str(active[name].get("since", "")))
    bad = str(active[latest]["release"])
    installed = hosts[latest]["installed"]
    if named:
        found = [release for release in installed if named in (release["release"], release["sha"])]
        if not found:
            there = ", ".join(release["release"] for release in installed)
            raise AnsibleError(
                f"There is no release {named} on {latest}; there are {there}. Name one of these, or build another "
                "version: ./appliance deploy VERSION"
            )
        release = str(found[-1]["release"])
        if release == bad and all(looked["release"] == bad for looked in active.values()):
            raise AnsibleError(f"{release} runs already on every host. `./appliance releases` lists the others.")
        return {"release": release, "bad": "" if release == bad else bad}
    candidates = [release for release in installed if release["release"] != bad and not release["void"]]
    if not candidates:
        raise AnsibleError(
            f"{latest} has no release to go back to from {bad}: all others are void or gone. Name one "
            "(./appliance releases), or build another version: ./appliance deploy VERSION"
        )
    previous = [release for release in candidates if release["previous"]]
    return {"release": str((previous or candidates)[-1]["release"]), "bad": bad}


class ActionModule(ActionBase):  # type: ignore[misc]
    """`choose_rollback: {hosts, release}` returns `release` and `bad`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"hosts", "release"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        chosen = choose(self._task.args["hosts"], str(self._task.args.get("release", "")))
        return result | {"changed": False, **chosen}
