"""/v1/adjustments"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field

from loyalty.adjustments import service
from loyalty.adjustments.model import (
    AdjustmentOut,
    AdjustmentQuery,
    AdjustmentRequestOut,
    AdjustmentRequestPage,
    AlreadyDecided,
    NewAdjustment,
    OwnRequest,
    Rejection,
)
from loyalty.adjustments.service import Adjustment, Asked, request_json
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.paging import Pager
from loyalty.infra.problems import NotFound
from loyalty.points.model import InsufficientPoints, TooManyPoints
from loyalty.points.replies import acted
from loyalty.programs import service as programs

api = Api("adjustments", "Adjustments", "Points given or taken by hand, always with a reason.")

AdjustmentPath = Annotated[str, Field(description="The id of a request.", examples=["adj_01kat2jz3v8f5w0q6g4y7n1b2c"])]


@api.post(
    "/v1/adjustments",
    scope="adjustments:write",
    status=201,
    answers={
        200: "The Idempotency-Key had done it before: the answer of that time.",
        202: "The policy wants a second person: nothing happens until another key approves `adjustment`.",
    },
    problems=(NotFound, InsufficientPoints, TooManyPoints),
    idempotency_header=True,
    example={"member": {"external_id": "00001"}, "points": 50, "reason": "Goodwill for a delayed order"},
)
def adjust_points(context: Context, body: NewAdjustment) -> Reply[AdjustmentOut]:
    """Adjust points

    The reason and the key that asked are kept in the entry for ever. More points than the program's policy
    `adjustment_approval_above` wait for the approval of another key. Send an Idempotency-Key, so that a retry after a
    lost answer does not count twice."""
    wanted = Adjustment(body.member.reference(), body.wallet, body.points, body.expires_at, body.reason)
    program = programs.get(context.services.db, context.program)
    done = service.adjust(context.services, program, wanted, key=context.business_key(), by=context.caller.key)
    if isinstance(done, Asked):
        answer = {
            "adjustment": request_json(done.request),
            "entry": None,
            "balances": None,
            "replayed": done.replayed,
        }
        headers = {"Location": f"/v1/adjustments/{done.request['_id']}"}
        if done.replayed:
            headers["Idempotent-Replayed"] = "true"
        return Reply(orjson.dumps(answer), status=202, headers=headers)
    return acted(done, adjustment=None)


@api.get("/v1/adjustments", scope="adjustments:read")
def list_adjustments(context: Context, query: AdjustmentQuery) -> Reply[AdjustmentRequestPage]:
    """List adjustments that needed approval

    The newest first. Adjustments that needed none are entries of the ledger and nowhere else."""
    pager = Pager(context, query, "adjustments")
    found = service.list_requests(
        context.services.db, context.program, limit=pager.limit + 1, after=pager.after, status=query.status
    )
    last = found[pager.limit - 1]["_id"] if len(found) > pager.limit else None
    return pager.reply_json([request_json(request) for request in found[: pager.limit]], last=last)


@api.get("/v1/adjustments/<adjustment>", scope="adjustments:read", problems=(NotFound,))
def read_adjustment(context: Context, adjustment: AdjustmentPath) -> Reply[AdjustmentRequestOut]:
    """Read an adjustment that needed approval"""
    return _request(service.find(context.services.db, context.program, adjustment))


@api.post(
    "/v1/adjustments/<adjustment>/approve",
    scope="adjustments:approve",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, InsufficientPoints, TooManyPoints, OwnRequest, AlreadyDecided),
    idempotency_header=True,
)
def approve_adjustment(context: Context, adjustment: AdjustmentPath) -> Reply[AdjustmentOut]:
    """Approve an adjustment

    With another key than the one that asked, or a successor of it. The points move now, once, however many approve."""
    db = context.services.db
    program = programs.get(db, context.program)
    done = service.approve(context.services, program, adjustment, key=context.business_key(), by=context.caller.key)
    return acted(done, adjustment=request_json(service.find(db, context.program, adjustment)))


@api.post(
    "/v1/adjustments/<adjustment>/reject",
    scope="adjustments:approve",
    idempotent=True,
    problems=(NotFound, AlreadyDecided),
    example={"reason": "Was refunded already"},
)
def reject_adjustment(context: Context, adjustment: AdjustmentPath, body: Rejection) -> Reply[AdjustmentRequestOut]:
    """Reject an adjustment

    No points move. The key that asked may do so too: it takes its request back."""
    return _request(
        service.reject(
            context.services.db,
            context.program,
            adjustment,
            by=context.caller.key,
            reason=body.reason,
            now=context.services.clock(),
        )
    )


def _request(request: dict[str, Any]) -> Reply[AdjustmentRequestOut]:
    return Reply(orjson.dumps(request_json(request)))
