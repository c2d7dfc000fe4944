"""The commands of the operator's runbook, word for word, for tests that rehearse it.

In docs/operator/recovery.md a comment stands before each block of commands: `<!-- type: PROCEDURE, WHERE -->`. WHERE is
`control` (the control machine, in the clone), `keeper` (root on the host that keeps the backups) or `app` (root on an
application host).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

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
