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
from loyalty.points import acts
from loyalty.points.model import InsufficientPoints, MemberBlocked, buckets_json, entry_json
from loyalty.programs import service as programs
from loyalty.rewards import service
from loyalty.rewards.model import (
    NewRedemption,
    NewReward,
    RedemptionOut,
    Reward,
    RewardChange,
    RewardOut,
    RewardPage,
    RewardQuery,
    RewardUnavailable,
)

api = Api("rewards", "Rewards", "What points buy.")

RewardPath = Annotated[str, Field(description="The id of a reward.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"])]


@api.post("/v1/rewards", scope="rewards:write", status=201, idempotent=True, example={"name": "Coffee", "cost": 100})
def create_reward(context: Context, body: NewReward) -> Reply[RewardOut]:
    """Offer a reward"""
    reward = service.create(context.services.db, context.program, clock=context.services.clock, **body.model_dump())
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
    changed = service.change(
        context.services.db,
        context.program,
        reward,
        expected_version=context.expected_version(),
        changes=body.model_dump(exclude_none=True),
    )
    return _answer(changed)


@api.post(
    "/v1/redemptions",
    scope="redemptions:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, InsufficientPoints, MemberBlocked, RewardUnavailable),
    idempotency_header=True,
    example={"member": {"external_id": "00001"}, "reward": "rew_01kat2jz3v8f5w0q6g4y7n1b2c"},
)
def redeem_reward(context: Context, body: NewRedemption) -> Reply[RedemptionOut]:
    """Redeem a reward

    The points leave at once, those that expire first before others. Send an Idempotency-Key: after a lost answer, the
    same request with the same key tells what happened instead of buying twice."""
    db = context.services.db
    reward = service.find(db, context.program, body.reward)
    act = service.redemption(
        programs.get(db, context.program),
        reward,
        member=body.member.reference(),
        key=context.business_key(),
        by=context.caller.key,
    )
    done = acts.perform_together(context.services, act)
    answer = {
        "reward": done.entry["evidence"]["reward"],
        "entry": entry_json(done.entry),
        "balances": buckets_json(done.entry),
        "replayed": done.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if done.replayed else 201, headers=headers)


def _answer(reward: Reward, *, location: bool = False) -> Reply[RewardOut]:
    headers = {"Location": f"/v1/rewards/{reward.id}"} if location else {}
    return Reply(RewardOut.of(reward), etag=version_tag(reward.version), headers=headers)
