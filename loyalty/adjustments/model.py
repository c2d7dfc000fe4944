"""What an adjustment is, on the wire, and as a document while it waits for a second person."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from loyalty.infra.http.model import Body, Out, Page, PageQuery, Timestamp
from loyalty.infra.problems import Problem
from loyalty.members.model import MemberReference
from loyalty.points.model import BucketsOut, EntryOut
from loyalty.programs.policies import WalletName

MOST_POINTS = 1_000_000_000
Status = Literal["pending", "approved", "rejected"]
Text = Annotated[str, StringConstraints(min_length=3, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewAdjustment(Body):
    """Points to give or take by hand."""

    member: MemberReference = Field(description="Whose points.")
    wallet: WalletName = Field("points", description="The wallet.")
    points: int = Field(
        ge=-MOST_POINTS, le=MOST_POINTS, description="Above zero gives, below zero takes.", examples=[50]
    )
    expires_at: Timestamp | None = Field(
        None, description="When points that are given expire; absent for points that never do."
    )
    reason: Text = Field(
        description="Why, for whoever reads the ledger later.", examples=["Goodwill for a delayed order"]
    )

    @field_validator("points")
    @classmethod
    def _does_something(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must not be 0")
        return value


class Rejection(Body):
    """Why an adjustment is not to be."""

    reason: Text | None = Field(None, description="Why, for whoever asked.", examples=["Was refunded already"])


class AdjustmentRequestOut(Out):
    """An adjustment that needs, or needed, a second person."""

    id: str = Field(description="The request's id.", examples=["adj_01kat2jz3v8f5w0q6g4y7n1b2c"])
    status: Status = Field(description="pending, approved or rejected.")
    member: str = Field(description="Whose points.", examples=["mem_00000001"])
    wallet: str = Field(description="The wallet.")
    points: int = Field(description="Above zero gives, below zero takes.")
    expires_at: Timestamp | None = Field(description="When points that are given expire; null for never.")
    reason: str = Field(description="Why.")
    requested_by: str = Field(description="The key that asked.")
    requested_at: Timestamp = Field(description="When it asked.")
    decided_by: str | None = Field(description="The key that approved or rejected it; null while it is pending.")
    decided_at: Timestamp | None = Field(description="When it did.")
    rejection: str | None = Field(description="Why it was rejected, if somebody said so.")
    entry: str | None = Field(description="The ledger entry that it became; null unless it was approved.")


class AdjustmentRequestPage(Page[AdjustmentRequestOut]):
    """One page of requests, the newest first."""


class AdjustmentQuery(PageQuery):
    """Which requests to list."""

    status: Status | None = Field(None, description="Only those that are pending, approved or rejected.")


class AdjustmentOut(Out):
    """What became of an adjustment: an entry, or a request that waits for another key."""

    adjustment: AdjustmentRequestOut | None = Field(
        description="The request, as it is after this; null for an adjustment that needs no approval."
    )
    entry: EntryOut | None = Field(description="The ledger entry that it is; null while it waits.")
    balances: dict[str, BucketsOut] | None = Field(
        description="What the member has after it, by wallet; null while it waits."
    )
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class AlreadyDecided(Problem):
    """The adjustment was approved or rejected before; `decision` says which, `entry` what it became, if anything."""

    code = "already_decided"
    status = 409
    title = "The adjustment was decided before"


class OwnRequest(Problem):
    """Two people decide: the key that asked for an adjustment cannot approve it. Use another key."""

    code = "own_request"
    status = 409
    title = "The request is the key's own"
