"""The catalogue, and the judgement by the whole of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from loyalty.ops.checks import backups, data, drills, files, hosts, network
from loyalty.ops.checks.catalogue import Check, Finding, Limits, Seen

CATALOGUE = {
    item.name: item
    for module in (hosts, network, data, files, backups, drills)
    for item in vars(module).values()
    if isinstance(item, Check)
}
"""Every check by its name, in the order in which findings are shown."""


WHOLE = (
    "reachable",
    "unit",
    "disk",
    "mount",
    "nodes",
    "database",
    "primary",
    "member",
    "lag",
    "oplog window",
    "redis",
    "sentinel",
    "copies",
    "heal",
)
"""What must be so before a host may be stopped, or the next one: that the others can do without it."""


def judge(seen: Seen, limits: Limits, names: Collection[str] = CATALOGUE) -> list[Finding]:
    """Everything that is not as it should be: problems first, each kind in the order of the catalogue."""
    findings = [
        Finding(host, check.name, check.level, found, remedy)
        for check in CATALOGUE.values()
        if check.name in names
        if seen["deep"] or not check.deep
        for host, found, remedy in check.judge(seen, limits)
    ]
    return sorted(findings, key=lambda finding: finding.level != "problem")


def lacking(site: str, hosts: Mapping[str, Any], limits: Limits) -> list[Finding]:
    """What keeps hosts from being stopped, as one of them sees it: `state` and `mongodb` of the others are null."""
    return judge({"site": site, "deep": False, "hosts": hosts, "application": None}, limits, WHOLE)
