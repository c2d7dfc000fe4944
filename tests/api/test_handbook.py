"""The examples of docs/integrator.md, run as they stand in their order; the answers shown are the answers given."""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.servers import REPOSITORY, Application

HANDBOOK = REPOSITORY / "docs" / "integrator.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
API = 'api() { curl -sS -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" "$@"; }\n'


def examples() -> list[tuple[str, Any]]:
    """Each `sh` block with the `json` block after it."""
    blocks = BLOCK.findall(HANDBOOK.read_text())
    return [
        (script, json.loads(answer)) for (kind, script), (next_kind, answer) in pairwise(blocks)
        if (kind, next_kind) == ("sh", "json")
    ]  # by hand: a line holds what belongs together  # fmt: skip


def matches(shown: Any, given: Any) -> bool:
    """Whether `given` is what is `shown`, where `…` stands for any value, and within a text for any characters."""
    if shown == "…":
        return True
    if isinstance(shown, str) and "…" in shown:
        pattern = ".*".join(re.escape(part) for part in shown.split("…"))
        return given is None or (isinstance(given, str) and re.fullmatch(pattern, given) is not None)
    if isinstance(shown, dict) and isinstance(given, dict):
        return shown.keys() == given.keys() and all(matches(shown[name], given[name]) for name in shown)
    if isinstance(shown, list) and isinstance(given, list):
        return len(shown) == len(given) and all(map(matches, shown, given))
    return bool(shown == given and type(shown) is type(given))


def test_the_examples_of_the_handbook_work_as_shown(application: Application, api_key: str, tmp_path: Path) -> None:
    found = examples()
    assert len(found) >= 10
    environment = {**os.environ, "URL": application.url, "KEY": api_key}
    session = API  # what a reader's shell would remember: the function, and each variable once it is set
    for script, shown in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", session + script],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # by hand: a line holds what belongs together  # fmt: skip
        session += "".join(line for line in script.splitlines(keepends=True) if re.match(r"[A-Z]+=", line))
        assert done.returncode == 0, f"{script}\n{done.stderr}"
        given = json.loads(done.stdout)
        if not matches(shown, given):
            pytest.fail(f"{script}\nshown: {json.dumps(shown, indent=1)}\ngiven: {json.dumps(given, indent=1)}")
