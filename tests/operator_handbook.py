"""Parts of the operator's handbook that are made from the code: `python -m tests.operator_handbook` writes them."""

from __future__ import annotations

from pathlib import Path

from loyalty.ops import graph
from loyalty.ops.checks.catalogue import Limits
from loyalty.ops.checks.judge import CATALOGUE, judge
from loyalty.ops.checks.screen import screen
from loyalty.ops.site import topologies
from loyalty.ops.topology import topology
from tests.unit.ops.sites import cut_power, healthy

HANDBOOK = Path(__file__).parents[1] / "docs" / "operator"


def made() -> dict[Path, str]:
    """Every file of the handbook that has such parts, with its text as it should be."""
    page = HANDBOOK / "status.md"
    text = page.read_text(encoding="utf-8")
    for name, content in (("screen", _screen()), ("checks", _checks()), ("graph", _graph())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"
    pictures = {HANDBOOK / f"{shape}.svg": graph.svg(topology(shape)) for shape in topologies()}
    return {page: text, **pictures}


def _screen() -> str:
    seen = healthy("ha")
    cut_power(seen, "db3")
    return f"```\n{screen(seen, judge(seen, Limits()))}\n```"


def _graph() -> str:
    return f"```\n{graph.text(topology('ha'))}\n```"


def _checks() -> str:
    rows = ["| check | what must be so | if not | |", "|---|---|---|---|"]
    rows += [
        f"| {check.name} | {check.holds} | {check.level} | {'deep' if check.deep else ''} |"
        for check in CATALOGUE.values()
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
