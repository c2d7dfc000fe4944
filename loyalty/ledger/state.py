"""The arithmetic of points: what a member has, and how movements change it. Pure functions over immutable values.

Points move between **buckets**. `pending`, `available` and `held` are what a member has; the others are where points
come from and go to. A **posting** is one movement, so a sum of postings is zero by construction. A **lot** is points
with one expiry; the open lots of a wallet are its pending and available points.

An entry of the ledger carries the state after it, so `fold` is at once how an entry is made and how it is verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Final

Document = dict[str, Any]

NEVER: Final = datetime.max.replace(tzinfo=timezone.utc)
"""Where a lot without expiry stands in the order of consumption: last."""

MOVES: Final = frozenset(
    {
        ("issuance", "pending"),
        ("issuance", "available"),
        ("pending", "available"),
        ("pending", "reversed"),
        ("available", "held"),
        ("available", "spent"),
        ("available", "expired"),
        ("available", "reversed"),
        ("available", "adjusted"),
        ("held", "available"),
        ("held", "spent"),
        ("held", "expired"),
        ("spent", "available"),
        ("adjusted", "available"),
    }
)
"""Every movement that exists. Anything else in an entry is a defect."""

_IN_LOTS: Final = frozenset({"pending", "available"})
_LIFETIME: Final = ("earned", "spent", "expired", "reversed", "adjusted", "restored")
_MOST_POINTS: Final = 1 << 53
"""Balances stay exact in JSON readers that know only doubles."""


class LedgerDefect(Exception):
    """Postings that break a rule of the ledger: a programming error or a damaged ledger, never a client's mistake."""


class Refusal(Exception):
    """An operation that the member's state does not allow. Nothing happened."""


class InsufficientPoints(Refusal):
    """A debit larger than the available points. `missing` is how many more are needed."""

    def __init__(self, wallet: str, available: int, missing: int) -> None:
        super().__init__(f"{missing} points are missing in {wallet}")
        self.wallet = wallet
        self.available = available
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Lot:
    """Points that activate and expire together. `activates_at` is None once they are available."""

    id: int
    points: int
    activates_at: datetime | None = None
    expires_at: datetime | None = None

    def order(self) -> tuple[datetime, int]:
        """Earliest expiry first, never-expiring last, ties by age (ids grow with the chain)."""
        return (self.expires_at or NEVER, self.id)


@dataclass(frozen=True, slots=True)
class Posting:
    """`points` (> 0) of `wallet` move from bucket `source` to bucket `target`.

    `lot` is the lot they leave or enter. A movement that opens a lot says when it activates and expires. `into` is the
    lot that an activation joins, when one with the same expiry is already available.
    """

    wallet: str
    source: str
    target: str
    points: int
    lot: int
    activates_at: datetime | None = None
    expires_at: datetime | None = None
    into: int | None = None

    def document(self) -> Document:
        """The form in the ledger."""
        document: Document = {
            "wallet": self.wallet,
            "from": self.source,
            "to": self.target,
            "points": self.points,
            "lot": self.lot,
        }
        if self.activates_at is not None:
            document["activates_at"] = self.activates_at
        if self.expires_at is not None:
            document["expires_at"] = self.expires_at
        if self.into is not None:
            document["into"] = self.into
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Posting:
        """The posting that `document` is the form of."""
        return cls(
            document["wallet"],
            document["from"],
            document["to"],
            document["points"],
            document["lot"],
            document.get("activates_at"),
            document.get("expires_at"),
            document.get("into"),
        )


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a member has in one wallet. `lots` are open and in order of consumption; the rest are lifetime totals."""

    available: int = 0
    pending: int = 0
    held: int = 0
    lots: tuple[Lot, ...] = ()
    earned: int = 0
    spent: int = 0
    expired: int = 0
    reversed: int = 0
    adjusted: int = 0
    restored: int = 0

    def document(self) -> Document:
        """The form in the ledger."""
        return {
            "available": self.available,
            "pending": self.pending,
            "held": self.held,
            "lots": [_lot_document(lot) for lot in self.lots],
            "lifetime": {name: getattr(self, name) for name in _LIFETIME},
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Wallet:
        """The wallet that `document` is the form of."""
        return cls(
            document["available"],
            document["pending"],
            document["held"],
            tuple(
                [
                    Lot(lot["id"], lot["points"], lot.get("activates_at"), lot.get("expires_at"))
                    for lot in document["lots"]
                ]
            ),
            **document["lifetime"],
        )

    def lot(self, number: int) -> Lot | None:
        """The open lot with this id."""
        for lot in self.lots:
            if lot.id == number:
                return lot
        return None

    def defects(self) -> list[str]:
        """Which invariants this wallet breaks; empty for every state that the ledger can hold."""
        defects = []
        active = sum(lot.points for lot in self.lots if lot.activates_at is None)
        waiting = sum(lot.points for lot in self.lots if lot.activates_at is not None)
        if self.available != active:
            defects.append(f"available is {self.available} and the open lots hold {active}")
        if self.pending != waiting:
            defects.append(f"pending is {self.pending} and the waiting lots hold {waiting}")
        if min(self.available, self.pending, self.held) < 0 or any(lot.points <= 0 for lot in self.lots):
            defects.append("a bucket or a lot is below what it can be")
        came = self.earned + self.adjusted + self.restored - self.spent - self.expired - self.reversed
        if came != self.available + self.pending + self.held:
            defects.append(f"lifetime totals give {came}, the buckets {self.available + self.pending + self.held}")
        if list(self.lots) != sorted(self.lots, key=Lot.order):
            defects.append("the lots are not in order of consumption")
        return defects


EMPTY: Final = Wallet()


@dataclass(frozen=True, slots=True)
class State:
    """Everything the ledger knows of a member after an entry."""

    wallets: Mapping[str, Wallet] = field(default_factory=dict)

    def wallet(self, name: str) -> Wallet:
        """The wallet, empty if nothing ever moved in it."""
        return self.wallets.get(name, EMPTY)

    def document(self) -> Document:
        """The form in the ledger."""
        return {"wallets": {name: wallet.document() for name, wallet in sorted(self.wallets.items())}}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> State:
        """The state that `document` is the form of."""
        return cls({name: Wallet.of(wallet) for name, wallet in document["wallets"].items()})


def fold(state: State, postings: Iterable[Posting]) -> State:
    """The state after `postings`. LedgerDefect if one of them cannot be."""
    wallets = dict(state.wallets)
    for posting in postings:
        wallets[posting.wallet] = _apply(wallets.get(posting.wallet, EMPTY), posting)
    return State(wallets)


def due(state: State, now: datetime) -> list[Posting]:
    """The movements that time alone has made by `now`: lots that activated, then lots that expired.

    Every operation settles these first, in its own entry, so that no answer depends on a job having run. Both instants
    are half-open: at the very instant of its expiry a lot is gone.
    """
    postings = []
    for name, wallet in state.wallets.items():
        settled = wallet
        for lot in sorted(wallet.lots, key=lambda lot: (lot.activates_at or now, lot.id)):
            if lot.activates_at is not None and lot.activates_at <= now:
                twin = open_lot(settled, None, lot.expires_at)
                into = twin.id if twin else None
                posting = Posting(name, "pending", "available", lot.points, lot.id, into=into)
                postings.append(posting)
                settled = _apply(settled, posting)
        for lot in settled.lots:
            if lot.activates_at is None and lot.expires_at is not None and lot.expires_at <= now:
                postings.append(Posting(name, "available", "expired", lot.points, lot.id))
    return postings


def credit(
    state: State,
    wallet: str,
    points: int,
    *,
    source: str,
    sequence: int,
    activates_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> list[Posting]:
    """Points enter `wallet` from `source` (issuance, adjusted, spent); none for 0 points.

    They join the open lot that activates and expires at the same instants, or open one named after `sequence`, the
    number of the entry that is being made: that keeps the state of a member small for ever.
    """
    if points == 0:
        return []
    if state.wallet(wallet).available + state.wallet(wallet).pending + points > _MOST_POINTS:
        raise Refusal(f"{wallet} would hold more points than can be counted exactly")
    twin = open_lot(state.wallet(wallet), activates_at, expires_at)
    target = "available" if activates_at is None else "pending"
    lot = twin.id if twin else sequence
    return [Posting(wallet, source, target, points, lot, activates_at, expires_at)]


def debit(state: State, wallet: str, points: int, *, target: str) -> list[Posting]:
    """Points leave `wallet` for `target` (spent, adjusted, reversed, held), earliest expiry first.

    InsufficientPoints if fewer are available. `state` must be settled (see `due`).
    """
    have = state.wallet(wallet)
    if points > have.available:
        raise InsufficientPoints(wallet, have.available, points - have.available)
    postings = []
    for lot in have.lots:
        if points == 0:
            break
        if lot.activates_at is None:
            taken = min(points, lot.points)
            postings.append(Posting(wallet, "available", target, taken, lot.id))
            points -= taken
    return postings


def open_lot(wallet: Wallet, activates_at: datetime | None, expires_at: datetime | None) -> Lot | None:
    """The open lot with just these instants, if there is one."""
    for lot in wallet.lots:
        if lot.activates_at == activates_at and lot.expires_at == expires_at:
            return lot
    return None


def _apply(wallet: Wallet, posting: Posting) -> Wallet:
    points, source, target = posting.points, posting.source, posting.target
    if points <= 0 or (source, target) not in MOVES:
        raise LedgerDefect(f"there is no movement of {points} points from {source} to {target}")
    lots = wallet.lots
    if source in _IN_LOTS:
        lots = _take(wallet, posting)
    if target in _IN_LOTS:
        lots = _put(replace(wallet, lots=lots), posting, expires_at=_expiry(wallet, posting))
    return Wallet(
        available=wallet.available + points * ((target == "available") - (source == "available")),
        pending=wallet.pending + points * ((target == "pending") - (source == "pending")),
        held=wallet.held + points * ((target == "held") - (source == "held")),
        lots=lots,
        earned=wallet.earned + points * (source == "issuance"),
        spent=wallet.spent + points * (target == "spent"),
        expired=wallet.expired + points * (target == "expired"),
        reversed=wallet.reversed + points * (target == "reversed"),
        adjusted=wallet.adjusted + points * ((source == "adjusted") - (target == "adjusted")),
        restored=wallet.restored + points * (source == "spent"),
    )


def _take(wallet: Wallet, posting: Posting) -> tuple[Lot, ...]:
    lot = wallet.lot(posting.lot)
    if lot is None or lot.points < posting.points or (lot.activates_at is None) != (posting.source == "available"):
        raise LedgerDefect(f"lot {posting.lot} does not hold {posting.points} {posting.source} points")
    rest = lot.points - posting.points
    return tuple(
        replace(other, points=rest) if other is lot else other for other in wallet.lots if other is not lot or rest
    )


def _put(wallet: Wallet, posting: Posting, *, expires_at: datetime | None) -> tuple[Lot, ...]:
    number = posting.lot if posting.into is None else posting.into
    activates_at = posting.activates_at if posting.target == "pending" else None
    if (posting.target == "pending") != (activates_at is not None):
        raise LedgerDefect("points are pending until an instant that the posting must name")
    lot = wallet.lot(number)
    if lot is None:
        entered = Lot(number, posting.points, activates_at, expires_at)
        return tuple(sorted((*wallet.lots, entered), key=Lot.order))
    if (lot.activates_at, lot.expires_at) != (activates_at, expires_at):
        raise LedgerDefect(f"lot {number} activates or expires at another instant")
    return tuple(
        replace(other, points=other.points + posting.points) if other is lot else other for other in wallet.lots
    )


def _expiry(wallet: Wallet, posting: Posting) -> datetime | None:
    """An activation keeps the expiry of the lot that it empties; any other credit says its own."""
    if posting.source != "pending":
        return posting.expires_at
    lot = wallet.lot(posting.lot)
    return lot.expires_at if lot else None


def _lot_document(lot: Lot) -> Document:
    document: Document = {"id": lot.id, "points": lot.points}
    if lot.activates_at is not None:
        document["activates_at"] = lot.activates_at
    if lot.expires_at is not None:
        document["expires_at"] = lot.expires_at
    return document
