"""How open lots and their lineage look on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import Field

from loyalty.infra.http.model import Out, Timestamp, format_instant
from loyalty.infra.ids import entry_id, member_id
from loyalty.ledger.state import Lot
from loyalty.points.lineage import Lineage

MOST_NAMED: Final = 100
"""How many entries on either side of a lot are named: the latest. A lot that never expires may have thousands."""


class FeedOut(Out):
    """Points that an entry brought into the lot."""

    entry: str = Field(description="The entry that the points came by.", examples=["ent_00000000g0001"])
    points: int = Field(description="How many it brought.", examples=[11])
    left: int = Field(description="How many of them are still there.", examples=[4])


class UseOut(Out):
    """Points that left the lot."""

    entry: str = Field(description="The entry that took them.", examples=["ent_00000000g0002"])
    to: str = Field(description="The bucket that they entered: spent, held, expired, …", examples=["spent"])
    points: int = Field(description="How many.", examples=[7])
    source: str = Field(description="The entry that they had come by.", examples=["ent_00000000g0001"])


class LotOut(Out):
    """Points of a wallet that activate and expire together."""

    wallet: str = Field(description="The wallet.", examples=["points"])
    lot: int = Field(description="The number of the lot, as postings name it.", examples=[1])
    bucket: Literal["available", "pending"] = Field(description="Whether its points can be spent yet.")
    points: int = Field(description="How many it holds.", examples=[4])
    activates_at: Timestamp | None = Field(
        description="When they become available; null once they are. In the year 9999: when an event or a person says."
    )
    expires_at: Timestamp | None = Field(description="When they expire; null for points that never do.")
    fed_by: list[FeedOut] = Field(description="Where its points came from, the latest last.")
    fed_by_count: int = Field(description="How many entries that are in all; the latest 100 are listed.")
    consumed_by: list[UseOut] = Field(description="Where points of it went, the latest last.")
    consumed_by_count: int = Field(description="How many movements that are in all; the latest 100 are listed.")


class LotsOut(Out):
    """A member's open lots."""

    member: str = Field(description="The member.", examples=["mem_00000001"])
    data: list[LotOut] = Field(description="By wallet, in the order in which they will be spent.")


def lots_json(member: int, lots: Sequence[tuple[str, Lot, Lineage]]) -> dict[str, Any]:
    """A `LotsOut`."""
    return {"member": member_id(member), "data": [_lot_json(*lot) for lot in lots]}


def _lot_json(wallet: str, lot: Lot, lineage: Lineage) -> dict[str, Any]:
    feeds = [(number, feed) for number, feed in lineage.fed_by.items() if feed.points]
    return {
        "wallet": wallet,
        "lot": lot.id,
        "bucket": "available" if lot.activates_at is None else "pending",
        "points": lot.points,
        "activates_at": format_instant(lot.activates_at) if lot.activates_at else None,
        "expires_at": format_instant(lot.expires_at) if lot.expires_at else None,
        "fed_by": [
            {"entry": entry_id(number), "points": feed.points, "left": feed.left}
            for number, feed in feeds[-MOST_NAMED:]
        ],
        "fed_by_count": len(feeds),
        "consumed_by": [
            {"entry": entry_id(use.entry), "to": use.target, "points": use.points, "source": entry_id(use.source)}
            for use in lineage.consumed_by[-MOST_NAMED:]
        ],
        "consumed_by_count": len(lineage.consumed_by),
    }
