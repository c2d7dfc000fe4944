"""/v1/adjustments"""

from __future__ import annotations

import orjson

from loyalty.adjustments import service
from loyalty.adjustments.model import AdjustmentOut, NewAdjustment
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.problems import NotFound
from loyalty.points import acts
from loyalty.points.model import InsufficientPoints, TooManyPoints, buckets_json, entry_json
from loyalty.programs import service as programs

api = Api("adjustments", "Adjustments", "Points given or taken by hand, always with a reason.")


@api.post(
    "/v1/adjustments",
    scope="adjustments:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, InsufficientPoints, TooManyPoints),
    idempotency_header=True,
    example={"member": {"external_id": "00001"}, "points": 50, "reason": "Goodwill for a delayed order"},
)
def adjust_points(context: Context, body: NewAdjustment) -> Reply[AdjustmentOut]:
    """Adjust points

    The reason and the key that asked are kept in the entry for ever. Send an Idempotency-Key, so that a retry after a
    lost answer does not count twice."""
    act = service.adjustment(
        programs.get(context.services.db, context.program),
        member=body.member.reference(),
        points=body.points,
        reason=body.reason,
        key=context.business_key(),
        by=context.caller.key,
    )
    done = acts.perform_together(context.services, act)
    answer = {
        "entry": entry_json(done.entry),
        "balances": buckets_json(done.entry),
        "replayed": done.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if done.replayed else 201, headers=headers)
