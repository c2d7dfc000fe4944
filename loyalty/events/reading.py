"""Reading events: from what a source tells to facts that the engine can decide on, with every defect named at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from pydantic import ValidationError

from loyalty.events.fact import REFUND, Fact
from loyalty.events.model import NewEvent
from loyalty.infra import money
from loyalty.infra.clock import to_milliseconds
from loyalty.infra.http.body import defects
from loyalty.infra.http.problems import MalformedJson
from loyalty.infra.problems import ValidationFailed
from loyalty.ledger.entry import request_digest
from loyalty.programs.model import Program
from loyalty.rules.engine import POINTS_PAYMENT
from loyalty.rules.facts import Line, Payment

SKEW = timedelta(minutes=5)
"""How far ahead of ours a source's clock may be."""

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])

Json = dict[str, Any]


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


def parse(value: bytes | memoryview) -> NewEvent:
    try:
        return NewEvent.__pydantic_validator__.validate_json(bytes(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedJson(f"{first['msg']}.") from None
        found = defects(error, model=NewEvent)
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found) from None


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
