"""The catalogue, and the judgement by the whole of it."""

from __future__ import annotations

from loyalty.ops.checks import backups, data, drills, files, hosts, network
from loyalty.ops.checks.catalogue import Check, Finding, Limits, Seen

CATALOGUE = {
    item.name: item
    for module in (hosts, network, data, files, backups, drills)
    for item in vars(module).values()
    if isinstance(item, Check)
}
"""Every check by its name, in the order in which findings are shown."""


def judge(seen: Seen, limits: Limits) -> list[Finding]:
    """Everything that is not as it should be: problems first, each kind in the order of the catalogue."""
    findings = [
        Finding(host, check.name, check.level, found, remedy)
        for check in CATALOGUE.values()
        if seen["deep"] or not check.deep
        for host, found, remedy in check.judge(seen, limits)
    ]
    return sorted(findings, key=lambda finding: finding.level != "problem")
