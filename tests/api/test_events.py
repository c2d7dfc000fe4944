"""/v1/events: what counts, what counts once, and the exact refusal of everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

Json = dict[str, Any]

BASE_RULE: Json = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program with one point a dollar."""
    published = api.post("/v1/rules/versions", json={"rules": [BASE_RULE]})
    assert published.status_code == 201, published.text
    return api


def purchase(number: int = 1, **fields: Any) -> Json:
    event: Json = {
        "source": "till",
        "id": f"{number}",
        "type": "purchase",
        "member": {"external_id": "00001"},
        "occurred_at": "2026-02-01T12:00:00Z",
        "amount": "11.77",
        "currency": "USD",
    }
    event.update(fields)
    return {name: value for name, value in event.items() if value is not ...}


def available(client: httpx.Client, member: str = "ext:00001") -> int:
    balance = client.get(f"/v1/members/{member}/balance")
    return int(balance.json()["wallets"]["points"]["available"])


def test_a_purchase_earns_and_says_why(shop: httpx.Client) -> None:
    answer = shop.post("/v1/events", json=purchase())
    assert answer.status_code == 201
    result = answer.json()
    assert result["event"]["occurred_at"] == "2026-02-01T12:00:00.000Z"
    assert result["balances"] == {"points": {"available": 11, "pending": 0, "held": 0}}
    assert result["explanation"] == {
        "rules_version": 1,
        "lines": [{"rule": "base", "wallet": "points", "points": 11, "basis": "11.77"}],
        "limits": [],
        "credits": [{"rule": "base", "wallet": "points", "points": 11}],
        "detail": {},
    }
    (entry,) = result["entries"]
    assert shop.get(f"/v1/entries/{entry['id']}").json() == entry
    assert shop.get(f"/v1/entries/{entry['id']}/explanation").json() == result["explanation"]


def test_told_again_it_counts_once_and_has_the_first_answer(shop: httpx.Client) -> None:
    first = shop.post("/v1/events", json=purchase())
    shop.post("/v1/events", json=purchase(2))
    again = shop.post("/v1/events", json=purchase())
    assert again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == {**first.json(), "replayed": True}
    assert available(shop) == 22


def test_the_same_event_in_other_words_is_the_same(shop: httpx.Client) -> None:
    shop.post("/v1/events", json=purchase(occurred_at="2026-02-01T13:00:00+01:00"))
    again = shop.post("/v1/events", json=dict(reversed(purchase(items=[], metadata={}).items())))
    assert again.json()["replayed"] is True


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "12.77"},
        {"member": {"external_id": "00002"}},
        {"occurred_at": "2026-02-02T12:00:00Z"},
        {"store": "a"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_same_id_with_another_content_is_a_conflict(shop: httpx.Client, change: Json) -> None:
    shop.post("/v1/events", json=purchase())
    answer = shop.post("/v1/events", json=purchase(**change))
    assert (answer.status_code, answer.json()["code"]) == (409, "event_conflict")
    assert available(shop) == 11


def test_an_idempotency_key_is_a_fence_of_its_own(shop: httpx.Client) -> None:
    key = {"Idempotency-Key": "4f0d7c1e"}
    assert shop.post("/v1/events", json=purchase(), headers=key).status_code == 201
    assert shop.post("/v1/events", json=purchase(), headers=key).status_code == 200
    other = shop.post("/v1/events", json=purchase(2), headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert available(shop) == 11


def test_a_rehearsal_tells_everything_and_does_nothing(shop: httpx.Client) -> None:
    rehearsed = shop.post("/v1/events/dry-run", json=purchase()).json()
    assert rehearsed["event"]["member"] is rehearsed["entries"][0]["id"] is None
    assert shop.get("/v1/members/ext:00001").status_code == 404
    real = shop.post("/v1/events", json=purchase()).json()
    assert rehearsed["balances"] == real["balances"]
    assert rehearsed["explanation"] == real["explanation"]
    assert shop.post("/v1/events/dry-run", json=purchase()).json() == {**real, "replayed": True}


def test_before_any_rules_an_event_is_recorded_without_points(api: httpx.Client) -> None:
    answer = api.post("/v1/events", json=purchase())
    assert answer.status_code == 201
    assert answer.json()["explanation"]["limits"] == ["no_rules"]
    assert api.post("/v1/rules/versions", json={"rules": [BASE_RULE]}).status_code == 201
    assert api.post("/v1/events", json=purchase(2)).json()["balances"]["points"]["available"] == 11


def test_a_visit_is_recorded_without_points(shop: httpx.Client) -> None:
    answer = shop.post("/v1/events", json=purchase(type="visit", amount=..., currency=...))
    assert answer.status_code == 201
    assert answer.json()["entries"][0]["postings"] == []


def test_a_blocked_member_earns_nothing_but_the_till_goes_on(shop: httpx.Client) -> None:
    shop.post("/v1/members", json={"external_id": "00001", "status": "earning_blocked"})
    answer = shop.post("/v1/events", json=purchase())
    assert answer.status_code == 201
    assert answer.json()["explanation"]["limits"] == ["earning_blocked"]
    assert available(shop) == 0


def test_a_member_is_found_by_any_of_its_names(shop: httpx.Client) -> None:
    identities = [{"type": "card", "value": "4711"}, {"type": "email", "value": "Ada@Example.org"}]
    member = shop.post("/v1/members", json={"external_id": "00001", "identities": identities}).json()
    for number, name in enumerate(
        [{"id": member["id"]}, {"external_id": "00001"}, {"card": "4711"}, {"email": "ada@example.org"}]
    ):
        assert shop.post("/v1/events", json=purchase(number, member=name)).json()["event"]["member"] == member["id"]
    assert available(shop) == 44


def test_where_the_program_wants_it_unknown_customers_are_refused(shop: httpx.Client) -> None:
    (program,) = shop.get("/v1/programs").json()["data"]
    path = f"/v1/programs/{program['id']}"
    tag = {"If-Match": shop.get(path).headers["ETag"]}
    assert shop.patch(path, json={"auto_enrol": False}, headers=tag).status_code == 200

    def refused() -> bool:
        answer = shop.post("/v1/events/dry-run", json=purchase())
        return (answer.status_code, answer.json().get("code")) == (404, "not_found")

    eventually(refused)  # each worker may go by the program of five seconds ago


def eventually(condition: Callable[[], bool]) -> None:
    deadline = datetime.now(timezone.utc) + timedelta(seconds=10)
    while not all(condition() for _ in range(8)):
        assert datetime.now(timezone.utc) < deadline


BAD_FIELDS: list[tuple[str, Json, list[tuple[str, str]]]] = [
    ("float", {"amount": 11.77}, [("/amount", "wrong_type")]),
    ("integer", {"amount": 12}, [("/amount", "wrong_type")]),
    ("negative", {"amount": "-1.00"}, [("/amount", "invalid_value")]),
    ("exponent", {"amount": "1e3"}, [("/amount", "invalid_value")]),
    ("too exact", {"amount": "11.775"}, [("/amount", "invalid_value")]),
    ("other digits", {"amount": "١٢"}, [("/amount", "invalid_value")]),
    ("no amount", {"amount": ...}, [("/amount", "missing")]),
    ("no currency", {"currency": ...}, [("/currency", "missing")]),
    ("other currency", {"currency": "EUR"}, [("/currency", "currency_mismatch")]),
    ("unknown field", {"amnt": "1"}, [("/amnt", "unknown_field")]),
    ("no id", {"id": ...}, [("/id", "missing")]),
    ("null id", {"id": None}, [("/id", "wrong_type")]),
    ("control character", {"id": "a\u0000"}, [("/id", "invalid_value")]),
    ("no member", {"member": {}}, [("/member", "invalid_value")]),
    ("two members", {"member": {"external_id": "1", "card": "2"}}, [("/member", "invalid_value")]),
    ("member is text", {"member": "00001"}, [("/member", "wrong_type")]),
    ("local time", {"occurred_at": "2026-02-01T12:00:00"}, [("/occurred_at", "invalid_value")]),
    ("unix time", {"occurred_at": 1769947200}, [("/occurred_at", "invalid_value")]),
    ("no such day", {"occurred_at": "2026-02-30T12:00:00Z"}, [("/occurred_at", "invalid_value")]),
    ("refund of what", {"type": "refund"}, [("/refers_to", "missing")]),
    (
        "refund of an amount and items",
        {"type": "refund", "refers_to": "1", "items": [{"line_id": "1"}]},
        [("/items", "invalid_value")],
    ),
    ("refund of nothing", {"type": "refund", "refers_to": "1", "amount": "0.00"}, [("/amount", "invalid_value")]),
    (
        "refund of a line that has a price",
        {"type": "refund", "refers_to": "1", "amount": ..., "items": [{"line_id": "1", "amount": "1.00"}]},
        [("/items/0/amount", "invalid_value")],
    ),
    ("no item amount", {"items": [{"line_id": "1"}]}, [("/items/0/amount", "missing")]),
    ("tax", {"tax": "0.001"}, [("/tax", "invalid_value")]),
    (
        "a hold without a worth",
        {"payments": [{"method": "points", "amount": "1.00", "hold": "ent_1"}]},
        [("/payments/0/hold", "invalid_value")],
    ),
    ("item amount", {"items": [{"line_id": "1", "amount": "0.001"}]}, [("/items/0/amount", "invalid_value")]),
    ("nested metadata", {"metadata": {"a": {"b": 1}}}, [("/metadata/a", "invalid_value")]),
    (
        "many",
        {"amount": 1.5, "id": "", "x": 1},
        [("/amount", "wrong_type"), ("/id", "too_short"), ("/x", "unknown_field")],
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"), [case[1:] for case in BAD_FIELDS], ids=[case[0] for case in BAD_FIELDS]
)
def test_every_defect_is_named(shop: httpx.Client, change: Json, expected: list[tuple[str, str]]) -> None:
    answer = shop.post("/v1/events", json=purchase(**change))
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["code"] == "validation_failed"
    found = sorted((error["pointer"], error["code"]) for error in problem["errors"])
    for defect in expected:
        assert defect in found, problem
    assert shop.get("/v1/members/ext:00001").status_code == 404  # nothing was half done


def test_the_future_is_refused_but_for_a_little_skew(shop: httpx.Client) -> None:
    now = datetime.now(timezone.utc)
    soon, later = ((now + timedelta(minutes=minutes)).isoformat() for minutes in (4, 6))
    assert shop.post("/v1/events", json=purchase(1, occurred_at=soon)).status_code == 201
    refused = shop.post("/v1/events", json=purchase(2, occurred_at=later))
    assert [error["code"] for error in refused.json()["errors"]] == ["in_the_future"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"", 400, "malformed_json"),
        (b'{"id": "\xff"}', 400, "malformed_json"),
        (b'{"id": "\xed\xa0\x80"}', 400, "malformed_json"),
        (b'{"amount": NaN}', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b"[]", 422, "validation_failed"),
        (b"3", 422, "validation_failed"),
        (b" " * (2 << 20), 413, "payload_too_large"),
    ],
    ids=["cut off", "empty", "bad UTF-8", "surrogate", "NaN", "deep", "array", "number", "2 MB"],
)
def test_what_is_no_event_at_all(shop: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = shop.post("/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_another_content_type_is_refused(shop: httpx.Client) -> None:
    answer = shop.post("/v1/events", content=b"source=till", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


# -- batches ----------------------------------------------------------------------------------------------------------


def ndjson(events: list[Json]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


def test_a_batch_gives_one_result_an_event_in_order(shop: httpx.Client) -> None:
    shop.post("/v1/events", json=purchase(0))
    events = [
        purchase(0),
        purchase(1),
        purchase(2, member={"external_id": "00002"}, amount="7.00"),
        purchase(1, amount="1.00"),
        purchase(3, amount=1.5),
        purchase(4, member={"id": "mem_zzzzzzzz"}),
    ]
    result = shop.post("/v1/events/batch", json=events).json()
    assert [line["index"] for line in result["results"]] == list(range(6))
    assert [line["status"] for line in result["results"]] == [200, 201, 201, 409, 422, 404]
    assert result["summary"] == {"applied": 2, "replayed": 1, "refused": 3, "points": 18}
    assert result["results"][4]["problem"]["errors"][0]["pointer"] == "/amount"
    assert (available(shop), available(shop, "ext:00002")) == (22, 7)


def test_one_bad_line_of_ndjson_spoils_no_other(shop: httpx.Client) -> None:
    body = ndjson([purchase(1)]) + b'\n{"cut\n\n[1]\n\xff\n' + ndjson([purchase(2)]) + b"\n"
    answer = shop.post("/v1/events/batch", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert [line["status"] for line in answer.json()["results"]] == [201, 400, 422, 400, 201]
    assert available(shop) == 22


def test_many_events_of_one_member_add_up_in_one_batch(shop: httpx.Client) -> None:
    events = [purchase(number, amount="1.00") for number in range(700)]
    assert shop.post("/v1/events/batch", json=events).json()["summary"]["applied"] == 700
    assert shop.post("/v1/events/batch", json=events).json()["summary"]["replayed"] == 700
    assert available(shop) == 700


def test_a_batch_has_at_most_5000_events(shop: httpx.Client) -> None:
    answer = shop.post("/v1/events/batch", json=[purchase(number) for number in range(5001)])
    assert (answer.status_code, answer.json()["code"], answer.json()["max_events"]) == (413, "too_many_events", 5000)
    assert shop.get("/v1/members/ext:00001").status_code == 404


@pytest.mark.parametrize(("body", "status", "code"), [(b"{}", 400, "malformed_json"), (b"[{]", 400, "malformed_json")])
def test_what_is_no_batch(shop: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = shop.post("/v1/events/batch", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_empty_batch_is_no_mistake(shop: httpx.Client) -> None:
    assert shop.post("/v1/events/batch", json=[]).json()["results"] == []
