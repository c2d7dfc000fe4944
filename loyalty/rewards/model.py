"""What a reward and its redemption are, as documents and on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from loyalty.infra.http.model import Body, Out, Page, PageQuery, Timestamp, unset
from loyalty.infra.problems import Problem
from loyalty.members.model import MemberReference
from loyalty.points.model import ActOut
from loyalty.programs.policies import WalletName

Reason = Literal[
    "not_available",
    "out_of_stock",
    "limit_reached",
    "insufficient_points",
    "member_blocked",
    "wallet_not_spendable",
]
"""Why a member cannot redeem a reward at the moment."""

RewardName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Cost = Annotated[int, Field(ge=1, le=1_000_000_000, description="Points that it costs.", examples=[100])]
Stock = Annotated[
    int | None,
    Field(
        ge=0,
        le=1_000_000_000,
        description="How many there are to give away in all, those that went already included; null for no end.",
        examples=[500],
    ),
]
Limit = Annotated[
    int | None,
    Field(
        ge=1,
        le=1_000_000,
        description="How many of them one member can have, counted from when the limit was set; null for no limit.",
        examples=[1],
    ),
]
RewardId = Annotated[str, StringConstraints(pattern=r"^rew_[0-9a-z]{26}$")]


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
    wallet: str = "points"
    stock: int | None = None
    limit_per_member: int | None = None
    taken: int = 0

    @property
    def remaining(self) -> int | None:
        """How many are left; None where there is no end."""
        return None if self.stock is None else max(0, self.stock - self.taken)

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
            wallet=document.get("wallet", "points"),
            stock=document.get("stock"),
            limit_per_member=document.get("limit_per_member"),
            taken=document.get("taken", 0),
        )


class NewReward(Body):
    """A reward to offer."""

    name: RewardName = Field(description="What it is called.", examples=["Coffee"])
    cost: Cost
    wallet: WalletName = Field("points", description="The wallet that pays.")
    stock: Stock = None
    limit_per_member: Limit = None
    available: bool = Field(True, description="Whether it can be redeemed.")


class RewardChange(Body):
    """What to change; fields that are absent stay. What was redeemed keeps the cost of its day."""

    name: RewardName = unset("What it is called.")
    cost: Cost = unset("Points that it costs from now on.")
    wallet: WalletName = unset("The wallet that pays from now on.")
    stock: Stock = unset()
    limit_per_member: Limit = unset()
    available: bool = unset("Whether it can be redeemed.")


class RewardOut(Out):
    """A reward."""

    id: str = Field(description="The reward's id.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"])
    name: str = Field(description="What it is called.")
    cost: int = Field(description="Points that it costs.")
    wallet: str = Field(description="The wallet that pays.")
    stock: int | None = Field(description="How many there are to give away in all; null for no end.")
    limit_per_member: int | None = Field(description="How many of them one member can have; null for no limit.")
    available: bool = Field(description="Whether it can be redeemed.")
    created_at: Timestamp = Field(description="When it was created.")
    version: int = Field(description="Grows with every change; the ETag carries it.")

    @staticmethod
    def of(reward: Reward) -> RewardOut:
        """The wire form of a reward."""
        return RewardOut.model_validate({name: getattr(reward, name) for name in RewardOut.model_fields})


class StockOut(Out):
    """How much of a reward is left, at this moment."""

    stock: int | None = Field(description="How many there are to give away in all; null for no end.")
    taken: int = Field(description="How many went, cancelled ones not counted, since the reward has a stock.")
    remaining: int | None = Field(description="How many are left; null for no end.")


class RewardPage(Page[RewardOut]):
    """One page of rewards, in the order of their creation."""


class RewardQuery(PageQuery):
    """Which rewards to list."""

    available: bool | None = Field(None, description="Only those that can, or cannot, be redeemed.")


class NewRedemption(Body):
    """Which reward for whom."""

    member: MemberReference = Field(description="Who pays.")
    reward: RewardId = Field(description="The reward's id.", examples=["rew_01kat2jz3v8f5w0q6g4y7n1b2c"])


class RedeemedReward(Out):
    """The reward as it was when it was redeemed."""

    id: str = Field(description="The reward.")
    name: str = Field(description="Its name that day.")
    cost: int = Field(description="Its cost that day.")
    wallet: str = Field(description="The wallet that paid.")


class RedemptionOut(Out):
    """A redemption."""

    id: str = Field(
        description="The redemption's id: that of the entry that paid for it.", examples=["ent_0000000g00001"]
    )
    member: str = Field(description="Who paid.", examples=["mem_00000001"])
    reward: RedeemedReward = Field(description="What was bought.")
    status: Literal["redeemed", "cancelled"] = Field(description="redeemed or cancelled.")
    redeemed_at: Timestamp = Field(description="When it was bought.")
    cancelled_at: Timestamp | None = Field(description="When it was cancelled; null if it was not.")
    cancelled_by: str | None = Field(description="The entry that gave the points back; null if none did.")


class RedeemedOut(ActOut):
    """What was bought, or given back."""

    reward: RedeemedReward = Field(description="The reward.")


class OfferOut(Out):
    """A reward, seen by one member."""

    reward: RewardOut = Field(description="The reward.")
    affordable: bool = Field(description="Whether the member can redeem it now.")
    reasons: list[Reason] = Field(description="Why not: everything that is in the way.", examples=[["out_of_stock"]])
    missing_points: int = Field(description="How many more points the member would need.", examples=[0])
    remaining: int | None = Field(description="How many are left; null for no end.")
    remaining_for_member: int | None = Field(description="How many more this member can have; null for no limit.")


class OfferPage(Page[OfferOut]):
    """One page of rewards as a member sees them, in the order of their creation."""


class RewardUnavailable(Problem):
    """The reward exists but cannot be redeemed at the moment."""

    code = "reward_unavailable"
    status = 409
    title = "The reward is not available"


class OutOfStock(Problem):
    """All that there were have gone. A cancelled redemption would give one back."""

    code = "out_of_stock"
    status = 409
    title = "The reward is out of stock"


class LimitReached(Problem):
    """The member has had as many of the reward as one member can have: `limit_per_member`."""

    code = "limit_reached"
    status = 409
    title = "The member has had all it may of this reward"


class AlreadyCancelled(Problem):
    """The redemption was cancelled before; its points are back already. `cancelled_by` is the entry that did it."""

    code = "already_cancelled"
    status = 409
    title = "The redemption was cancelled before"
