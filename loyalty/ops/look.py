"""Look at a whole site by a playbook, and take up the document that it leaves in the site's directory."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from loyalty.ops.ansible import run_playbook
from loyalty.ops.console import Step
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.info import site_variables


def look(playbook: str, site: str, step: Step, *, verbose: bool = False) -> dict[str, Any]:
    """Run `status` or `doctor` on a site and return what it saw: `ok`, `problems`, `notices`, `screen` and the rest.

    What the application told of itself (`release`, `mongodb`, `members`, `entries`, `jobs`, ...) stands at the top
    level, too. Raises Refusal if the playbook could not look.
    """
    document = Path(str(site_variables(site)["site_directory"])) / f"{playbook}.json"
    started = time.time()
    try:
        run_playbook(playbook, site, step, verbose=verbose)
    except Failure as failure:
        # The playbook fails, too, where it has looked and found problems: then its document is newer than this call.
        if not _written_since(document, started):
            raise Refusal(
                f"The site {site} could not be looked at. {failure.problem}\n{failure.details}", failure.remedy
            ) from None
    seen: dict[str, Any] = json.loads(document.read_text(encoding="utf-8"))
    problems = len(seen["problems"])
    step.note = "all is well" if seen["ok"] else f"{problems} problem{'s' if problems > 1 else ''}"
    return {**(seen["application"] or {}), **seen}


def _written_since(document: Path, started: float) -> bool:
    if not document.exists():
        return False
    at: str = json.loads(document.read_text(encoding="utf-8"))["at"]
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() >= int(started)
