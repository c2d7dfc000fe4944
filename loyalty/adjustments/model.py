"""An adjustment on the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from loyalty.infra.http.model import Body, Out
from loyalty.members.model import MemberReference
from loyalty.points.model import BucketsOut, EntryOut

MOST_POINTS = 1_000_000_000


class NewAdjustment(Body):
    """Points to give or take by hand."""

    member: MemberReference = Field(description="Whose points.")
    points: int = Field(
        ge=-MOST_POINTS, le=MOST_POINTS, description="Above zero gives, below zero takes.", examples=[50]
    )
    reason: Annotated[str, StringConstraints(min_length=3, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")] = Field(
        description="Why, for whoever reads the ledger later.", examples=["Goodwill for a delayed order"]
    )

    @field_validator("points")
    @classmethod
    def _does_something(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must not be 0")
        return value


class AdjustmentOut(Out):
    """An adjustment."""

    entry: EntryOut = Field(description="The ledger entry that it is.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")
