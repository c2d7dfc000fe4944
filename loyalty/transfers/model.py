"""What a transfer is on the wire. Its documents are two ledger entries, one in each member's chain."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from loyalty.infra.http.model import Body, Out, Timestamp
from loyalty.infra.problems import Problem
from loyalty.members.model import MemberReference
from loyalty.points.model import BucketsOut, EntryOut
from loyalty.programs.policies import WalletName

Note = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewTransfer(Body):
    """Points that one member gives to another."""

    sender: MemberReference = Field(description="Who gives.")
    recipient: MemberReference = Field(description="Who gets.")
    wallet: WalletName = Field("points", description="The wallet, the same on both sides.")
    points: int = Field(ge=1, le=1_000_000_000, description="How many.", examples=[50])
    note: Note | None = Field(None, description="Why, in your words.", examples=["Happy birthday"])


class TransferOut(Out):
    """A transfer."""

    id: str = Field(description="The transfer's id: that of the sender's entry.", examples=["ent_0000000g00001"])
    sender: str = Field(description="Who gave.", examples=["mem_00000001"])
    recipient: str = Field(description="Who got.", examples=["mem_00000002"])
    wallet: str = Field(description="The wallet.")
    points: int = Field(description="How many.")
    note: str | None = Field(description="Why.")
    transferred_at: Timestamp = Field(description="When.")
    sent: EntryOut = Field(description="The entry in the sender's chain.")
    received: EntryOut = Field(description="The entry in the recipient's chain.")


class TransferredOut(Out):
    """What a transfer did."""

    transfer: TransferOut = Field(description="The transfer.")
    balances: dict[str, BucketsOut] = Field(description="What the sender has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class Merge(Body):
    """Which member goes on."""

    into: MemberReference = Field(description="The member who goes on, with the points of both.")


class MergedOut(Out):
    """What a merge did."""

    member: str = Field(description="The member who goes on.", examples=["mem_00000001"])
    merged: str = Field(description="The member who does not. Its id and identities now mean the other one.")
    entry: EntryOut = Field(description="The last entry of the chain that is closed.")
    received: EntryOut = Field(description="The entry in the chain that goes on.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class SameMember(Problem):
    """Both references name the same member, perhaps by different identities."""

    code = "same_member"
    status = 409
    title = "Both are the same member"


class BalanceLimit(Problem):
    """The wallet of who is to get the points holds at most `max_balance`; `room` more fit in."""

    code = "balance_limit"
    status = 409
    title = "The points do not fit in"


class OpenHolds(Problem):
    """A member with points set aside cannot be merged or erased: capture or void `holds` first."""

    code = "open_holds"
    status = 409
    title = "The member has open holds"
