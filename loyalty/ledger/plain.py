"""The fold of everyday postings, on the documents themselves.

Most postings do not concern a debt. A verification of millions spares making values of each: `plain_fold` does what
`state.fold` does with such postings, and leaves all others to it. A property test holds the two together. What it does
to a sound wallet leaves it sound, since lots, holds, buckets and totals always change alike.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from loyalty.ledger.state import DEFICIT, EMPTY, MOVES, Document

_COMES: Final = {"issuance": "earned", "adjusted": "adjusted", "transferred": "transferred", "spent": "restored"}
"""By the bucket outside of the wallet that points come from: the total that grows."""

_GOES: Final = {
    "spent": ("spent", 1),
    "expired": ("expired", 1),
    "reversed": ("reversed", 1),
    "adjusted": ("adjusted", -1),
    "transferred": ("transferred", -1),
}
"""By the bucket outside of the wallet that points go to: the total that changes, and in which direction."""

_ALWAYS: Final = 5
"""How many fields every posting has."""
_OF_HOLDS: Final = frozenset({"hold", "until", "grace_days"})
_NOTHING: Final = EMPTY.document()


def plain_fold(wallets: Mapping[str, Document], postings: Sequence[Mapping[str, Any]]) -> dict[str, Document] | None:
    """The sound wallets after the postings, all as in the ledger; None where only `state.fold` can tell."""
    after = dict(wallets)
    for posting in postings:
        wallet = after.get(posting["wallet"], _NOTHING)
        moved = None if "deficit" in wallet else _moved(wallet, posting)
        if moved is None:
            return None
        after[posting["wallet"]] = moved
    return after


def _moved(wallet: Document, posting: Mapping[str, Any]) -> Document | None:
    source, target, points, number = posting["from"], posting["to"], posting["points"], posting["lot"]
    if (source, target) not in MOVES or not isinstance(points, int) or points <= 0 or number == DEFICIT:
        return None
    holds = None
    if source == "held":
        holds = _taken(wallet, posting)
        if holds is None:
            return None
    elif target != "held" and len(posting) > _ALWAYS and not _OF_HOLDS.isdisjoint(posting):
        return None
    after = dict(wallet)
    lifetime = after["lifetime"] = dict(wallet["lifetime"])
    lots: list[Document] = wallet["lots"]
    expires_at = posting.get("expires_at")
    if source in _COMES:
        _count(lifetime, _COMES[source], points)
    elif source == "held":
        after["held"] = wallet["held"] - points
    else:
        for lot in lots:
            if lot["id"] == number:
                break
        else:
            return None
        if lot["points"] < points or ("activates_at" in lot) != (source == "pending"):
            return None
        if expires_at != lot.get("expires_at"):
            if expires_at is None:
                expires_at = lot.get("expires_at")
            elif source != "pending" or target != "available":
                return None
        rest = lot["points"] - points
        lots = [{**lot, "points": rest} if other is lot else other for other in lots if other is not lot or rest]
        after[source] = wallet[source] - points
    if target in _GOES:
        total, sign = _GOES[target]
        _count(lifetime, total, sign * points)
    elif target == "held":
        holds = _held(wallet, posting, expires_at)
        if holds is None:
            return None
        after["held"] = wallet["held"] + points
    else:
        into = posting.get("into")
        entered = number if into is None else into
        with_entered = _entered(
            lots, entered, points, posting.get("activates_at"), expires_at, waits=target == "pending"
        )
        if with_entered is None:
            return None
        lots = with_entered
        after[target] = wallet[target] + points
    after["lots"] = lots
    if holds:
        after["holds"] = holds
    elif holds is not None:
        del after["holds"]  # absent where there are none
    return after


def _taken(wallet: Document, posting: Mapping[str, Any]) -> list[Document] | None:
    """The holds without the points that leave one of them."""
    holds: list[Document] = wallet.get("holds", [])
    number, points = posting["lot"], posting["points"]
    hold = next((hold for hold in holds if hold["id"] == posting.get("hold")), None)
    part = next((part for part in hold["parts"] if part["id"] == number), None) if hold else None
    if hold is None or part is None or part["points"] < points:
        return None
    rest = part["points"] - points
    parts = [{**part, "points": rest} if each is part else each for each in hold["parts"] if each is not part or rest]
    return [{**hold, "parts": parts} if each is hold else each for each in holds if each is not hold or parts]


def _held(wallet: Document, posting: Mapping[str, Any], expires_at: datetime | None) -> list[Document] | None:
    """The holds with points more in one of them, or with a new one."""
    holds: list[Document] = wallet.get("holds", [])
    number, until, grace_days = posting.get("hold"), posting.get("until"), posting.get("grace_days")
    if number is None or until is None:
        return None
    part: Document = {"id": posting["lot"], "points": posting["points"]}
    if expires_at is not None:
        part["expires_at"] = expires_at
    before = next((hold for hold in holds if hold["id"] == number), None)
    if before is not None:
        return [{**hold, "parts": [*hold["parts"], part]} if hold is before else hold for hold in holds]
    opened: Document = {"id": number, "until": until, "parts": [part]}
    if grace_days:
        opened["grace_days"] = grace_days
    return [*holds, opened]


def _entered(
    lots: list[Document],
    number: int,
    points: int,
    activates_at: datetime | None,
    expires_at: datetime | None,
    *,
    waits: bool,
) -> list[Document] | None:
    """The lots with points more in an open one, or with a new one."""
    if number == DEFICIT or waits != (activates_at is not None):
        return None
    for place, lot in enumerate(lots):
        if lot["id"] == number:
            if lot.get("activates_at") != activates_at or lot.get("expires_at") != expires_at:
                return None
            return [*lots[:place], {**lot, "points": lot["points"] + points}, *lots[place + 1 :]]
    opened: Document = {"id": number, "points": points}
    if activates_at is not None:
        opened["activates_at"] = activates_at
    if expires_at is not None:
        opened["expires_at"] = expires_at
    entered = lots.copy()
    insort(entered, opened, key=_order)
    return entered


def _order(lot: Mapping[str, Any]) -> tuple[bool, datetime | None, int]:
    """As `state.Lot.order`."""
    expires_at = lot.get("expires_at")
    return (expires_at is None, expires_at, lot["id"])


def _count(lifetime: Document, total: str, change: int) -> None:
    lifetime[total] = lifetime.get(total, 0) + change
    if total == "transferred" and not lifetime[total]:
        del lifetime[total]  # absent where it is nothing
