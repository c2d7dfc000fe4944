"""The fold of everyday postings, on the documents themselves.

Nearly every entry only gives points or takes available ones. A verification of millions spares making values of each:
`plain_fold` does what `state.fold` does with such postings, and leaves all others to it. A property test holds the two
together. What it does to a sound wallet leaves it sound, since lots, bucket and total always change alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from loyalty.ledger.state import DEFICIT, EMPTY, MOVES, Document

_TOTALS: Final = {"issuance": "earned", "spent": "spent", "expired": "expired", "reversed": "reversed"}
"""By the bucket outside of the wallet: the total that counts what comes from there or goes there."""

_OTHERWISE: Final = frozenset({"into", "hold", "until", "grace_days"})
_NOTHING: Final = EMPTY.document()


def plain_fold(wallets: Mapping[str, Document], postings: Sequence[Mapping[str, Any]]) -> dict[str, Document] | None:
    """The sound wallets after the postings, all as in the ledger; None where only `state.fold` can tell."""
    after = dict(wallets)
    for posting in postings:
        wallet = after.get(posting["wallet"], _NOTHING)
        if "deficit" in wallet or posting["lot"] == DEFICIT or not _OTHERWISE.isdisjoint(posting):
            return None
        if (posting["from"], posting["to"]) not in MOVES or not isinstance(posting["points"], int):
            return None
        if posting["from"] == "available":
            moved = _taken(wallet, posting)
        elif posting["from"] == "issuance":
            moved = _given(wallet, posting)
        else:
            return None
        if moved is None:
            return None
        after[posting["wallet"]] = moved
    return after


def _given(wallet: Document, posting: Mapping[str, Any]) -> Document | None:
    """Points that enter an open lot, or open one."""
    points, number, bucket = posting["points"], posting["lot"], posting["to"]
    activates_at, expires_at = posting.get("activates_at"), posting.get("expires_at")
    if points <= 0 or (bucket == "pending") != (activates_at is not None):
        return None
    lots = wallet["lots"]
    for place, lot in enumerate(lots):
        if lot["id"] == number:
            if lot.get("activates_at") != activates_at or lot.get("expires_at") != expires_at:
                return None
            lots = [*lots[:place], {**lot, "points": lot["points"] + points}, *lots[place + 1 :]]
            break
    else:
        opened = {"id": number, "points": points}
        if activates_at is not None:
            opened["activates_at"] = activates_at
        if expires_at is not None:
            opened["expires_at"] = expires_at
        lots = [*lots, opened]
        if len(lots) > 1:
            lots.sort(key=_order)
    return _with(wallet, bucket, points, lots, "issuance")


def _taken(wallet: Document, posting: Mapping[str, Any]) -> Document | None:
    """Available points that leave a lot for good."""
    points, number, target = posting["points"], posting["lot"], posting["to"]
    if points <= 0 or target not in _TOTALS:
        return None
    lots = wallet["lots"]
    for place, lot in enumerate(lots):
        if lot["id"] == number:
            rest = lot["points"] - points
            if rest < 0 or "activates_at" in lot or posting.get("expires_at") not in (None, lot.get("expires_at")):
                return None
            left = [{**lot, "points": rest}] if rest else []
            return _with(wallet, "available", -points, [*lots[:place], *left, *lots[place + 1 :]], target)
    return None


def _order(lot: Mapping[str, Any]) -> tuple[bool, datetime | None, int]:
    """As `state.Lot.order`."""
    expires_at = lot.get("expires_at")
    return (expires_at is None, expires_at, lot["id"])


def _with(wallet: Document, bucket: str, points: int, lots: list[Document], outside: str) -> Document:
    total = _TOTALS[outside]
    lifetime = wallet["lifetime"]
    return {
        **wallet,
        bucket: wallet[bucket] + points,
        "lots": lots,
        "lifetime": {**lifetime, total: lifetime[total] + abs(points)},
    }
