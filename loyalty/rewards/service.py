"""What can be done with rewards: offer, change, redeem."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument

from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.movements import debit
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.points.acts import Act, Decide
from loyalty.points.model import MemberBlocked
from loyalty.programs.model import Program
from loyalty.rewards.model import Reward, RewardUnavailable

COLLECTION = "rewards"
INDEXES = {COLLECTION: [IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program")]}


def create(db: Mongo, program: str, *, name: str, cost: int, available: bool, clock: Clock) -> Reward:
    """Offer a reward for `cost` points."""
    now = clock()
    document: Document = {
        "_id": new_id("rew", now),
        "program": program,
        "name": name,
        "cost": cost,
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


def redemption(program: Program, reward: Reward, *, member: str, key: tuple[str, ...], by: str) -> Act:
    """The act of buying `reward` for the member behind `member`. `key` makes it happen once; `by` is who asks."""
    conflict = IdempotencyConflict("The Idempotency-Key was used with another request.")
    request = request_digest({"redemption": reward.id, "member": member})

    def decide(found: Member) -> Decide:
        if not reward.available:
            raise RewardUnavailable(f"{reward.name} cannot be redeemed at the moment.")
        if not found.may_spend:
            raise MemberBlocked(f"The member's status is {found.status}.")

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            bought = {"id": reward.id, "name": reward.name, "cost": reward.cost}
            return Draft(
                "spend", now, debit(state, "points", reward.cost, target="spent"), {"reward": bought, "by": by}
            )

        return draft

    return Act(program, member, ((business_key(program.id, *key), conflict),), request, decide)
