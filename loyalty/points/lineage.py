"""Where the points of an open lot came from, and where those that left it went. A pure function over movements.

Points of one lot are alike, so which of them leave is a convention: those that came first. It holds across lots: points
that activate into another lot, or return from a hold, keep the entry that brought them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from loyalty.ledger.as_of import Effect
from loyalty.ledger.state import DEFICIT

_HELD_BY_MEMBER = frozenset({"pending", "available", "held"})

Place = tuple[str, int, int]
"""A wallet and a lot of it; the last number is the hold that has the points, 0 for none."""


@dataclass(slots=True)
class Lineage:
    """Of one lot: the points that each entry brought, how many of them are left, and what took the others."""

    fed_by: dict[int, Feed] = field(default_factory=dict)
    consumed_by: list[Use] = field(default_factory=list)


@dataclass(slots=True)
class Feed:
    """Points that the entry brought to the lot, and those of them that are still there."""

    points: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """`points` that came by the entry `source` went to the bucket `target` by the entry `entry`."""

    entry: int
    target: str
    points: int
    source: int


def lineages(taken: Iterable[Effect]) -> dict[tuple[str, int], Lineage]:
    """By wallet and lot, after these movements in their order. Lots that are closed are there too."""
    queues: dict[Place, deque[list[int]]] = defaultdict(deque)  # entry and points, the first in front
    found: dict[tuple[str, int], Lineage] = defaultdict(Lineage)
    for effect in taken:
        posting = effect.posting
        hold = posting.hold or 0
        entered = posting.lot if posting.into is None else posting.into
        source = (posting.wallet, posting.lot, hold if posting.source == "held" else 0)
        target = (posting.wallet, entered, hold if posting.target == "held" else 0)
        moved = [[effect.entry, posting.points]]
        if posting.source in _HELD_BY_MEMBER:
            if source == target and posting.target in _HELD_BY_MEMBER:
                continue  # a lot that activates as a whole
            moved = _taken(queues[source], posting.points, effect.entry)
            if not source[2]:
                _left(found[source[:2]], moved, effect, posting.target)
        if posting.target in _HELD_BY_MEMBER and entered != DEFICIT:
            queues[target].extend(moved)
            if not target[2]:
                for origin, points in moved:
                    feed = found[target[:2]].fed_by.setdefault(origin, Feed())
                    feed.points += points
                    feed.left += points
    return dict(found)


def _taken(queue: deque[list[int]], points: int, entry: int) -> list[list[int]]:
    """The points that leave, by the entry that brought them; points that are owed were brought by nobody."""
    moved = []
    while points and queue:
        first = queue[0]
        part = min(points, first[1])
        moved.append([first[0], part])
        points -= part
        first[1] -= part
        if not first[1]:
            queue.popleft()
    return [*moved, [entry, points]] if points else moved


def _left(lineage: Lineage, moved: list[list[int]], effect: Effect, target: str) -> None:
    for origin, points in moved:
        feed = lineage.fed_by.get(origin)
        if feed is not None:
            feed.left -= points
        lineage.consumed_by.append(Use(effect.entry, target, points, origin))
