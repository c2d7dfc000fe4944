"""What one host lacks, by the same catalogue of checks as the report of the whole site."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Ansible's Python does not know the checkout that its playbooks stand in; the catalogue needs nothing but Python.
sys.path.append(str(Path(__file__).parents[3]))
from loyalty.ops.checks import judge
from loyalty.ops.checks.catalogue import Limits


def lacking(
    looked: Mapping[str, Any],
    asked: Mapping[str, Any],
    name: str,
    hosts: Mapping[str, Mapping[str, Any]],
    site: str,
    limits: Mapping[str, Any],
) -> list[str]:
    """A sentence, with its remedy, for each thing that must be mended before a host may be stopped.

    `looked` is what came of the look at the host `name`, and `asked` of asking its member of the replica set; `hosts`
    are the topology's: the others were not looked at.
    """
    mongodb = asked.get("mongodb", {"error": asked["msg"]} if "msg" in asked else None)
    not_seen = {"unreachable": "", "state": None, "mongodb": None}
    unreachable = "" if "state" in looked else str(looked.get("msg", "no answer")).strip()
    here = {"unreachable": unreachable, "state": looked.get("state"), "mongodb": mongodb}
    seen = {
        host: {"address": known["address"], "services": known["services"], **(here if host == name else not_seen)}
        for host, known in hosts.items()
    }
    findings = judge.lacking(site, seen, Limits(**{limit: int(value) for limit, value in limits.items()}))
    return [f"{finding.host} · {finding.check}: {finding.found}. {finding.remedy}" for finding in findings]


class FilterModule:
    """Filters of the role."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"lacking": lacking}
