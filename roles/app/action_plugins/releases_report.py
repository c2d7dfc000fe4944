"""Lay the releases of all application servers out as a table, and write them down as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

HEADINGS = ("host", "release", "version", "installed", "state")


def state_of(release: Mapping[str, Any]) -> str:
    """What there is to know before choosing a release, in a few words."""
    words = [word for word in ("active", "previous") if release[word]]
    if release["void"]:
        words.append(f"void: {release['void']['reason']}")
    return ", ".join(words)


def report(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each release of each host, the newest first, and who holds the lock."""
    rows = [list(HEADINGS)]
    notes = []
    for host, looked in hosts.items():
        for release in reversed(looked["installed"]):
            version = release.get("version") or "-"
            rows.append([host, release["release"], version, release["installed_at"], state_of(release)])
        if not looked["installed"]:
            rows.append([host, "none", "", "", ""])
        if looked["lock"]:
            lock = looked["lock"]
            notes.append(f"{host} is locked by {lock['owner']} since {lock['since']}: {lock['reason']}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *notes])


class ActionModule(ActionBase):  # type: ignore[misc]
    """`releases_report: {hosts, path}` returns `report`. `hosts` has for each what the module app_releases reports."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"hosts", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        hosts = self._task.args["hosts"]
        public = {
            host: {
                **looked,
                "active": {name: value for name, value in looked["active"].items() if name != "fingerprint"},
            }
            for host, looked in hosts.items()
        }
        path = Path(str(self._task.args["path"]))
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        draft.write_text(json.dumps(public, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(path)
        return result | {"changed": False, "report": report(hosts)}
