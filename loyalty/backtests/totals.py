"""What a back-test found, in a form that adds up: totals of parts are added to the totals of the whole."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

Key = tuple[str, ...]

DRAFT: Final = "draft"
REAL: Final = "real"
MOST_NAMED: Final = 10
"""How many members are named at either end of each wallet."""

MOST_VALUES: Final = 1000
OTHER: Final = "other"


class Difference(NamedTuple):
    """What one member got in one wallet. The order of differences is by `points`, then by member."""

    points: int
    member: int
    draft: int
    real: int
    segments: tuple[str, ...]


@dataclass(slots=True)
class Totals:
    """Sums by what they are of (`issued`, wallet, side …), and the members with the largest differences by wallet."""

    sums: defaultdict[Key, int] = field(default_factory=lambda: defaultdict(int))
    winners: dict[str, list[Difference]] = field(default_factory=dict)
    losers: dict[str, list[Difference]] = field(default_factory=dict)
    _values: dict[str, set[str]] = field(default_factory=dict)

    def value(self, segment: str, value: str) -> str:
        """The value of a segment; of one that tells nearly every member apart, only the first ones."""
        known = self._values.setdefault(segment, set())
        if value in known:
            return value
        if len(known) >= MOST_VALUES:
            return OTHER
        known.add(value)
        return value

    def add(self, points: int, *key: str) -> None:
        """So much more of that."""
        self.sums[key] += points

    def differ(self, wallet: str, difference: Difference) -> None:
        """A member who got more, or less."""
        if difference.points > 0:
            _keep(self.winners.setdefault(wallet, []), difference, difference.points)
        elif difference.points < 0:
            _keep(self.losers.setdefault(wallet, []), difference, -difference.points)

    def merge(self, other: Totals) -> None:
        """Add the totals of another part."""
        for key, points in other.sums.items():
            self.sums[key] += points
        for mine, theirs in ((self.winners, other.winners), (self.losers, other.losers)):
            for wallet, differences in theirs.items():
                for difference in differences:
                    _keep(mine.setdefault(wallet, []), difference, abs(difference.points))

    def of(self, *prefix: str) -> dict[Key, int]:
        """The sums whose keys begin so, by the rest of their keys."""
        length = len(prefix)
        return {key[length:]: points for key, points in self.sums.items() if key[:length] == prefix}

    def document(self) -> dict[str, Any]:
        """The form in which the totals of a part are stored until all parts are there."""
        return {
            "sums": [[list(key), points] for key, points in sorted(self.sums.items())],
            "winners": _documents(self.winners),
            "losers": _documents(self.losers),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Totals:
        """What `document` wrote."""
        return cls(
            defaultdict(int, {tuple(key): points for key, points in document["sums"]}),
            _differences(document["winners"]),
            _differences(document["losers"]),
        )


def _keep(kept: list[Difference], difference: Difference, size: int) -> None:
    """Into the largest, of equals the ones of the members that joined first."""
    if len(kept) >= MOST_NAMED and size < abs(kept[-1].points):
        return
    kept.append(difference)
    kept[:] = heapq.nsmallest(MOST_NAMED, kept, key=lambda one: (-abs(one.points), one.member))


def _documents(differences: Mapping[str, Iterable[Difference]]) -> dict[str, list[list[Any]]]:
    return {wallet: [[*one[:-1], list(one.segments)] for one in found] for wallet, found in sorted(differences.items())}


def _differences(documents: Mapping[str, Iterable[list[Any]]]) -> dict[str, list[Difference]]:
    return {
        wallet: [
            Difference(points, member, draft, real, tuple(segments)) for points, member, draft, real, segments in found
        ]
        for wallet, found in documents.items()
    }
