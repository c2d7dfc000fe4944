"""/v1/holds"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.holds import service
from loyalty.holds.model import Capture, HeldOut, HoldOut, NewHold
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.ids import entry_id
from loyalty.infra.problems import NotFound
from loyalty.points import acts
from loyalty.points.acts import Done
from loyalty.points.model import (
    HoldAlreadyResolved,
    HoldTooSmall,
    InsufficientPoints,
    MemberBlocked,
    WalletNotSpendable,
)
from loyalty.points.replies import acted
from loyalty.programs import service as programs

api = Api("holds", "Holds", "Points set aside while a purchase is completed.")

HoldPath = Annotated[str, Field(description="The id of a hold.", examples=["ent_0000000g00001"])]
REPLAYED = {200: "The Idempotency-Key had done it before: the answer of that time, the hold as it is now."}


@api.post(
    "/v1/holds",
    scope="holds:write",
    status=201,
    answers=REPLAYED,
    problems=(NotFound, InsufficientPoints, MemberBlocked, WalletNotSpendable),
    idempotency_header=True,
    example={"member": {"external_id": "00001"}, "points": 100, "seconds": 900, "reference": "basket 4711"},
)
def place_hold(context: Context, body: NewHold) -> Reply[HeldOut]:
    """Set points aside

    They are no longer available, those that expire first before others, and do not expire while they are held. Capture
    the hold when the purchase is complete, or void it; after its time the points return by themselves."""
    act = service.place(
        programs.get(context.services.db, context.program),
        member=body.member.reference(),
        wallet=body.wallet,
        points=body.points,
        seconds=body.seconds,
        reference=body.reference,
        key=context.business_key(),
        by=context.caller.key,
    )
    done = acts.perform_together(context.services, act)
    return _answer(context, done, entry_id(done.entry["_id"]))


@api.get("/v1/holds/<hold>", scope="ledger:read", problems=(NotFound,))
def read_hold(context: Context, hold: HoldPath) -> Reply[HoldOut]:
    """Read a hold

    As it is at this moment: one whose time is over has timed out, whether or not a job has written that down."""
    found = service.find(context.services.db, context.program, hold, now=context.services.clock())
    return Reply(orjson.dumps(found.document()))


@api.post(
    "/v1/holds/<hold>/capture",
    scope="holds:write",
    status=201,
    answers=REPLAYED,
    problems=(NotFound, HoldAlreadyResolved, HoldTooSmall),
    idempotency_header=True,
    example={"points": 70},
)
def capture_hold(context: Context, hold: HoldPath, body: Capture) -> Reply[HeldOut]:
    """Capture a hold

    The points are spent; of a capture in part the rest returns with its expiry. A hold is captured once: a second
    resolution is refused and says how the first one went."""
    found = service.find(context.services.db, context.program, hold, now=context.services.clock())
    done = service.capture(
        context.services,
        programs.get(context.services.db, context.program),
        found,
        points=body.points,
        key=context.business_key(),
        by=context.caller.key,
    )
    return _answer(context, done, hold)


@api.post(
    "/v1/holds/<hold>/void",
    scope="holds:write",
    status=201,
    answers=REPLAYED,
    problems=(NotFound, HoldAlreadyResolved),
    idempotency_header=True,
)
def void_hold(context: Context, hold: HoldPath) -> Reply[HeldOut]:
    """Void a hold

    The points return with their original expiry. What has expired meanwhile is good for the days of grace that the
    wallet's policy grants, or is gone."""
    found = service.find(context.services.db, context.program, hold, now=context.services.clock())
    done = service.void(
        context.services,
        programs.get(context.services.db, context.program),
        found,
        key=context.business_key(),
        by=context.caller.key,
    )
    return _answer(context, done, hold)


def _answer(context: Context, done: Done, hold: str) -> Reply[HeldOut]:
    found = service.find(context.services.db, context.program, hold, now=context.services.clock())
    return acted(done, hold=found.document())
