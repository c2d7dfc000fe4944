"""/v1/transfers, /v1/members/{m}/merge"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.ids import member_id
from loyalty.infra.problems import NotFound
from loyalty.ledger.entry import member_of
from loyalty.members.model import MemberPath, SpendingFrozen, TooManyIdentities
from loyalty.members.service import reference
from loyalty.points.model import (
    InsufficientPoints,
    MemberBlocked,
    TooManyPoints,
    WalletNotTransferable,
    buckets_json,
    entry_json,
)
from loyalty.programs import service as programs
from loyalty.transfers import merging, service
from loyalty.transfers.model import (
    BalanceLimit,
    Merge,
    MergedOut,
    NewTransfer,
    OpenHolds,
    SameMember,
    TransferOut,
    TransferredOut,
)

api = Api("transfers", "Transfers", "Points that go from one member to another.")

TransferPath = Annotated[
    str, Field(description="The id of a transfer: that of either of its entries.", examples=["ent_0000000g00001"])
]


@api.post(
    "/v1/transfers",
    scope="transfers:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(
        NotFound,
        SameMember,
        InsufficientPoints,
        TooManyPoints,
        MemberBlocked,
        WalletNotTransferable,
        BalanceLimit,
    ),
    idempotency_header=True,
    example={"sender": {"external_id": "00001"}, "recipient": {"external_id": "00002"}, "points": 50},
)
def transfer_points(context: Context, body: NewTransfer) -> Reply[TransferredOut]:
    """Transfer points

    Where the policy of the wallet lets members do so. Only available points can be given away, those that expire first
    before others, and they keep their expiry. Both sides happen together or not at all."""
    made, done = service.transfer(
        context.services,
        programs.get(context.services.db, context.program),
        sender=body.sender.reference(),
        recipient=body.recipient.reference(),
        wallet=body.wallet,
        points=body.points,
        note=body.note,
        key=context.business_key(),
        by=context.caller.key,
    )
    answer = {"transfer": made.document(), "balances": buckets_json(done.entry), "replayed": done.replayed}
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if done.replayed else 201, headers=headers)


@api.post(
    "/v1/members/<member>/merge",
    scope="members:merge",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, SameMember, OpenHolds, TooManyIdentities, TooManyPoints, SpendingFrozen),
    idempotency_header=True,
    example={"into": {"external_id": "00002"}},
)
def merge_members(context: Context, member: MemberPath, body: Merge) -> Reply[MergedOut]:
    """Merge two members

    For good. The member of the path becomes a part of the other one: open points move with the instants at which they
    activate and expire, the better tier stays, and what was counted for caps and limits counts together. Its id and its
    identities mean the other one from now on; the profile and the status of the other one stay. Its entries stay where
    they are, and refunds of its purchases are recorded for the other one."""
    merged = merging.merge(
        context.services,
        programs.get(context.services.db, context.program),
        source=reference(member),
        into=body.into.reference(),
        key=context.business_key(),
        by=context.caller.key,
    )
    answer = {
        "member": member_id(member_of(merged.received["_id"])),
        "merged": member_id(member_of(merged.closed["_id"])),
        "entry": entry_json(merged.closed),
        "received": entry_json(merged.received),
        "balances": buckets_json(merged.received),
        "replayed": merged.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if merged.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if merged.replayed else 201, headers=headers)


@api.get("/v1/transfers/<transfer>", scope="ledger:read", problems=(NotFound,))
def read_transfer(context: Context, transfer: TransferPath) -> Reply[TransferOut]:
    """Read a transfer"""
    return Reply(orjson.dumps(service.find(context.services.db, context.program, transfer).document()))
