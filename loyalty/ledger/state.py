"""What a member has: wallets, lots, holds, and how one movement changes them. Pure functions over immutable values.

Points move between **buckets**. `pending`, `available` and `held` are what a member has; the others are where points
come from and go to. A **posting** is one movement, so a sum of postings is zero by construction. A **lot** is points
with one expiry; the open lots of a wallet are its pending and available points. A **hold** is points set aside, with
the lots that they came from. A **deficit** is what a wallet owes: it has no available lot then, and what arrives pays
it first.

An entry of the ledger carries the state after it, so `fold` is at once how an entry is made and how it is verified.
What an operation wants to move is decided in `movements`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Final

Document = dict[str, Any]

NEVER: Final = datetime.max.replace(tzinfo=timezone.utc)
"""Where a lot without expiry stands in the order of consumption: last."""

SOMEDAY: Final = datetime(9999, 1, 1, tzinfo=timezone.utc)
"""When points activate that wait for an event or for a person."""

DEFICIT: Final = 0
"""In place of a lot: the debt of the wallet. Lots count from 1."""

MOVES: Final = frozenset(
    {
        ("issuance", "pending"),
        ("issuance", "available"),
        ("pending", "available"),
        ("pending", "reversed"),
        ("pending", "transferred"),
        ("available", "held"),
        ("available", "spent"),
        ("available", "expired"),
        ("available", "reversed"),
        ("available", "adjusted"),
        ("available", "transferred"),
        ("held", "available"),
        ("held", "spent"),
        ("held", "expired"),
        ("spent", "available"),
        ("adjusted", "available"),
        ("transferred", "available"),
        ("transferred", "pending"),
    }
)
"""Every movement that exists. Anything else in an entry is a defect."""

_IN_LOTS: Final = frozenset({"pending", "available"})
_LIFETIME: Final = ("earned", "spent", "expired", "reversed", "adjusted", "restored")


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


class HoldNotOpen(Refusal):
    """The hold was captured, voided or timed out before, or never was."""


class HoldTooSmall(Refusal):
    """A capture of more points than the hold has. `held` is how many it has."""

    def __init__(self, held: int) -> None:
        super().__init__(f"the hold has {held} points")
        self.held = held


@dataclass(frozen=True, slots=True)
class Lot:
    """Points that activate and expire together. `activates_at` is None once they are available."""

    id: int
    points: int
    activates_at: datetime | None = None
    expires_at: datetime | None = None

    def order(self) -> tuple[bool, datetime, int]:
        """Earliest expiry first, never-expiring last, ties by age (ids grow with the chain)."""
        return (self.expires_at is None, self.expires_at or NEVER, self.id)

    def document(self) -> Document:
        """The form in the ledger."""
        document: Document = {"id": self.id, "points": self.points}
        if self.activates_at is not None:
            document["activates_at"] = self.activates_at
        if self.expires_at is not None:
            document["expires_at"] = self.expires_at
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Lot:
        """The lot that `document` is the form of."""
        return cls(document["id"], document["points"], document.get("activates_at"), document.get("expires_at"))


@dataclass(frozen=True, slots=True)
class Hold:
    """Points set aside until `until`. `id` is the number of the entry that made it.

    The parts keep the ids and expiries of their lots. A part whose expiry passes under the hold comes back for
    `grace_days` more days, or not at all when that is 0.
    """

    id: int
    until: datetime
    grace_days: int
    parts: tuple[Lot, ...]

    @property
    def points(self) -> int:
        """How many points are set aside."""
        return sum(part.points for part in self.parts)

    def document(self) -> Document:
        """The form in the ledger."""
        document: Document = {"id": self.id, "until": self.until, "parts": [part.document() for part in self.parts]}
        if self.grace_days:
            document["grace_days"] = self.grace_days
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Hold:
        """The hold that `document` is the form of."""
        parts = tuple(Lot.of(part) for part in document["parts"])
        return cls(document["id"], document["until"], document.get("grace_days", 0), parts)


@dataclass(frozen=True, slots=True)
class Posting:
    """`points` (> 0) of `wallet` move from bucket `source` to bucket `target`.

    `lot` is the lot they leave or enter, `expires_at` its expiry; a movement that opens a waiting lot says when it
    activates. `into` is the lot that points join which leave another one (an activation, a released hold). Both may be
    `DEFICIT`. `hold` is the hold that points enter or leave; a movement that opens one says until when it lasts.
    """

    wallet: str
    source: str
    target: str
    points: int
    lot: int
    activates_at: datetime | None = None
    expires_at: datetime | None = None
    into: int | None = None
    hold: int | None = None
    until: datetime | None = None
    grace_days: int | None = None

    def document(self) -> Document:
        """The form in the ledger."""
        document: Document = {
            "wallet": self.wallet,
            "from": self.source,
            "to": self.target,
            "points": self.points,
            "lot": self.lot,
        }
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                document[name] = value
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
            *[document.get(name) for name in _OPTIONAL],
        )


_OPTIONAL: Final = ("activates_at", "expires_at", "into", "hold", "until", "grace_days")


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a member has in one wallet. `lots` are open and in order of consumption; the totals are of a lifetime.

    `lapses_at` is when everything available expires unless the member does something before.
    """

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
    transferred: int = 0
    deficit: int = 0
    holds: tuple[Hold, ...] = ()
    lapses_at: datetime | None = None

    def document(self) -> Document:
        """The form in the ledger. What few wallets have is absent where it is nothing."""
        lifetime = {
            "earned": self.earned,
            "spent": self.spent,
            "expired": self.expired,
            "reversed": self.reversed,
            "adjusted": self.adjusted,
            "restored": self.restored,
        }
        if self.transferred:
            lifetime["transferred"] = self.transferred
        document: Document = {
            "available": self.available,
            "pending": self.pending,
            "held": self.held,
            "lots": [lot.document() for lot in self.lots],
            "lifetime": lifetime,
        }
        if self.deficit:
            document["deficit"] = self.deficit
        if self.holds:
            document["holds"] = [hold.document() for hold in self.holds]
        if self.lapses_at is not None:
            document["lapses_at"] = self.lapses_at
        return document

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
            deficit=document.get("deficit", 0),
            holds=tuple([Hold.of(hold) for hold in document.get("holds", ())]),
            lapses_at=document.get("lapses_at"),
        )

    def lot(self, number: int) -> Lot | None:
        """The open lot with this id."""
        for lot in self.lots:
            if lot.id == number:
                return lot
        return None

    def hold(self, number: int) -> Hold | None:
        """The open hold with this id."""
        for hold in self.holds:
            if hold.id == number:
                return hold
        return None

    def open_lot(self, activates_at: datetime | None, expires_at: datetime | None) -> Lot | None:
        """The open lot with just these instants, if there is one."""
        for lot in self.lots:
            if lot.activates_at == activates_at and lot.expires_at == expires_at:
                return lot
        return None

    def defects(self) -> list[str]:
        """Which invariants this wallet breaks; empty for every state that the ledger can hold."""
        defects = []
        active = waiting = held = 0
        points = []
        for lot in self.lots:
            points.append(lot.points)
            if lot.activates_at is None:
                active += lot.points
            else:
                waiting += lot.points
        for hold in self.holds:
            points += [part.points for part in hold.parts]
            held += hold.points
        if self.available != active - self.deficit:
            defects.append(f"available is {self.available} and the open lots hold {active - self.deficit}")
        if self.pending != waiting:
            defects.append(f"pending is {self.pending} and the waiting lots hold {waiting}")
        if self.held != held:
            defects.append(f"held is {self.held} and the open holds have {held}")
        if min(self.pending, self.held, self.deficit) < 0 or (points and min(points) <= 0):
            defects.append("a bucket or a lot is below what it can be")
        if self.deficit and active:
            defects.append("points are available although some are owed")
        came = self.earned + self.adjusted + self.restored + self.transferred
        came -= self.spent + self.expired + self.reversed
        if came != self.available + self.pending + self.held:
            defects.append(f"lifetime totals give {came}, the buckets {self.available + self.pending + self.held}")
        if len(self.lots) > 1:
            if list(self.lots) != sorted(self.lots, key=Lot.order):
                defects.append("the lots are not in order of consumption")
            if len({lot.id for lot in self.lots}) != len(self.lots):
                defects.append("two lots have one id")
        return defects


EMPTY: Final = Wallet()


@dataclass(frozen=True, slots=True)
class State:
    """Everything the ledger knows of a member after an entry.

    `facets` are what features keep of a member to decide the next time (counters, the tier, parked refunds): the ledger
    stores them and guards that none changes unless the entry says so. One with a `due_at` changes by time alone then.
    """

    wallets: Mapping[str, Wallet] = field(default_factory=dict)
    facets: Mapping[str, Document] = field(default_factory=dict)

    def wallet(self, name: str) -> Wallet:
        """The wallet, empty if nothing ever moved in it."""
        return self.wallets.get(name, EMPTY)

    def document(self) -> Document:
        """The form in the ledger."""
        document: Document = {"wallets": {name: wallet.document() for name, wallet in sorted(self.wallets.items())}}
        if self.facets:
            document["facets"] = dict(sorted(self.facets.items()))
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> State:
        """The state that `document` is the form of."""
        wallets = {name: Wallet.of(wallet) for name, wallet in document["wallets"].items()}
        return cls(wallets, document.get("facets", {}))


def fold(state: State, postings: Iterable[Posting]) -> State:
    """The state after `postings`. LedgerDefect if one of them cannot be."""
    wallets = dict(state.wallets)
    for posting in postings:
        wallets[posting.wallet] = move(wallets.get(posting.wallet, EMPTY), posting)
    return State(wallets, state.facets)


def with_facets(state: State, facets: Mapping[str, Document | None]) -> State:
    """The state with these facets in place of those of the same name; None removes one."""
    if not facets:
        return state
    changed = {**state.facets, **facets}
    return State(state.wallets, {name: facet for name, facet in changed.items() if facet is not None})


def with_lapses(state: State, lapses: Mapping[str, datetime | None]) -> State:
    """The state whose wallets lapse at these instants; None for those that do not by inactivity."""
    wallets = dict(state.wallets)
    for name, instant in lapses.items():
        if state.wallet(name).lapses_at != instant:
            wallets[name] = replace(state.wallet(name), lapses_at=instant)
    return State(wallets, state.facets)


def move(wallet: Wallet, posting: Posting) -> Wallet:
    """The wallet after one movement in it. LedgerDefect if it cannot be."""
    points, source, target = posting.points, posting.source, posting.target
    if points <= 0 or (source, target) not in MOVES:
        raise LedgerDefect(f"there is no movement of {points} points from {source} to {target}")
    lots, holds, deficit = wallet.lots, wallet.holds, wallet.deficit
    expires_at = posting.expires_at
    if source in _IN_LOTS:
        if posting.lot == DEFICIT:
            deficit += points
        else:
            lot = _lot_of(wallet, posting)
            expires_at = expires_at or lot.expires_at
            lots = _without(lots, lot, points)
    elif source == "held":
        holds = _taken(wallet, posting)
    if target in _IN_LOTS:
        entered = posting.lot if posting.into is None else posting.into
        if entered == DEFICIT:
            deficit -= points
        else:
            lots = _entered(lots, entered, posting, expires_at)
    elif target == "held":
        holds = _held(wallet, posting, expires_at)
    if deficit < 0:
        raise LedgerDefect(f"the wallet owes {wallet.deficit} points, not {points}")
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
        transferred=wallet.transferred + points * ((source == "transferred") - (target == "transferred")),
        deficit=deficit,
        holds=holds,
        lapses_at=wallet.lapses_at,
    )


def _lot_of(wallet: Wallet, posting: Posting) -> Lot:
    """The lot that the posting takes from, which must have what it takes."""
    lot = wallet.lot(posting.lot)
    if lot is None or lot.points < posting.points or (lot.activates_at is None) != (posting.source == "available"):
        raise LedgerDefect(f"lot {posting.lot} does not hold {posting.points} {posting.source} points")
    activates = posting.source == "pending" and posting.target == "available"
    if posting.expires_at not in (None, lot.expires_at) and not activates:
        raise LedgerDefect(f"lot {posting.lot} expires at another instant")
    return lot


def _without(lots: tuple[Lot, ...], lot: Lot, points: int) -> tuple[Lot, ...]:
    rest = lot.points - points
    return tuple([replace(other, points=rest) if other is lot else other for other in lots if other is not lot or rest])


def _entered(lots: tuple[Lot, ...], number: int, posting: Posting, expires_at: datetime | None) -> tuple[Lot, ...]:
    activates_at = posting.activates_at if posting.target == "pending" else None
    if (posting.target == "pending") != (activates_at is not None):
        raise LedgerDefect("points are pending until an instant that the posting must name")
    for place, lot in enumerate(lots):
        if lot.id == number:
            if (lot.activates_at, lot.expires_at) != (activates_at, expires_at):
                raise LedgerDefect(f"lot {number} activates or expires at another instant")
            grown = Lot(number, lot.points + posting.points, activates_at, expires_at)  # `replace` takes far longer
            return (*lots[:place], grown, *lots[place + 1 :])
    return tuple(sorted((*lots, Lot(number, posting.points, activates_at, expires_at)), key=Lot.order))


def _held(wallet: Wallet, posting: Posting, expires_at: datetime | None) -> tuple[Hold, ...]:
    if posting.hold is None or posting.until is None or posting.lot == DEFICIT:
        raise LedgerDefect("held points belong to a hold that ends, and come from a lot")
    part = Lot(posting.lot, posting.points, None, expires_at)
    before = wallet.hold(posting.hold)
    if before is None:
        return (*wallet.holds, Hold(posting.hold, posting.until, posting.grace_days or 0, (part,)))
    grown = replace(before, parts=(*before.parts, part))
    return tuple([grown if hold is before else hold for hold in wallet.holds])


def _taken(wallet: Wallet, posting: Posting) -> tuple[Hold, ...]:
    hold = wallet.hold(posting.hold) if posting.hold is not None else None
    part = next((part for part in hold.parts if part.id == posting.lot), None) if hold else None
    if hold is None or part is None or part.points < posting.points:
        raise LedgerDefect(f"hold {posting.hold} does not have {posting.points} points of lot {posting.lot}")
    rest = replace(hold, parts=_without(hold.parts, part, posting.points))
    return tuple([rest if other is hold else other for other in wallet.holds if other is not hold or rest.parts])
