"""Lay the journals of all servers out as one history, the latest last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

COLUMNS = ("at", "host", "operation", "outcome", "by")
SHOWN = 40


def merge(journals: Iterable[str]) -> list[dict[str, Any]]:
    """The lines of all journals in the order of time; a line that a crash has cut is left out."""
    found = []
    for line in "\n".join(journals).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found.append({"host": "", **entry})
    return sorted(found, key=lambda entry: (str(entry.get("at")), str(entry["host"])))


def report(entries: list[dict[str, Any]]) -> str:
    """The last entries as a table; what else is known of each stands at its end."""
    if not entries:
        return "Nothing was done here yet."
    rows = [[*(str(entry.get(name, "")) for name in COLUMNS), _rest(entry)] for entry in entries[-SHOWN:]]
    rows.insert(0, [*COLUMNS, "what"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip([*row[:-1], ""], [*widths, 0], strict=True)) + row[-1]
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _rest(entry: Mapping[str, Any]) -> str:
    told = {name: value for name, value in entry.items() if name not in COLUMNS and value not in (None, "", {})}
    return " ".join(f"{name}={_plain(value)}" for name, value in sorted(told.items()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


class ActionModule(ActionBase):  # type: ignore[misc]
    """`history_report: {journals, path}` returns `report` and writes all entries as JSON to `path`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"journals", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        entries = merge(str(text) for text in self._task.args["journals"])
        path = Path(str(self._task.args["path"]))
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        draft.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(path)
        return result | {"changed": False, "report": report(entries)}
