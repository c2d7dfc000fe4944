"""What a member had at an instant: by what was known then, and by what had happened by then. Pure functions.

An entry of the ledger has two times: when it happened and when the ledger learnt of it. `GET …/balance?at=` asks what
was known: the chain up to the last entry recorded by then. `?happened_at=` asks what had happened: every movement of
the entries that are known is put at the instant at which it took effect, so an event that was told late counts from the
day on which it happened. With both, it is what had happened by the one instant, as known at the other.

Movements are taken as they were recorded: nothing is decided anew. So the view of an instant in the past can owe points
for a while, where something was spent, on paper, before it was earned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from loyalty.ledger.movements import due_steps
from loyalty.ledger.state import DEFICIT, Hold, Lot, Posting, State, Wallet, fold, with_lapses


@dataclass(frozen=True, slots=True)
class Effect:
    """One movement of the entry `entry` (its `_id`), and when it took effect."""

    at: datetime
    entry: int
    posting: Posting


def replay(entries: Iterable[Mapping[str, Any]], now: datetime) -> list[Effect]:
    """The movements of a chain from its first entry on, in its order; then those that time alone has made by `now`.

    The latter go under the number of the last entry. LedgerDefect if the chain is damaged.
    """
    found: list[Effect] = []
    state, number = State(), 0
    for entry in entries:
        number, recorded_at = entry["_id"], entry["recorded_at"]
        # What happens in the future by its own words (a clock that is ahead) had happened when it was told.
        occurred_at = min(entry["occurred_at"], recorded_at)
        by_time: dict[Posting, list[datetime]] = defaultdict(list)
        for instant, postings in due_steps(state, recorded_at):
            for posting in postings:
                by_time[posting].append(instant)
        waiting: dict[tuple[str, int], datetime] = {}
        moved = [Posting.of(document) for document in entry["postings"]]
        for posting in moved:
            instants = by_time.get(posting)
            if instants:
                found.append(Effect(instants.pop(0), number, posting))
                continue
            if posting.target == "pending" and posting.activates_at is not None:
                waiting[posting.wallet, posting.lot] = posting.activates_at
            found.append(Effect(_own_instant(posting, occurred_at, recorded_at, waiting), number, posting))
        state = with_lapses(fold(state, moved), entry.get("lapses", {}))
    found += [Effect(at, number, posting) for at, postings in due_steps(state, now) for posting in postings]
    return found


def happened(movements: Iterable[Effect], instant: datetime) -> list[Effect]:
    """Those that had taken effect by `instant`, in the order in which they did, the chain's between equals."""
    return sorted([effect for effect in movements if effect.at <= instant], key=lambda effect: effect.at)


def view(movements: Iterable[Effect]) -> State:
    """The wallets after these movements, whatever their order.

    Where more had left by then than had come, the rest is owed (`deficit`).
    """
    purses: dict[str, _Purse] = defaultdict(_Purse)
    for effect in movements:
        purses[effect.posting.wallet].move(effect.posting)
    return State({name: purse.wallet() for name, purse in sorted(purses.items())})


def views(movements: Iterable[Effect]) -> Iterator[tuple[datetime, State]]:
    """The wallets after each instant at which something took effect; `movements` in the order in which they did."""
    purses: dict[str, _Purse] = defaultdict(_Purse)
    for instant, effects in groupby(movements, key=lambda effect: effect.at):
        for effect in effects:
            purses[effect.posting.wallet].move(effect.posting)
        yield instant, State({name: purse.wallet() for name, purse in sorted(purses.items())})


def _own_instant(
    posting: Posting, occurred_at: datetime, recorded_at: datetime, waiting: Mapping[tuple[str, int], datetime]
) -> datetime:
    """When a movement of the entry's own took effect: with the entry, unless time made it in the past of a late one."""
    made: datetime | None = None
    if posting.target == "expired":
        made = posting.expires_at
    elif posting.source == "pending" and posting.target == "available":
        made = waiting.get((posting.wallet, posting.lot))
    return made if made is not None and occurred_at < made <= recorded_at else occurred_at


@dataclass(slots=True)
class _Purse:
    """A wallet whose lots may be below nothing while movements are added up."""

    totals: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    available: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    waiting: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    holds: dict[int, Hold] = field(default_factory=dict)
    activates: dict[int, datetime] = field(default_factory=dict)
    expires: dict[tuple[str, int], datetime | None] = field(default_factory=dict)

    def move(self, posting: Posting) -> None:
        points = posting.points
        self.totals[f"from {posting.source}"] += points
        self.totals[f"to {posting.target}"] += points
        entered = posting.lot if posting.into is None else posting.into
        if posting.source == "available":
            self.available[posting.lot] -= points
        elif posting.source == "pending":
            self.waiting[posting.lot] -= points
        elif posting.source == "held" and posting.hold is not None:
            self.held[posting.hold][posting.lot] -= points
        if posting.target == "available":
            self.available[entered] += points
            left = self.expires.get((posting.source, posting.lot))
            self.expires["available", entered] = posting.expires_at or left
        elif posting.target == "pending" and posting.activates_at is not None:
            self.waiting[entered] += points
            self.activates[entered] = posting.activates_at
            self.expires["pending", entered] = posting.expires_at
        elif posting.target == "held" and posting.hold is not None and posting.until is not None:
            self.held[posting.hold][posting.lot] += points
            self.expires["held", posting.lot] = posting.expires_at
            self.holds[posting.hold] = Hold(posting.hold, posting.until, posting.grace_days or 0, ())

    def wallet(self) -> Wallet:
        """The sum of the movements."""
        waiting = self._lots("pending", self.waiting)
        holds = []
        for number, hold in sorted(self.holds.items()):
            parts = tuple(sorted(self._lots("held", self.held[number]), key=Lot.order))
            if parts:
                holds.append(replace(hold, parts=parts))
        missing = [points for place in (self.available, self.waiting, *self.held.values()) for points in place.values()]
        available, owed = _paid(
            self._lots("available", self.available), -sum(points for points in missing if points < 0)
        )
        totals = self.totals
        return Wallet(
            available=sum(lot.points for lot in available) - owed,
            pending=sum(lot.points for lot in waiting),
            held=sum(hold.points for hold in holds),
            lots=tuple(sorted((*waiting, *available), key=Lot.order)),
            earned=totals["from issuance"],
            spent=totals["to spent"],
            expired=totals["to expired"],
            reversed=totals["to reversed"],
            adjusted=totals["from adjusted"] - totals["to adjusted"],
            restored=totals["from spent"],
            transferred=totals["from transferred"] - totals["to transferred"],
            deficit=owed,
            holds=tuple(holds),
        )

    def _lots(self, bucket: str, points: Mapping[int, int]) -> list[Lot]:
        return [
            Lot(
                number,
                there,
                self.activates[number] if bucket == "pending" else None,
                self.expires.get((bucket, number)),
            )
            for number, there in points.items()
            if there > 0 and number != DEFICIT
        ]


def _paid(lots: list[Lot], owed: int) -> tuple[list[Lot], int]:
    """The lots after what is owed was paid from them, earliest expiry first, and what is owed still."""
    rest = []
    for lot in sorted(lots, key=Lot.order):
        paid = min(owed, lot.points)
        owed -= paid
        if lot.points > paid:
            rest.append(replace(lot, points=lot.points - paid))
    return rest, owed
