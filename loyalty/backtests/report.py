"""A back-test's result as lines of text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAMED = 10


def lines_of(result: Mapping[str, Any]) -> Iterator[str]:
    """The result in tables: what the draft gives, what really happened, and the difference."""
    yield f"{result['events']:,} events of {result['members']:,} members"
    for wallet, sums in result["wallets"].items():
        yield ""
        yield from _table(
            wallet,
            [("issued", sums["issued"]), ("taken back", sums["reversed"]), ("open at the end", sums["open"])],
        )
        if sums["unpaid"]:
            yield f"{sums['unpaid']:,} points were spent that members would not have had"
    rows = [(f"{one['rule']} ({one['wallet']})", one["points"]) for one in result["rules"]]
    yield from _after_blank("points by rule", rows)
    yield from _after_blank(
        "withheld", [(f"{one['rule']}: {one['reason']}", one["withheld"]) for one in result["caps"]]
    )
    moves = [(f"{one['from']} to {one['to']}", one["moves"]) for one in result["moves"]]
    yield from _after_blank("changes of level", moves)
    yield from _after_blank("members by level", [(one["level"], one["members"]) for one in result["levels"]])
    for one in result["budgets"]:
        yield f"campaign {one['campaign']}: {one['points']:,} points drawn, without regard to its budget"
    yield from _segments(result["segments"])
    for name in ("winners", "losers"):
        for wallet, members in result[name].items():
            yield from _after_blank(f"{name} ({wallet})", [(one["member"], one["points"]) for one in members[:_NAMED]])


def _segments(segments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [(f"{one['segment']} {one['value']} ({one['wallet']})", one["points"]) for one in segments]
    if not rows:
        return
    yield ""
    told = [f"{one['winners']:,} gain, {one['losers']:,} lose, {one['unchanged']:,} the same" for one in segments]
    header, *lines = _table("by segment", rows)
    yield header
    yield from (f"{line}   {more}" for line, more in zip(lines, told, strict=True))


def _after_blank(title: str, rows: Sequence[tuple[str, Mapping[str, int]]]) -> Iterator[str]:
    if rows:
        yield ""
        yield from _table(title, rows)


def _table(title: str, rows: Sequence[tuple[str, Mapping[str, int]]]) -> Iterator[str]:
    width = max(len(title), *(len(name) for name, _ in rows), 24)
    yield f"{title:<{width}} {'draft':>14} {'real':>14} {'difference':>14}"
    for name, sums in rows:
        yield f"{name:<{width}} {sums['draft']:>14,} {sums['real']:>14,} {sums['difference']:>+14,}"
