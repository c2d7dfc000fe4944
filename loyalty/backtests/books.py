"""A member's purse, kept lean: lots as short lists, no entries, no history. Two of them are kept side by side, one for
what really happened and one for what other rules would have given, and every movement goes through both.

It knows what a liability needs: what was given, what was used, and what expires when. Points that are held for a
purchase still belong to the member here; they leave when the hold is captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from loyalty.ledger.state import NEVER, SOMEDAY, Lot, State, Wallet

_EXPIRES: Final = 0
_ACTIVATES: Final = 1
_POINTS: Final = 2
_ID: Final = 3

_AT_ONCE: Final = datetime.min.replace(tzinfo=NEVER.tzinfo)


class Purse:
    """The open lots of one member, by wallet: `[expires_at, activates_at, points, lot]`, earliest expiry first."""

    __slots__ = ("lots",)

    def __init__(self) -> None:
        self.lots: dict[str, list[list[Any]]] = {}

    @classmethod
    def of(cls, wallets: Mapping[str, Mapping[str, Any]]) -> Purse:
        """What the wallets of a state hold."""
        purse = cls()
        for name, wallet in wallets.items():
            for lot in wallet["lots"]:
                purse.add(name, lot["points"], lot.get("activates_at"), lot.get("expires_at"), lot["id"])
            for hold in wallet.get("holds", ()):
                for part in hold["parts"]:
                    purse.add(name, part["points"], None, part.get("expires_at"), part["id"])
            if wallet.get("deficit"):
                purse.lots.setdefault(name, []).append([NEVER, _AT_ONCE, -wallet["deficit"], 0])
        return purse

    def add(
        self, wallet: str, points: int, activates_at: datetime | None, expires_at: datetime | None, number: int
    ) -> None:
        """Points that become available and expire at these instants (None: at once, never)."""
        expires, activates = expires_at or NEVER, activates_at or _AT_ONCE
        lots = self.lots.get(wallet)
        if lots is None:
            lots = self.lots[wallet] = []
        place = 0
        for place, lot in enumerate(lots):  # noqa: B007 - where the new lot belongs
            if lot[_EXPIRES] > expires:
                break
            if lot[_EXPIRES] == expires and lot[_ACTIVATES] == activates:
                lot[_POINTS] += points
                return
        else:
            place = len(lots)
        lots.insert(place, [expires, activates, points, number])

    def take(self, wallet: str, points: int, at: datetime) -> int:
        """Available points leave, earliest expiry first; how many were missing."""
        for lot in self.lots.get(wallet, ()):
            if points == 0:
                break
            if lot[_EXPIRES] > at and lot[_ACTIVATES] <= at and lot[_POINTS] > 0:
                taken = min(points, lot[_POINTS])
                lot[_POINTS] -= taken
                points -= taken
        return points

    def reverse(
        self, wallet: str, points: int, activates_at: datetime | None, expires_at: datetime | None, at: datetime
    ) -> int:
        """Points of an award are taken back: from its own lot, waiting or not, then from others; how many were missing.

        Those that have expired are gone already, and not missing.
        """
        expires, activates = expires_at or NEVER, activates_at or _AT_ONCE
        if expires <= at:
            return 0
        for lot in self.lots.get(wallet, ()):
            if lot[_EXPIRES] == expires and (lot[_ACTIVATES] == activates or lot[_ACTIVATES] <= at):
                taken = min(points, lot[_POINTS])
                lot[_POINTS] -= taken
                points -= taken
        return self.take(wallet, points, at) if points else 0

    def activate(self, wallet: str, points: int, expires_at: datetime | None, number: int) -> None:
        """So many of the points that wait for an event or a person become available."""
        for lot in self.lots.get(wallet, ()):
            if lot[_ACTIVATES] == SOMEDAY and points:
                taken = min(points, lot[_POINTS])
                lot[_POINTS] -= taken
                points -= taken
                if taken:
                    self.add(wallet, taken, None, expires_at, number)
                    return

    def lapse(self, wallet: str, at: datetime) -> None:
        """Everything that is available is gone."""
        self.lots[wallet] = [lot for lot in self.lots.get(wallet, ()) if lot[_ACTIVATES] > at]

    def expire(self, at: datetime) -> None:
        """Forget what has expired by then."""
        for wallet, lots in self.lots.items():
            if lots and (lots[0][_EXPIRES] <= at or not all(lot[_POINTS] for lot in lots)):
                self.lots[wallet] = [lot for lot in lots if lot[_EXPIRES] > at and lot[_POINTS]]

    def waits(self, wallet: str, number: int) -> bool:
        """Whether the lot waits for an event or a person."""
        for lot in self.lots.get(wallet, ()):  # noqa: SIM110 - asked for every activation, and a generator costs more
            if lot[_ID] == number and lot[_ACTIVATES] == SOMEDAY:
                return True
        return False

    def open(self, at: datetime) -> dict[str, int]:
        """What the member has at the instant, by wallet, points that wait included."""
        return {
            wallet: points
            for wallet, lots in self.lots.items()
            if (points := sum(lot[_POINTS] for lot in lots if lot[_EXPIRES] > at))
        }

    def state(self, at: datetime) -> State:
        """The purse as the state that tiers look at which count a balance."""
        wallets = {}
        for wallet, lots in self.lots.items():
            there = tuple(_open_lots(lots, at))
            available = sum(lot.points for lot in there if lot.activates_at is None)
            waiting = sum(lot.points for lot in there if lot.activates_at is not None)
            wallets[wallet] = Wallet(available=available, pending=waiting, lots=there, earned=available + waiting)
        return State(wallets)


def _open_lots(lots: Iterable[list[Any]], at: datetime) -> Iterable[Lot]:
    for number, (expires, activates, points, _) in enumerate(lots, start=1):
        if points > 0 and expires > at:
            yield Lot(number, points, activates if activates > at else None, None if expires == NEVER else expires)
