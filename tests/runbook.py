"""The commands of the operator's runbook, word for word, for tests that rehearse it.

In docs/operator/recovery.md a comment stands before each block of commands: `<!-- type: PROCEDURE, WHERE -->`. WHERE is
`control` (the control machine, in the clone), `keeper` (root on the host that keeps the backups) or `app` (root on an
application host).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from loyalty.ops.environment import tool_environment
from loyalty.ops.errors import Failure
from loyalty.ops.site import CHECKOUT, Site
from tests.lab_site import LabSite

RUNBOOK = Path(__file__).parents[1] / "docs" / "operator" / "recovery.md"

SITE = "shop"
INSTANT = "2026-11-22T14:05:07Z"
"""What the runbook has in the place of the reader's own."""

_BLOCK = re.compile(
    r"^( *)<!-- type: ([\w-]+), (control|keeper|app) -->\n\1```\n(.*?)\n\1```$", re.MULTILINE | re.DOTALL
)


class Step(NamedTuple):
    """A command, and where it is typed."""

    procedure: str
    where: str
    command: str


def steps(procedure: str | None = None, *, site: str = SITE, instant: str = INSTANT) -> list[Step]:
    """The commands of a procedure (or of all) in their order, for that site and instant."""
    found = []
    for indent, name, where, block in _BLOCK.findall(RUNBOOK.read_text(encoding="utf-8")):
        if procedure in (None, name):
            for line in block.splitlines():
                command = line.removeprefix(indent).replace(INSTANT, instant)
                found.append(Step(name, where, re.sub(rf"\b{SITE}\b", site, command)))
    if not found:
        raise LookupError(f"The runbook has no procedure {procedure}.")
    return found


def follow(
    site: LabSite,
    procedure: str,
    *,
    instant: str = INSTANT,
    where: str = "control",
    host: str | None = None,
    ends_with_problems: Collection[str] = (),
) -> str:
    """Type what the procedure says there, and give what was printed. AssertionError or Failure when a command fails.

    `host` is the one whose root types it, where that is not the control machine. Of some commands the runbook says that
    they do their work and end by naming the problems that still stand: those fail, and what they say counts.
    """
    printed = []
    for as_printed, step in zip(steps(procedure), steps(procedure, site=site.lab.site, instant=instant), strict=True):
        if step.where != where:
            continue
        if as_printed.command in ends_with_problems:
            with pytest.raises((AssertionError, Failure)) as failure:
                _typed(site, step.command, host)
            printed.append(str(failure.value))
        else:
            printed.append(_typed(site, step.command, host))
    assert printed, f"there is nothing to type at {where}"
    return "\n".join(printed)


def _typed(site: LabSite, command: str, host: str | None) -> str:
    if host is not None:
        return site.run_on(host, [command])
    program, *words = shlex.split(command)
    if program == "./appliance":
        line = [sys.executable, "-m", "loyalty.ops", *words]
    else:  # a playbook; the inventory of a lab site is the example that it follows, and what the lab adds to it
        beside = Path(sys.executable).with_name(Path(program).name)
        inventories = ("inventory/three-server", str(Site(site.lab.site).inventory))
        line = [str(beside), *(word for each in inventories for word in ("-i", each)), words[-1]]
    return at_control(line)


def at_control(line: Sequence[str]) -> str:
    """What a command prints on the control machine. AssertionError with all of it when it fails."""
    done = subprocess.run(line, cwd=CHECKOUT, env=tool_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout}{done.stderr}"
    return done.stdout


def appliance(site: LabSite, *words: str) -> str:
    """What `./appliance WORDS --site SITE` prints. AssertionError with all of it when it fails."""
    return at_control([sys.executable, "-m", "loyalty.ops", *words, "--site", site.lab.site])
