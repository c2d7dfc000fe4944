"""What can be done with rewards: offer, change, redeem, cancel.

How many of a limited reward one member has had is kept in that member's chain, where nothing can race. How many of a
reward with a stock are left is one number for all members: its redemption is a transaction over chain and counter.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.client_session import ClientSession

from loyalty.infra.clock import Clock
from loyalty.infra.http.model import format_instant
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import entry_id, member_id, new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft, business_key, member_of, request_digest
from loyalty.ledger.heads import read_by_key
from loyalty.ledger.movements import debit, restore
from loyalty.ledger.state import Lot, Posting, State
from loyalty.members.model import Member
from loyalty.points import acts, wallets
from loyalty.points import service as points_service
from loyalty.points.acts import Act, Decide, Done, Refused
from loyalty.points.model import MemberBlocked
from loyalty.programs.model import Program
from loyalty.rewards.model import (
    AlreadyCancelled,
    LimitReached,
    OutOfStock,
    Reason,
    Reward,
    RewardOut,
    RewardUnavailable,
)

COLLECTION = "rewards"
INDEXES = {COLLECTION: [IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program")]}

FACET: Final = "redemptions"
"""Where a member's state counts what it has had of limited rewards: {reward: how many}."""

_REUSED = IdempotencyConflict("The Idempotency-Key was used with another request.")


# -- offering ---------------------------------------------------------------------------------------------------------


def create(
    db: Mongo,
    program: str,
    *,
    name: str,
    cost: int,
    available: bool,
    clock: Clock,
    wallet: str = "points",
    stock: int | None = None,
    limit_per_member: int | None = None,
) -> Reward:
    """Offer a reward for `cost` points of `wallet`: `stock` of them in all, None without end."""
    now = clock()
    document: Document = {
        "_id": new_id("rew", now),
        "program": program,
        "name": name,
        "cost": cost,
        "wallet": wallet,
        "stock": stock,
        "limit_per_member": limit_per_member,
        "taken": 0,
        "available": available,
        "created_at": now,
        "version": 1,
    }
    db[COLLECTION].insert_one(document)
    return Reward.from_document(document)


def find(db: Mongo, program: str, reward: str) -> Reward:
    """The reward as it is now. NotFound if there is none."""
    document = db[COLLECTION].find_one({"_id": reward, "program": program})
    if document is None:
        raise NotFound(f"There is no reward {reward!r} in this program.")
    return Reward.from_document(document)


def list_rewards(
    db: Mongo, program: str, *, limit: int, after: str | None, available: bool | None = None
) -> list[Reward]:
    """Up to `limit` rewards in the order of their creation, beginning after the id `after`."""
    wanted: Document = {"program": program}
    if after is not None:
        wanted["_id"] = {"$gt": after}
    if available is not None:
        wanted["available"] = available
    return [Reward.from_document(found) for found in db[COLLECTION].find(wanted).sort("_id", ASCENDING).limit(limit)]


def change(db: Mongo, program: str, reward: str, *, expected_version: int | None, changes: dict[str, Any]) -> Reward:
    """Change fields of a reward. PreconditionFailed when it is not at `expected_version` (None: whichever it is)."""
    wanted: Document = {"_id": reward, "program": program}
    if expected_version is not None:
        wanted["version"] = expected_version
    update: Document = {"$inc": {"version": 1}}
    if changes:
        update["$set"] = changes
    document = db[COLLECTION].find_one_and_update(wanted, update, return_document=ReturnDocument.AFTER)
    if document is None:
        current = find(db, program, reward)
        raise PreconditionFailed(f"The reward is at version {current.version} now. Read it again.")
    return Reward.from_document(document)


def offer_json(program: Program, member: Member, state: State, reward: Reward) -> dict[str, Any]:
    """An `OfferOut`. `state` is settled."""
    available = state.wallet(reward.wallet).available
    missing = max(0, reward.cost - available)
    left = None
    if reward.limit_per_member is not None:
        left = max(0, reward.limit_per_member - _had(state, reward.id))
    in_the_way: dict[Reason, bool] = {
        "not_available": not reward.available,
        "out_of_stock": reward.remaining == 0,
        "limit_reached": left == 0,
        "insufficient_points": missing > 0,
        "member_blocked": not member.may_spend,
        "wallet_not_spendable": not program.policies.wallet(reward.wallet).spendable,
    }
    reasons = [reason for reason, holds in in_the_way.items() if holds]
    return {
        "reward": RewardOut.of(reward).model_dump(mode="json"),
        "affordable": not reasons,
        "reasons": reasons,
        "missing_points": missing,
        "remaining": reward.remaining,
        "remaining_for_member": left,
    }


# -- redeeming --------------------------------------------------------------------------------------------------------


def redeem(services: Services, program: Program, reward: Reward, *, member: str, key: tuple[str, ...], by: str) -> Done:
    """Buy `reward` for the member behind `member`. `key` makes it happen once; `by` is who asks."""
    act = _redemption(program, reward, member=member, key=key, by=by)
    if reward.stock is None:
        return acts.perform_together(services, act)
    (done,) = acts.perform_jointly(
        services.db, [act], clock=services.clock, also=lambda session: _take(services.db, reward, session)
    )
    return done


def cancel(services: Services, program: Program, redemption: Document, *, key: tuple[str, ...], by: str) -> Done:
    """Give the points of a redemption back as they were, once. AlreadyCancelled.

    What has expired meanwhile is good for the days of grace that the wallet's policy grants, or is gone.
    """
    name, bought = entry_id(redemption["_id"]), redemption["evidence"]["reward"]
    wallet = bought.get("wallet", "points")
    spent = [Posting.of(posting) for posting in redemption["postings"]]
    parts = [
        Lot(part.lot, part.points, expires_at=part.expires_at)
        for part in spent
        if (part.wallet, part.source, part.target) == (wallet, "available", "spent")
    ]
    grace_days = program.policies.wallet(wallet).restore_grace_days

    def decide(_: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            postings = restore(state, wallet, parts, now=now, grace_days=grace_days, sequence=sequence)
            facets = _counted(state, bought["id"], -1) if bought.get("limited") else {}
            return Draft("cancel", now, postings, {"redemption": name, "reward": bought, "by": by}, facets=facets)

        return draft

    again = AlreadyCancelled("The redemption was cancelled before.")
    act = Act(
        program,
        member_id(member_of(redemption["_id"])),
        ((business_key(program.id, *key), _REUSED), (_cancellation(redemption), again)),
        # With the key in it: a cancellation by another request is a second one, not a repetition.
        request_digest({"cancel": name, "key": list(key)}),
        decide,
    )
    try:
        if not bought.get("stocked"):
            return acts.perform_together(services, act)
        (done,) = acts.perform_jointly(
            services.db,
            [act],
            clock=services.clock,
            also=lambda session: _give_back(services.db, bought["id"], session),
        )
        return done
    except AlreadyCancelled:
        before = read_by_key(services.db.ledger, _cancellation(redemption))
        if before is None:
            raise
        at, by_entry = format_instant(before["recorded_at"]), entry_id(before["_id"])
        raise AlreadyCancelled(
            f"The redemption was cancelled at {at}; its points are back already.",
            cancelled_at=at,
            cancelled_by=by_entry,
        ) from None


def find_redemption(db: Mongo, program: str, redemption: str) -> Document:
    """The entry that paid for a reward. NotFound if there is none such."""
    try:
        entry = points_service.entry(db, program, redemption)
    except NotFound:
        entry = {"kind": ""}
    if entry["kind"] != "spend" or "reward" not in entry["evidence"]:
        raise NotFound(f"There is no redemption {redemption!r} in this program.")
    return entry


def redemption_json(db: Mongo, redemption: Document) -> dict[str, Any]:
    """A `RedemptionOut`."""
    cancelled = read_by_key(db.ledger, _cancellation(redemption))
    return {
        "id": entry_id(redemption["_id"]),
        "member": member_id(member_of(redemption["_id"])),
        "reward": reward_json(redemption),
        "status": "cancelled" if cancelled else "redeemed",
        "redeemed_at": format_instant(redemption["recorded_at"]),
        "cancelled_at": format_instant(cancelled["recorded_at"]) if cancelled else None,
        "cancelled_by": entry_id(cancelled["_id"]) if cancelled else None,
    }


def reward_json(entry: Document) -> dict[str, Any]:
    """A `RedeemedReward`, from the entry of a redemption or of its cancellation."""
    bought = entry["evidence"]["reward"]
    return {
        "id": bought["id"],
        "name": bought["name"],
        "cost": bought["cost"],
        "wallet": bought.get("wallet", "points"),
    }


def _redemption(program: Program, reward: Reward, *, member: str, key: tuple[str, ...], by: str) -> Act:
    def decide(found: Member) -> Decide:
        wallets.spendable(program, reward.wallet)
        if not reward.available:
            raise RewardUnavailable(f"{reward.name} cannot be redeemed at the moment.")
        if not found.may_spend:
            raise MemberBlocked(f"The member's status is {found.status}.")

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            bought: Document = {"id": reward.id, "name": reward.name, "cost": reward.cost, "wallet": reward.wallet}
            facets: Document = {}
            if reward.limit_per_member is not None:
                if _had(state, reward.id) >= reward.limit_per_member:
                    raise Refused(_limit_reached(reward))
                bought["limited"] = True
                facets = _counted(state, reward.id, 1)
            if reward.stock is not None:
                bought["stocked"] = True
            postings = debit(state, reward.wallet, reward.cost, target="spent")
            lapses = wallets.lapses(program, state, reward.wallet, now)
            return Draft("spend", now, postings, {"reward": bought, "by": by}, facets=facets, lapses=lapses)

        return draft

    request = request_digest({"redemption": reward.id, "member": member})
    return Act(program, member, ((business_key(program.id, *key), _REUSED),), request, decide)


def _limit_reached(reward: Reward) -> LimitReached:
    return LimitReached(
        f"A member can have {reward.limit_per_member} of {reward.name}.", limit_per_member=reward.limit_per_member
    )


def _cancellation(redemption: Document) -> bytes:
    """The key that lets a redemption be cancelled once."""
    return business_key(redemption["program"], "cancel", entry_id(redemption["_id"]))


def _had(state: State, reward: str) -> int:
    """How many of a limited reward the member has had, less those that were cancelled."""
    counts: dict[str, int] = state.facets.get(FACET, {})
    return counts.get(reward, 0)


def _counted(state: State, reward: str, change: int) -> dict[str, Document | None]:
    """The facet with so many more of the reward. Counts of zero are not kept."""
    counts = {**state.facets.get(FACET, {}), reward: _had(state, reward) + change}
    return {FACET: {name: count for name, count in counts.items() if count > 0} or None}


def _take(db: Mongo, reward: Reward, session: ClientSession) -> None:
    """One less in stock. Without `stock` meanwhile there is no end; the count goes on nevertheless."""
    left = {"$or": [{"stock": None}, {"$expr": {"$lt": [{"$ifNull": ["$taken", 0]}, "$stock"]}}]}
    taken = db[COLLECTION].update_one({"_id": reward.id, **left}, {"$inc": {"taken": 1}}, session=session)
    if not taken.modified_count:
        raise Refused(OutOfStock(f"There is no {reward.name} left."))


def _give_back(db: Mongo, reward: str, session: ClientSession) -> None:
    db[COLLECTION].update_one({"_id": reward}, {"$inc": {"taken": -1}}, session=session)
