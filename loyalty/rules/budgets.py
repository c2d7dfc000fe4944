"""Budgets of campaigns: how many points they have given to all members together.

Caps of one member stand in that member's chain, where they cannot be raced. A budget is over all chains, so it has one
counter for each campaign. What an award draws is added to it in the transaction that stores the award, and only while
it fits: no crash and no concurrency makes a campaign give more than its budget, or count what it did not give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pymongo import IndexModel
from pymongo.client_session import ClientSession

from loyalty.infra.mongo import Document, Mongo

COLLECTION: Final = "campaign_budgets"
INDEXES: Final[Mapping[str, list[IndexModel]]] = {COLLECTION: []}


def given(db: Mongo, program: str, campaigns: Mapping[str, int]) -> dict[str, int]:
    """The points that each of `campaigns` has given so far, to all members and in all versions of the rules."""
    names = [_name(program, campaign) for campaign in campaigns]
    found = {counter["_id"]["campaign"]: counter["given"] for counter in db[COLLECTION].find({"_id": {"$in": names}})}
    return {campaign: found.get(campaign, 0) for campaign in campaigns}


def left(db: Mongo, program: str, budgets: Mapping[str, int]) -> dict[str, int]:
    """The points that are left of each of `budgets`."""
    spent = given(db, program, budgets)
    return {campaign: max(0, budget - spent[campaign]) for campaign, budget in budgets.items()}


def prepare(db: Mongo, program: str, drawn: Mapping[str, int]) -> None:
    """See to it that the counters exist: a transaction can then change them without creating them."""
    for campaign in drawn:
        db[COLLECTION].update_one({"_id": _name(program, campaign)}, {"$setOnInsert": {"given": 0}}, upsert=True)


def draw(db: Mongo, program: str, drawn: Mapping[str, int], budgets: Mapping[str, int], session: ClientSession) -> bool:
    """Count what an award draws, in the transaction of `session`; False if it no longer fits a budget."""
    for campaign, points in sorted(drawn.items()):
        fits = {"_id": _name(program, campaign), "given": {"$lte": budgets[campaign] - points}}
        if not db[COLLECTION].update_one(fits, {"$inc": {"given": points}}, session=session).matched_count:
            return False
    return True


def _name(program: str, campaign: str) -> Document:
    return {"program": program, "campaign": campaign}
