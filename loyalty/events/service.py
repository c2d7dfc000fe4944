"""Recording events: from what a source tells to an entry of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from pydantic import ValidationError

from loyalty.events.model import NewEvent
from loyalty.infra import money
from loyalty.infra.clock import Clock, to_milliseconds
from loyalty.infra.http.body import defects
from loyalty.infra.http.problems import MalformedJson
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, Problem, ValidationFailed
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.movements import credit
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.points import acts
from loyalty.points.acts import Act, Decide, Done
from loyalty.points.model import EventConflict
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.rules import service as rules
from loyalty.rules.award import RuleLine
from loyalty.rules.engine import CompiledRules
from loyalty.rules.facts import Facts

SKEW = timedelta(minutes=5)
"""How far ahead of ours a source's clock may be."""

_ROUND = 500
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """A valid event: the instant and the amount in the units that the ledger counts in."""

    event: NewEvent
    occurred_at: datetime | None
    amount: int | None
    request: bytes


def read(event: NewEvent, program: Program, *, now: datetime) -> Fact:
    """The event as a fact of `program`. ValidationFailed lists every defect."""
    found: list[dict[str, str]] = []
    occurred_at = _instant(event, program, now, found)
    amount = _amount(event, program, found)
    if event.type == "refund":
        detail = "Refunds cannot be recorded in this release; adjust the points with POST /v1/adjustments."
        found.append({"pointer": "/type", "code": "unsupported_event_type", "detail": detail})
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)
    return Fact(event, occurred_at, amount, request_digest(event.model_dump(mode="json", exclude_defaults=True)))


def record_values(
    db: Mongo, program: Program, values: Sequence[bytes | memoryview], *, clock: Clock
) -> Iterator[Done | Problem]:
    """Record a batch of events in JSON, one result each, in order. What is no event is a refusal in its place.

    They are recorded in rounds, each when the results of the one before have been taken, so that the entries of a large
    batch are never in memory together.
    """
    now, compiled = clock(), rules.current(db, program)
    for start in range(0, len(values), _ROUND):
        results: dict[int, Done | Problem] = {}
        acts_of: dict[int, Act] = {}
        for place, value in enumerate(values[start : start + _ROUND]):
            try:
                acts_of[place] = act_of(program, read(_parse(value), program, now=now), compiled)
            except Problem as problem:
                results[place] = problem
        results.update(zip(acts_of, acts.perform(db, list(acts_of.values()), clock=clock), strict=True))
        for place in range(len(results)):
            yield results[place]


def _parse(value: bytes | memoryview) -> NewEvent:
    try:
        return NewEvent.__pydantic_validator__.validate_json(bytes(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedJson(f"{first['msg']}.") from None
        raise ValidationFailed("Correct the fields that `errors` names.", errors=defects(error)) from None


def act_of(program: Program, fact: Fact, compiled: CompiledRules | None, *, client_key: bytes | None = None) -> Act:
    """The act that records `fact` by the rules `compiled`. `client_key` is that of an Idempotency-Key."""
    event = fact.event
    name = f"{event.source} {event.id}"
    keys: tuple[tuple[bytes, Problem], ...] = (
        (
            business_key(program.id, "event", event.source, event.id),
            EventConflict(f"Event {name} was recorded before with another content."),
        ),
    )
    if client_key is not None:
        keys = (*keys, (client_key, IdempotencyConflict("The Idempotency-Key was used with another event.")))

    def decide(member: Member) -> Decide:
        lines, limits = _award(fact, compiled, member)
        evidence = {"event": _evidence(fact), "award": _award_document(program, compiled, lines, limits)}
        points = sum(line.points for line in lines)

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            postings = credit(state, "points", points, source="issuance", sequence=sequence)
            return Draft("earn", fact.occurred_at or now, postings, dict(evidence))

        return draft

    return Act(program, event.member.reference(), keys, fact.request, decide, enrols=True)


def split_array(raw: bytes) -> list[memoryview]:
    """The elements of a JSON array, each still as its JSON: a batch is never in memory as a whole. MalformedJson."""
    try:
        return [memoryview(element) for element in _ARRAY.decode(raw)]
    except msgspec.DecodeError as error:
        detail = "A batch is a JSON array of events, or one event a line as application/x-ndjson."
        raise MalformedJson(f"{detail} {error}.") from None
    except RecursionError:
        raise MalformedJson("The JSON is nested too deeply.") from None


def split_lines(raw: bytes) -> list[bytes]:
    """The lines that have something in them."""
    return [line for line in raw.splitlines() if line.strip()]


def _instant(event: NewEvent, program: Program, now: datetime, found: list[dict[str, str]]) -> datetime | None:
    if event.occurred_at is None:
        return None
    occurred_at = to_milliseconds(event.occurred_at)
    if occurred_at > now + SKEW:
        detail = "It lies in the future. Check the clock and the offset of the source."
        found.append({"pointer": "/occurred_at", "code": "in_the_future", "detail": detail})
    days = program.backdating_days
    if days is not None and occurred_at < now - timedelta(days=days):
        detail = f"It lies more than {days} days back, which the program does not accept."
        found.append({"pointer": "/occurred_at", "code": "too_old", "detail": detail})
    return occurred_at


def _amount(event: NewEvent, program: Program, found: list[dict[str, str]]) -> int | None:
    """The amount in minor units, and every defect of any amount."""
    has_amounts = event.amount is not None or event.items or event.payments
    if event.type == "purchase" and event.amount is None:
        found.append({"pointer": "/amount", "code": "missing", "detail": "A purchase has an amount."})
    if event.currency is None:
        if has_amounts:
            found.append({"pointer": "/currency", "code": "missing", "detail": "Amounts have a currency."})
        return None
    if event.currency != program.currency:
        detail = f"The program counts in {program.currency}."
        found.append({"pointer": "/currency", "code": "currency_mismatch", "detail": detail})
        return None
    amounts = [("/amount", event.amount)] if event.amount is not None else []
    amounts += [(f"/items/{place}/amount", item.amount) for place, item in enumerate(event.items)]
    amounts += [(f"/payments/{place}/amount", payment.amount) for place, payment in enumerate(event.payments)]
    minor: dict[str, int] = {}
    for pointer, text in amounts:
        try:
            minor[pointer] = money.to_minor(text, event.currency)
        except money.MoneyError as error:
            found.append({"pointer": pointer, "code": "invalid_value", "detail": f"{error}."})
    return minor.get("/amount")


def _award(fact: Fact, compiled: CompiledRules | None, member: Member) -> tuple[tuple[RuleLine, ...], list[str]]:
    """What the rules give, and why nothing may be given at all."""
    if not member.may_earn:
        return (), ["earning_blocked"]
    if compiled is None:
        return (), ["no_rules"]
    if fact.event.type != "purchase" or fact.amount is None:
        return (), ["no_rule_for_this_type"]
    at = fact.occurred_at or datetime.now(timezone.utc)
    facts = Facts("purchase", fact.event.source, at, Calendar.of("UTC"), amount=fact.amount)
    return compiled.award(facts, counters={}).lines, []


def _award_document(
    program: Program, compiled: CompiledRules | None, lines: Sequence[RuleLine], limits: list[str]
) -> Document:
    document: Document = {
        "version": compiled.version if compiled else None,
        "currency": program.currency,
        "lines": [line.document() for line in lines],
    }
    if limits:
        document["limits"] = limits
    return document


def _evidence(fact: Fact) -> Document:
    """The event as the entry keeps it: amount in minor units, nothing absent; the instant is in the entry itself."""
    event = fact.event
    document: Document = {"source": event.source, "id": event.id, "type": event.type}
    if fact.amount is not None:
        document["amount"] = fact.amount
    for name in ("currency", "store"):
        value = getattr(event, name)
        if value is not None:
            document[name] = value
    if event.items:
        document["items"] = [item.model_dump(exclude_none=True) for item in event.items]
    if event.payments:
        document["payments"] = [payment.model_dump() for payment in event.payments]
    if event.metadata:
        document["metadata"] = event.metadata
    return document
