"""A till repeats an event after a deploy: the new release must recognise what the old one recorded.

So the digest of an event's content may never change for the same request. If this test fails, every retry that crosses
the deploy would be refused as `event_conflict`: keep the digest as it was, or recognise both.
"""

from __future__ import annotations

from datetime import datetime, timezone

import orjson
import pytest

from loyalty.events import reading
from loyalty.events.model import NewEvent
from loyalty.programs.model import Program

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
PROGRAM = Program("main", "Main", "USD", "UTC", None, True, "live", NOW, 1)
SMALLEST = {"source": "t", "id": "1", "type": "visit", "member": {"external_id": "00001"}}
PURCHASE = {
    **SMALLEST,
    "type": "purchase",
    "occurred_at": "2026-02-01T12:00:00Z",
    "amount": "11.77",
    "currency": "USD",
    "items": [{"line_id": "1", "sku": "CD-4711", "category": "music", "quantity": 2, "amount": "11.77"}],
    "payments": [{"method": "card", "amount": "11.77"}],
    "store": "main-street",
    "metadata": {"cds": 2, "gift": False, "note": "é", "nothing": None},
}


@pytest.mark.parametrize(
    ("event", "digest"),
    [
        (SMALLEST, "fe2e48daa26bb39ed4fabdf2af648f60"),
        (PURCHASE, "6d81a593704064d6559d6b36e0a50359"),
    ],
)
def test_the_digest_of_a_request_stays_what_it_was(event: dict[str, object], digest: str) -> None:
    fact = reading.read(NewEvent.model_validate_json(orjson.dumps(event)), PROGRAM, now=NOW)
    assert fact.request.hex() == digest


def test_writing_the_same_differently_is_the_same_request() -> None:
    defaults = {**SMALLEST, "items": [], "payments": [], "metadata": {}, "store": None}
    one, other = (
        reading.read(NewEvent.model_validate_json(orjson.dumps(event)), PROGRAM, now=NOW)
        for event in (SMALLEST, dict(reversed(defaults.items())))
    )
    assert one.request == other.request
