"""Recording events: from what a source tells to an entry of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from loyalty.events import engine
from loyalty.events.engine import TooManyWait
from loyalty.events.fact import REFUND, Fact
from loyalty.events.model import (
    NewEvent,
    NotRefundable,
    OfAnotherMember,
    Overtaken,
    RefundExceedsPurchase,
    TooManyParked,
)
from loyalty.events.refunds import Exceeds, Purchase
from loyalty.infra import money
from loyalty.infra.clock import Clock, to_milliseconds
from loyalty.infra.http.body import defects
from loyalty.infra.http.problems import MalformedJson
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound, Problem, ValidationFailed
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.points import acts
from loyalty.points import service as points
from loyalty.points.acts import Act, Decide, Done, Refused
from loyalty.points.model import EventConflict, MemberBlocked
from loyalty.points.terms import Terms
from loyalty.programs.model import Program
from loyalty.rules.engine import POINTS_PAYMENT
from loyalty.rules.facts import Line, Payment

SKEW = timedelta(minutes=5)
"""How far ahead of ours a source's clock may be."""

_ROUND = 500
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])

_LOOK_AHEAD: Final = 8
"""So many entries about one purchase are looked for at once; few have more than one."""

_MOST_ROUNDS: Final = 50
"""How often a refund is decided again that others were faster than."""

Json = dict[str, Any]
Reference = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """What the ledger knows of an event that another one refers to: its entry, and the evidence of the latest entry
    about it."""

    entry: Document
    latest: Document | None

    @property
    def is_refundable(self) -> bool:
        """Whether it awarded something, or could have."""
        return "award" in self.entry["evidence"]


# -- reading ----------------------------------------------------------------------------------------------------------


def read(event: NewEvent, program: Program, *, now: datetime) -> Fact:
    """The event as a fact of `program`. ValidationFailed lists every defect."""
    found: list[Json] = []
    occurred_at = _instant(event, program, now, found)
    minor = _amounts(event, program, found)
    if event.type == REFUND:
        _check_refund(event, minor, found)
    else:
        _check_event(event, program, minor, found)
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)
    return Fact(
        event,
        occurred_at,
        minor.get("/amount"),
        request_digest(event.model_dump(mode="json", exclude_defaults=True)),
        minor.get("/tax"),
        minor.get("/shipping"),
        tuple(
            [
                Line(
                    item.line_id,
                    minor.get(f"/items/{place}/amount", 0),
                    item.quantity,
                    item.sku,
                    item.category,
                    item.brand,
                    minor.get(f"/items/{place}/tax"),
                    item.metadata,
                )
                for place, item in enumerate(event.items)
            ]
        ),
        tuple(
            [
                Payment(payment.method, minor[f"/payments/{place}/amount"])
                for place, payment in enumerate(event.payments)
            ]
        ),
    )


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


def _parse(value: bytes | memoryview) -> NewEvent:
    try:
        return NewEvent.__pydantic_validator__.validate_json(bytes(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedJson(f"{first['msg']}.") from None
        raise ValidationFailed("Correct the fields that `errors` names.", errors=defects(error)) from None


def _instant(event: NewEvent, program: Program, now: datetime, found: list[Json]) -> datetime | None:
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


def _check_event(event: NewEvent, program: Program, minor: Mapping[str, int], found: list[Json]) -> None:
    """What an event that is no refund has to have, and what points can pay."""
    if event.type == "purchase" and event.amount is None:
        found.append({"pointer": "/amount", "code": "missing", "detail": "A purchase has an amount."})
    for place, item in enumerate(event.items):
        if item.amount is None:
            detail = "A line has an amount; only in a refund it has none."
            found.append({"pointer": f"/items/{place}/amount", "code": "missing", "detail": detail})
    policy = program.policies.points_payment
    by_points = 0
    for place, payment in enumerate(event.payments):
        if policy is not None and payment.method == POINTS_PAYMENT:
            by_points += minor.get(f"/payments/{place}/amount", 0)
        elif payment.hold is not None:
            detail = "A hold pays with points, where the program's points_payment says what they are worth."
            found.append({"pointer": f"/payments/{place}/hold", "code": "invalid_value", "detail": detail})
    if policy is not None and by_points * 100 > minor.get("/amount", 0) * policy.max_share_percent:
        detail = f"Points can pay at most {policy.max_share_percent} % of the amount."
        found.append({"pointer": "/payments", "code": "too_many_points", "detail": detail})


def _check_refund(event: NewEvent, minor: Mapping[str, int], found: list[Json]) -> None:
    """A refund says of which event, and of it an amount, or pieces of lines, or nothing: all that is left."""
    if event.refers_to is None:
        detail = "A refund names the id of the purchase."
        found.append({"pointer": "/refers_to", "code": "missing", "detail": detail})
    if event.amount is not None and event.items:
        detail = "Refund an amount or items, not both in one event."
        found.append({"pointer": "/items", "code": "invalid_value", "detail": detail})
    if minor.get("/amount") == 0:
        found.append({"pointer": "/amount", "code": "invalid_value", "detail": "It must be above zero."})
    for place, item in enumerate(event.items):
        if item.amount is not None:
            detail = "In a refund a line has a quantity; what it cost is known from the purchase."
            found.append({"pointer": f"/items/{place}/amount", "code": "invalid_value", "detail": detail})


def _amounts(event: NewEvent, program: Program, found: list[Json]) -> dict[str, int]:
    """Every amount in minor units by its pointer, and every defect of any of them."""
    told: list[tuple[str, str | None]] = [("/amount", event.amount), ("/tax", event.tax), ("/shipping", event.shipping)]
    for place, item in enumerate(event.items):
        told.append((f"/items/{place}/amount", item.amount))
        told.append((f"/items/{place}/tax", item.tax))
    told += [(f"/payments/{place}/amount", payment.amount) for place, payment in enumerate(event.payments)]
    amounts = [(pointer, text) for pointer, text in told if text is not None]
    if event.currency is None:
        if amounts:
            found.append({"pointer": "/currency", "code": "missing", "detail": "Amounts have a currency."})
        return {}
    if event.currency != program.currency:
        detail = f"The program counts in {program.currency}."
        found.append({"pointer": "/currency", "code": "currency_mismatch", "detail": detail})
        return {}
    minor: dict[str, int] = {}
    for pointer, text in amounts:
        try:
            minor[pointer] = money.to_minor(text, event.currency)
        except money.MoneyError as error:
            found.append({"pointer": pointer, "code": "invalid_value", "detail": f"{error}."})
    return minor


# -- recording --------------------------------------------------------------------------------------------------------


def record(services: Services, terms: Terms, fact: Fact, *, client_key: bytes | None = None) -> Done:
    """Record one event together with those of concurrent requests. `client_key` is that of an Idempotency-Key.

    Raises Problem.
    """
    if fact.refers_to is None:
        return acts.perform_together(services, _act(terms, fact, client_key, None))
    for _ in range(_MOST_ROUNDS):
        try:
            return acts.perform_together(services, _follow_up(services.db, terms, fact, client_key))
        except Overtaken:
            continue
    raise _overtaken()


def rehearse(db: Mongo, terms: Terms, fact: Fact, *, clock: Clock, client_key: bytes | None = None) -> Done:
    """What recording the event would do, by the very same functions, without doing it. Raises Problem."""
    act = _act(terms, fact, client_key, None) if fact.refers_to is None else _follow_up(db, terms, fact, client_key)
    return acts.rehearse(db, act, clock=clock)


def record_values(
    db: Mongo, terms: Terms, values: Sequence[bytes | memoryview], *, clock: Clock
) -> Iterator[Done | Problem]:
    """Record a batch of events in JSON, one result each, in order. What is no event is a refusal in its place.

    They are recorded in rounds, each when the results of the one before have been taken, so that the entries of a large
    batch are never in memory together.
    """
    now = clock()
    for start in range(0, len(values), _ROUND):
        results: dict[int, Done | Problem] = {}
        facts: dict[int, Fact] = {}
        for place, value in enumerate(values[start : start + _ROUND]):
            try:
                facts[place] = read(_parse(value), terms.program, now=now)
            except Problem as problem:
                results[place] = problem
        for wave in _waves(facts):
            results.update(_record_wave(db, terms, wave, clock))
        for place in range(len(results)):
            yield results[place]


def _waves(facts: Mapping[int, Fact]) -> Iterable[dict[int, Fact]]:
    """The facts in groups to be recorded one after the other: nobody's event comes before one that the batch has before
    it, and an event that refers to another one comes in a later group."""
    waves: dict[int, dict[int, Fact]] = {}
    members: dict[str, int] = {}
    told: dict[Reference, int] = {}
    for place, fact in facts.items():
        member = fact.event.member.reference()
        number = members.get(member, 0)
        if fact.refers_to is not None:
            number = max(number, told.get(fact.refers_to, 0)) + 1
        members[member] = told[fact.event.source, fact.event.id] = number
        waves.setdefault(number, {})[place] = fact
    return [waves[number] for number in sorted(waves)]


def _record_wave(db: Mongo, terms: Terms, facts: Mapping[int, Fact], clock: Clock) -> dict[int, Done | Problem]:
    """Record facts of one wave, again while others are faster about the same purchase."""
    results: dict[int, Done | Problem] = {}
    waiting = dict(facts)
    for _ in range(_MOST_ROUNDS):
        references = [fact.refers_to for fact in waiting.values() if fact.refers_to is not None]
        known = find(db, terms.program.id, references)
        prepared: dict[int, Act] = {}
        for place, fact in waiting.items():
            found = None if fact.refers_to is None else known.get(fact.refers_to)
            try:
                prepared[place] = (
                    _follow_up(db, terms, fact, None)
                    if found is None and _can_wait(terms, fact)
                    else _act(terms, fact, None, found)
                )
            except Problem as problem:
                results[place] = problem
        results.update(zip(prepared, acts.perform(db, list(prepared.values()), clock=clock), strict=True))
        waiting = {place: fact for place, fact in waiting.items() if isinstance(results[place], Overtaken)}
        if not waiting:
            break
    return results


def find(db: Mongo, program: str, references: Iterable[Reference]) -> dict[Reference, Found]:
    """The events that others refer to, each with what has become of it, in one command (and few more for one that
    much has become of)."""
    entries: dict[Reference, Document] = {}
    latest: dict[Reference, tuple[int, Document]] = {}
    asked = [(reference, 0) for reference in dict.fromkeys(references)]
    while asked:
        keys: dict[bytes, tuple[Reference, int]] = {}
        for reference, start in asked:
            if start == 0:
                keys[_event_key(program, reference)] = (reference, 0)
            for ordinal in range(start + 1, start + 1 + _LOOK_AHEAD):
                keys[ordinal_key(program, reference, ordinal)] = (reference, ordinal)
        for entry in db.ledger.find({"keys": {"$in": list(keys)}}, {"state": 0}):
            for reference, ordinal in [keys[key] for key in map(bytes, entry["keys"]) if key in keys]:
                if ordinal == 0:
                    entries[reference] = entry
                elif ordinal > latest.get(reference, (0, entry))[0]:
                    latest[reference] = (ordinal, entry["evidence"])
        asked = [
            (reference, start + _LOOK_AHEAD)
            for reference, start in asked
            if latest.get(reference, (0, None))[0] == start + _LOOK_AHEAD
        ]
    return {
        reference: Found(entry, latest[reference][1] if reference in latest else None)
        for reference, entry in entries.items()
    }


def _event_key(program: str, reference: Reference) -> bytes:
    return business_key(program, "event", *reference)


def ordinal_key(program: str, reference: Reference, ordinal: int) -> bytes:
    """What the entries about a purchase claim, each its place: of two that decide at once, one has to decide again."""
    return business_key(program, "refund", *reference, str(ordinal))


def _follow_up(db: Mongo, terms: Terms, fact: Fact, client_key: bytes | None) -> Act:
    """The act of an event that refers to another one. NotFound, if nobody is known to whom a refund could belong."""
    reference = fact.refers_to
    if reference is None:
        raise ValueError("the event refers to no other")
    found = find(db, terms.program.id, [reference]).get(reference)
    if found is None and _can_wait(terms, fact):
        # Before it waits the chain is looked at, and then once more for the purchase: either that is found now, or
        # it is not in the chain yet, and the draft is decided on this very end of it.
        try:
            _, head = points.find_with_head(db, terms.program.id, fact.event.member.reference())
        except NotFound:
            sequence = 0
        else:
            sequence = head.sequence
        found = find(db, terms.program.id, [reference]).get(reference)
        if found is None:
            return _act(terms, fact, client_key, None, after=sequence)
    return _act(terms, fact, client_key, found)


def _can_wait(terms: Terms, fact: Fact) -> bool:
    """Whether the event means something for one that is not known yet."""
    return fact.refers_to is not None and (fact.is_refund or terms.awaits(fact.event.type))


def _act(terms: Terms, fact: Fact, client_key: bytes | None, found: Found | None, *, after: int | None = None) -> Act:
    """The act that records `fact`. `found` is the event that it refers to, where that is known; otherwise it waits for
    that one, if the chain has not grown past `after`."""
    event, program = fact.event, terms.program
    keys: tuple[tuple[bytes, Problem], ...] = (
        (
            _event_key(program.id, (event.source, event.id)),
            EventConflict(f"Event {event.source} {event.id} was recorded before with another content."),
        ),
    )
    if client_key is not None:
        keys = (*keys, (client_key, IdempotencyConflict("The Idempotency-Key was used with another event.")))
    purchase = None
    if found is not None and found.is_refundable:
        purchase = Purchase.of(found.entry, found.latest)
        if not fact.is_refund and not purchase.waiting_for(event.type):
            purchase = None
    if purchase is not None:
        key = ordinal_key(program.id, (purchase.source, purchase.id), purchase.progress.ordinal + 1)
        keys = (*keys, (key, _overtaken()))

    def decide(member: Member) -> Decide:
        if purchase is not None and not member.stands_for(purchase.member):
            raise OfAnotherMember(f"Event {event.refers_to} is not of the member {event.member.reference()}.")
        if not fact.is_refund:
            return _recording(terms, fact, member, purchase, after)
        if found is None:
            return _waiting(lambda state, sequence, now: engine.park(fact, state, sequence, now), after or 0)
        if purchase is None:
            raise NotRefundable(f"Event {event.refers_to} is a {found.entry['kind']}: refund the purchase itself.")
        return _refunding(terms, fact, member, purchase)

    return Act(program, event.member.reference(), keys, fact.request, decide, enrols=True, minds_tier=True)


def _recording(terms: Terms, fact: Fact, member: Member, refers_to: Purchase | None, after: int | None) -> Decide:
    pays = terms.policies.points_payment is not None and any(
        payment.method == POINTS_PAYMENT for payment in fact.payments
    )
    if pays and not member.may_spend:
        raise MemberBlocked(f"The member's status is {member.status}: points cannot pay.")

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        return engine.record(terms, member, fact, state, sequence, now, refers_to=refers_to, waits=after is not None)

    return draft if after is None else _waiting(draft, after)


def _waiting(decide: Decide, after: int) -> Decide:
    """The decision on an event that waits for another one, at the very end of the chain that was searched for it."""

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        if sequence != after + 1:
            raise Refused(_overtaken())
        try:
            return decide(state, sequence, now)
        except TooManyWait:
            detail = f"{engine.MOST_PARKED} events of the member wait for others that are not known."
            raise Refused(TooManyParked(detail, max_parked=engine.MOST_PARKED)) from None

    return draft


def _refunding(terms: Terms, fact: Fact, member: Member, purchase: Purchase) -> Decide:
    def draft(state: State, sequence: int, now: datetime) -> Draft:
        try:
            return engine.take_back(terms, member, fact, purchase, state, sequence, now)
        except Exceeds as left:
            amount = money.to_text(left.amount, terms.program.currency)
            raise Refused(
                RefundExceedsPurchase(
                    f"{amount} {terms.program.currency} is left of the purchase.",
                    left_amount=amount,
                    left_items=[{"line_id": line_id, "quantity": quantity} for line_id, quantity in left.items],
                )
            ) from None

    return draft


def _overtaken() -> Overtaken:
    return Overtaken("Other requests about the same purchase were faster. Send the request again.")
