"""What a reward and its redemption are, as documents and on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from loyalty.infra.http.model import Body, Out, Page, PageQuery, Timestamp
from loyalty.infra.problems import Problem
from loyalty.members.model import MemberReference
from loyalty.points.model import BucketsOut, EntryOut

RewardName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Cost = Annotated[int, Field(ge=1, le=1_000_000_000, description="Points that it costs.", examples=[100])]


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward as the rest of the application uses it."""

    id: str
    program: str
    name: str
    cost: int
    available: bool
    created_at: datetime
    version: int

    @staticmethod
    def from_document(document: dict[str, Any]) -> Reward:
        """The reward that a document of `rewards` holds."""
        return Reward(
            id=document["_id"],
            program=document["program"],
            name=document["name"],
            cost=document["cost"],
            available=document["available"],
            created_at=document["created_at"],
            version=document["version"],
        )


class NewReward(Body):
    """A reward to offer."""

    name: RewardName = Field(description="What it is called.", examples=["Coffee"])
    cost: Cost
    available: bool = Field(True, description="Whether it can be redeemed.")


class RewardChange(Body):
    """What to change; fields that are absent stay. What was redeemed keeps the cost of its day."""

    name: RewardName | None = Field(None, description="What it is called.")
    cost: Cost | None = Field(None, description="Points that it costs from now on.")
    available: bool | None = Field(None, description="Whether it can be redeemed.")


class RewardOut(Out):
    """A reward."""

    id: str = Field(description="The reward's id.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"])
    name: str = Field(description="What it is called.")
    cost: int = Field(description="Points that it costs.")
    available: bool = Field(description="Whether it can be redeemed.")
    created_at: Timestamp = Field(description="When it was created.")
    version: int = Field(description="Grows with every change; the ETag carries it.")

    @staticmethod
    def of(reward: Reward) -> RewardOut:
        """The wire form of a reward."""
        return RewardOut.model_validate(
            {name: getattr(reward, name) for name in ("id", "name", "cost", "available", "created_at", "version")}
        )


class RewardPage(Page[RewardOut]):
    """One page of rewards, in the order of their creation."""


class RewardQuery(PageQuery):
    """Which rewards to list."""

    available: bool | None = Field(None, description="Only those that can, or cannot, be redeemed.")


class NewRedemption(Body):
    """Which reward for whom."""

    member: MemberReference = Field(description="Who pays.")
    reward: Annotated[str, StringConstraints(pattern=r"^rew_[0-9a-z]{26}$")] = Field(
        description="The reward's id.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"]
    )


class RedeemedReward(Out):
    """The reward as it was when it was redeemed."""

    id: str = Field(description="The reward.")
    name: str = Field(description="Its name that day.")
    cost: int = Field(description="Its cost that day.")


class RedemptionOut(Out):
    """A redemption."""

    reward: RedeemedReward = Field(description="What was bought.")
    entry: EntryOut = Field(description="The ledger entry that paid for it; its id names the redemption.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class RewardUnavailable(Problem):
    """The reward exists but cannot be redeemed at the moment."""

    code = "reward_unavailable"
    status = 409
    title = "The reward is not available"
