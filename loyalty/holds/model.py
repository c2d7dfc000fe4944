"""What a hold is on the wire. Its document is the ledger entry that made it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from loyalty.infra.http.model import Body, Out, Timestamp
from loyalty.members.model import MemberReference
from loyalty.points.model import ActOut
from loyalty.programs.policies import WalletName

MOST_SECONDS: Final = 7 * 86_400
Resolution = Literal["captured", "voided", "timed_out"]

Held = Annotated[int, Field(ge=1, le=1_000_000_000)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewHold(Body):
    """Points to set aside."""

    member: MemberReference = Field(description="Whose points.")
    wallet: WalletName = Field("points", description="The wallet that they are in.")
    points: Held = Field(description="How many.", examples=[100])
    seconds: int | None = Field(
        None,
        ge=1,
        le=MOST_SECONDS,
        description="How long it lives; then the points return by themselves. Absent: as the program's policy says.",
        examples=[900],
    )
    reference: Reference | None = Field(None, description="What it is for, in your words.", examples=["basket 4711"])


class Capture(Body):
    """How much of a hold to take."""

    points: Held | None = Field(
        None, description="How many points are spent; the rest returns. Absent: all.", examples=[70]
    )


class HoldOut(Out):
    """A hold."""

    id: str = Field(description="The hold's id: that of the entry that made it.", examples=["ent_0000000g00001"])
    member: str = Field(description="Whose points.", examples=["mem_00000001"])
    wallet: str = Field(description="The wallet that they are in.", examples=["points"])
    points: int = Field(description="How many were set aside.", examples=[100])
    reference: str | None = Field(description="What it is for.")
    created_at: Timestamp = Field(description="Since when.")
    until: Timestamp = Field(description="At this very instant the points return, unless it was resolved before.")
    status: Literal["open"] | Resolution = Field(description="open, or how it was resolved.")
    captured_points: int = Field(description="How many of them were spent.", examples=[0])
    resolved_at: Timestamp | None = Field(description="When it was resolved; null while it is open.")
    resolved_by: str | None = Field(
        description="The entry that resolved it; null while it is open, or when time did and nothing happened since."
    )


class HeldOut(ActOut):
    """What became of a hold."""

    hold: HoldOut = Field(description="The hold after it.")
