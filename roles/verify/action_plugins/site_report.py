"""Judge what was seen of a site by the catalogue of checks, write it down as JSON, and lay it out on one screen."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Ansible's Python does not know the checkout that its playbooks stand in; the catalogue needs nothing but Python.
sys.path.append(str(Path(__file__).parents[3]))
from loyalty.ops.checks import drills, samples
from loyalty.ops.checks.catalogue import Limits
from loyalty.ops.checks.judge import judge
from loyalty.ops.checks.screen import screen


class ActionModule(ActionBase):  # type: ignore[misc]
    """`site_report: {seen, application, ledger, limits, site_directory, path}` returns `report` and `problems`.

    `seen` is the document of `loyalty/ops/checks/seen.py` but for what is known here: what the commands `application`
    and `ledger` printed, the drills and the earlier samples of the site's directory, and the instant.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"seen", "application", "ledger", "limits", "site_directory", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        directory = Path(str(args["site_directory"]))
        now = time.time()
        seen = {
            **args["seen"],
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "application": _parsed(args.get("application")),
            "ledger": _parsed(args.get("ledger")),
            "drills": drills.last(directory),
            "restore": drills.unfinished_restore(directory),
        }
        seen["disks"] = samples.remember(directory, seen, now)
        findings = judge(seen, Limits(**{name: int(value) for name, value in args["limits"].items()}))
        by_level: dict[str, list[dict[str, str]]] = {"problem": [], "notice": []}
        for finding in findings:
            by_level[finding.level].append(finding.as_json())
        document = {
            **seen,
            "ok": not by_level["problem"],
            "problems": by_level["problem"],
            "notices": by_level["notice"],
            "screen": screen(seen, findings),
        }
        _write(Path(str(args["path"])), json.dumps(document, indent=2, sort_keys=True) + "\n")
        return result | {"changed": False, "report": document["screen"], "problems": document["problems"]}


def _parsed(printed: Any) -> Any:
    """The JSON that a command printed; None when it printed none."""
    if isinstance(printed, Mapping):  # ansible-core before 2.19 parses what looks like JSON by itself
        return printed
    try:
        return json.loads(str(printed))
    except ValueError:
        return None


def _write(path: Path, text: str) -> None:
    """All or nothing: a reader never finds half a file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o600)
    draft.replace(path)
