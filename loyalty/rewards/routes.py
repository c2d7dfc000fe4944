"""/v1/rewards, /v1/redemptions"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.problems import NotFound
from loyalty.members.model import MemberPath
from loyalty.points import service as points
from loyalty.points import wallets
from loyalty.points.model import InsufficientPoints, MemberBlocked, WalletNotSpendable
from loyalty.points.replies import acted
from loyalty.programs import service as programs
from loyalty.rewards import service
from loyalty.rewards.model import (
    AlreadyCancelled,
    LimitReached,
    NewRedemption,
    NewReward,
    OfferPage,
    OutOfStock,
    RedeemedOut,
    RedemptionOut,
    Reward,
    RewardChange,
    RewardOut,
    RewardPage,
    RewardQuery,
    RewardUnavailable,
    StockOut,
)

api = Api("rewards", "Rewards", "What points buy.")

RewardPath = Annotated[str, Field(description="The id of a reward.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"])]

RedemptionPath = Annotated[
    str, Field(description="The id of a redemption: that of its entry.", examples=["ent_0000000g00001"])
]


@api.post("/v1/rewards", scope="rewards:write", status=201, idempotent=True, example={"name": "Coffee", "cost": 100})
def create_reward(context: Context, body: NewReward) -> Reply[RewardOut]:
    """Offer a reward"""
    db = context.services.db
    wallets.known(programs.get(db, context.program), body.wallet)
    reward = service.create(db, context.program, clock=context.services.clock, **body.model_dump())
    return _answer(reward, location=True)


@api.get("/v1/rewards", scope="rewards:read", problems=(InvalidCursor,))
def list_rewards(context: Context, query: RewardQuery) -> Reply[RewardPage]:
    """List rewards

    In the order of their creation."""
    pager = Pager(context, query, "rewards")
    found = service.list_rewards(
        context.services.db, context.program, limit=pager.limit + 1, after=pager.after, available=query.available
    )
    last = found[pager.limit - 1].id if len(found) > pager.limit else None
    return pager.reply(RewardPage, [RewardOut.of(reward) for reward in found[: pager.limit]], last=last)


@api.get("/v1/rewards/<reward>", scope="rewards:read", problems=(NotFound,))
def read_reward(context: Context, reward: RewardPath) -> Reply[RewardOut]:
    """Read a reward"""
    return _answer(service.find(context.services.db, context.program, reward))


@api.patch(
    "/v1/rewards/<reward>",
    scope="rewards:write",
    if_match="required",
    idempotent=True,
    problems=(NotFound,),
    example={"cost": 120},
)
def change_reward(context: Context, reward: RewardPath, body: RewardChange) -> Reply[RewardOut]:
    """Change a reward

    Only the fields that are sent change. What was redeemed keeps the name and cost of its day."""
    db = context.services.db
    changes = body.model_dump(exclude_unset=True)
    if "wallet" in changes:
        wallets.known(programs.get(db, context.program), changes["wallet"])
    changed = service.change(db, context.program, reward, expected_version=context.expected_version(), changes=changes)
    return _answer(changed)


@api.get("/v1/rewards/<reward>/stock", scope="rewards:read", problems=(NotFound,))
def read_stock(context: Context, reward: RewardPath) -> Reply[StockOut]:
    """Read how many are left

    Apart from the reward, because it changes with every redemption and the reward's version does not."""
    found = service.find(context.services.db, context.program, reward)
    return Reply(StockOut(stock=found.stock, taken=found.taken, remaining=found.remaining))


@api.get("/v1/members/<member>/rewards", scope="rewards:read", problems=(NotFound, InvalidCursor))
def list_offers(context: Context, member: MemberPath, query: RewardQuery) -> Reply[OfferPage]:
    """List what a member can afford

    All rewards in the order of their creation, each with everything that is in the member's way and with the points
    that are missing. Decided from the ledger as it is at this moment."""
    db = context.services.db
    found, head = points.find_with_head(db, context.program, member)
    state, _ = points.balance(db, head, now=context.services.clock(), at=None)
    pager = Pager(context, query, f"offers|{found.id}")
    rewards = service.list_rewards(
        db, context.program, limit=pager.limit + 1, after=pager.after, available=query.available
    )
    program = programs.get(db, context.program)
    last = rewards[pager.limit - 1].id if len(rewards) > pager.limit else None
    offers = [service.offer_json(program, found, state, reward) for reward in rewards[: pager.limit]]
    return pager.reply_json(offers, last=last)


@api.post(
    "/v1/redemptions",
    scope="redemptions:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(
        NotFound,
        InsufficientPoints,
        MemberBlocked,
        RewardUnavailable,
        OutOfStock,
        LimitReached,
        WalletNotSpendable,
    ),
    idempotency_header=True,
    example={"member": {"external_id": "00001"}, "reward": "rew_01kat2jz3v8f5w0q6g4y7n1b2c"},
)
def redeem_reward(context: Context, body: NewRedemption) -> Reply[RedeemedOut]:
    """Redeem a reward

    The points leave at once, those that expire first before others; one of a reward with a stock leaves it in the same
    moment. Send an Idempotency-Key: after a lost answer, the same request with the same key tells what happened instead
    of buying twice."""
    db = context.services.db
    done = service.redeem(
        context.services,
        programs.get(db, context.program),
        service.find(db, context.program, body.reward),
        member=body.member.reference(),
        key=context.business_key(),
        by=context.caller.key,
    )
    return acted(done, reward=service.reward_json(done.entry))


@api.get("/v1/redemptions/<redemption>", scope="ledger:read", problems=(NotFound,))
def read_redemption(context: Context, redemption: RedemptionPath) -> Reply[RedemptionOut]:
    """Read a redemption"""
    db = context.services.db
    found = service.find_redemption(db, context.program, redemption)
    return Reply(orjson.dumps(service.redemption_json(db, found)))


@api.post(
    "/v1/redemptions/<redemption>/cancel",
    scope="redemptions:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, AlreadyCancelled),
    idempotency_header=True,
)
def cancel_redemption(context: Context, redemption: RedemptionPath) -> Reply[RedeemedOut]:
    """Cancel a redemption

    Once. The points return with their original expiry; what has expired meanwhile is good for the days of grace that
    the wallet's policy grants, or is gone. The reward goes back to stock."""
    db = context.services.db
    done = service.cancel(
        context.services,
        programs.get(db, context.program),
        service.find_redemption(db, context.program, redemption),
        key=context.business_key(),
        by=context.caller.key,
    )
    return acted(done, reward=service.reward_json(done.entry))


def _answer(reward: Reward, *, location: bool = False) -> Reply[RewardOut]:
    headers = {"Location": f"/v1/rewards/{reward.id}"} if location else {}
    return Reply(RewardOut.of(reward), etag=version_tag(reward.version), headers=headers)
