"""/v1/events"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from pydantic import Field

from loyalty.events import activation, reading, service
from loyalty.events.fact import Fact
from loyalty.events.model import (
    BATCH_BYTES,
    MOST_IN_A_BATCH,
    BatchResult,
    EventResult,
    NewEvent,
    NothingWaits,
    NotRefundable,
    OfAnotherMember,
    RefundExceedsPurchase,
    TooManyEvents,
    TooManyParked,
)
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Document
from loyalty.infra.problems import NotFound, Problem
from loyalty.ledger.entry import business_key
from loyalty.points import terms
from loyalty.points.acts import Done
from loyalty.points.model import (
    ActOut,
    EventConflict,
    HoldAlreadyResolved,
    HoldTooSmall,
    InsufficientPoints,
    MemberBlocked,
    TooManyPoints,
    buckets_json,
    changes,
    entry_json,
    explanation_json,
    rehearsed_json,
)
from loyalty.points.replies import acted
from loyalty.points.terms import Terms

Json = dict[str, Any]
AwardPath = Annotated[
    str, Field(description="The id of the entry that gave the points.", examples=["ent_0000000g00001"])
]

api = Api("events", "Events", "Facts that tills and shops report. Each counts once, however often it is told.")

REFUSALS = (
    NotFound,
    EventConflict,
    InsufficientPoints,
    MemberBlocked,
    HoldAlreadyResolved,
    HoldTooSmall,
    TooManyPoints,
    RefundExceedsPurchase,
    OfAnotherMember,
    NotRefundable,
    TooManyParked,
)
"""Why one event may be refused, beside its form."""

_one_batch = threading.Lock()
"""One batch at a time in a process: side by side they would share the same processor and need twice the memory."""

EXAMPLE = {
    "source": "till-7",
    "id": "2026-000123",
    "type": "purchase",
    "member": {"external_id": "00001"},
    "occurred_at": "2026-02-01T12:00:00Z",
    "amount": "11.77",
    "currency": "USD",
}


@api.post(
    "/v1/events",
    scope="events:write",
    status=201,
    answers={200: "It had been recorded before: the answer of that time."},
    problems=REFUSALS,
    idempotency_header=True,
    example=EXAMPLE,
    direct=True,
)
def record_event(context: Context, body: NewEvent) -> Reply[EventResult]:
    """Record an event

    The answer says what it earned and why. Told again, it changes nothing and has the first answer."""
    current, fact = _read(context, body)
    done = service.record(context.services, current, fact, client_key=_client_key(context))
    return _answer(done, status=200 if done.replayed else 201)


@api.post("/v1/events/dry-run", scope="events:write", problems=REFUSALS, example=EXAMPLE)
def rehearse_event(context: Context, body: NewEvent) -> Reply[EventResult]:
    """Rehearse an event

    What recording it would do, and why, by the very same rules. Nothing happens."""
    current, fact = _read(context, body)
    services = context.services
    done = service.rehearse(services.db, current, fact, clock=services.clock, client_key=_client_key(context))
    return _answer(done, status=200, shown=entry_json if done.replayed else rehearsed_json)


@api.post(
    "/v1/events/batch",
    scope="events:write",
    problems=(TooManyEvents,),
    max_body_bytes=BATCH_BYTES,
    media=("application/json", "application/x-ndjson"),
    reads=list[NewEvent],
    example=[EXAMPLE],
)
def record_batch(context: Context, raw: bytes) -> Reply[BatchResult]:
    """Record many events

    Up to 5,000, as a JSON array or one JSON object a line (`application/x-ndjson`). Each counts for itself: results are
    in the order of the events, and a refused one does not touch the others. After a lost answer send it all again."""
    with _one_batch:
        is_lines = context.request.mimetype == "application/x-ndjson"
        values = reading.split_lines(raw) if is_lines else reading.split_array(raw)
        if len(values) > MOST_IN_A_BATCH:
            raise TooManyEvents(f"Send at most {MOST_IN_A_BATCH} events in one batch.", max_events=MOST_IN_A_BATCH)
        db, clock = context.services.db, context.services.clock
        current = terms.current(db, context.program)
        summary = {"applied": 0, "replayed": 0, "refused": 0, "points": 0}
        lines = []
        for index, result in enumerate(service.record_values(db, current, values, clock=clock)):
            line = _line(index, result)
            _count(summary, line)
            lines.append(orjson.Fragment(orjson.dumps(line)))
        return Reply(orjson.dumps({"results": lines, "summary": summary}))


@api.post(
    "/v1/entries/<entry>/activate",
    scope="activations:write",
    status=201,
    answers={200: "The Idempotency-Key had done it before: the answer of that time."},
    problems=(NotFound, NothingWaits),
    idempotency_header=True,
)
def activate_points(context: Context, entry: AwardPath) -> Reply[ActOut]:
    """Make pending points available

    Those that the entry gave and that wait for a person, or for an event that will not be told. What was refunded of
    them meanwhile stays away. Their expiry is counted from now."""
    current = terms.current(context.services.db, context.program)
    done = activation.activate(context.services, current, entry, key=context.business_key(), by=context.caller.key)
    return acted(done)


def _read(context: Context, event: NewEvent) -> tuple[Terms, Fact]:
    current = terms.current(context.services.db, context.program)
    return current, reading.read(event, current.program, now=context.services.clock())


def _client_key(context: Context) -> bytes | None:
    return business_key(context.program, *context.business_key()) if context.idempotency_key() else None


def _answer(done: Done, *, status: int, shown: Callable[[Document], Json] = entry_json) -> Reply[EventResult]:
    """An `EventResult`, made from the entry alone, so that a replay has the answer of the first time."""
    entry = shown(done.entry)
    event = done.entry["evidence"]["event"]
    body = {
        "event": {
            "source": event["source"],
            "id": event["id"],
            "type": event["type"],
            "member": entry["member"],
            "occurred_at": entry["occurred_at"],
        },
        "entries": [entry],
        "balances": buckets_json(done.entry),
        "explanation": explanation_json(done.entry),
        "replayed": done.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(body), status=status, headers=headers)


def _line(index: int, result: Done | Problem) -> Json:
    """A `BatchLine`."""
    if isinstance(result, Problem):
        return {"index": index, "status": result.status, "problem": result.document()}
    return {
        "index": index,
        "status": 200 if result.replayed else 201,
        "entry": entry_id(result.entry["_id"]),
        "points": changes(result.entry).get("points", 0),
        "replayed": result.replayed,
    }


def _count(summary: dict[str, int], line: Json) -> None:
    """Add one result to a `BatchSummary`."""
    if line["status"] == 201:
        summary["applied"] += 1
        summary["points"] += line["points"]
    elif line["status"] == 200:
        summary["replayed"] += 1
    else:
        summary["refused"] += 1
