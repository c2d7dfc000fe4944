"""Points that wait for a person, over HTTP."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from loyalty.infra.http.model import format_instant

Json = dict[str, Any]
BASE = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program whose points wait for a person and are good for ten days from then, to the instant."""
    expiry = {"type": "rolling", "days": 10, "round_up_to": None}
    return configured(api, {"pending": {"type": "manual"}, "expiry": expiry})


def configured(client: httpx.Client, wallet: Json) -> httpx.Client:
    (program,) = client.get("/v1/programs").json()["data"]
    answer = client.patch(
        f"/v1/programs/{program['id']}",
        json={"policies": {"wallets": {"points": wallet}}},
        headers={"If-Match": f'"v{program["version"]}"'},
    )
    assert answer.status_code == 200, answer.text
    assert client.post("/v1/rules/versions", json={"rules": [BASE]}).status_code == 201
    return client


def tell(client: httpx.Client, number: str, **fields: Any) -> Json:
    event = {"source": "till", "id": number, "member": {"external_id": "ada"}, **fields}
    if "amount" in fields:
        event["currency"] = "USD"
    answer = client.post("/v1/events", json=event)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()["entries"][0]
    return made


def buy(client: httpx.Client, number: str, amount: str = "50.00") -> str:
    return str(tell(client, number, type="purchase", amount=amount)["id"])


def activate(client: httpx.Client, entry: str, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"/v1/entries/{entry}/activate", headers=headers)


def wallet(client: httpx.Client) -> Json:
    found: Json = client.get("/v1/members/ext:ada/balance").json()["wallets"]["points"]
    return found


def buckets(client: httpx.Client) -> tuple[int, int]:
    """Pending and available."""
    return wallet(client)["pending"], wallet(client)["available"]


def test_the_time_of_pending_points_begins_when_they_become_available_case_3_19(shop: httpx.Client) -> None:
    first, second = buy(shop, "1"), buy(shop, "2", "30.00")
    assert buckets(shop) == (80, 0)
    answer = activate(shop, first)
    assert answer.status_code == 201, answer.text
    assert buckets(shop) == (30, 50)
    at = datetime.fromisoformat(answer.json()["entry"]["recorded_at"].replace("Z", "+00:00"))
    assert wallet(shop)["expiring"] == [{"at": format_instant(at + timedelta(days=10)), "points": 50}]
    assert activate(shop, second).status_code == 201
    assert buckets(shop) == (0, 80)


def test_what_was_activated_does_not_wait_any_more_case_3_28(shop: httpx.Client) -> None:
    entry = buy(shop, "1")
    first = activate(shop, entry, "k")
    again = activate(shop, entry, "k")
    assert (again.status_code, again.json()) == (200, {**first.json(), "replayed": True})
    second = activate(shop, entry)
    assert (second.status_code, second.json()["code"]) == (409, "nothing_waits")
    assert activate(shop, buy(shop, "2"), "k").json()["code"] == "idempotency_conflict"
    assert buckets(shop) == (50, 50)


def test_a_crowd_activates_once(shop: httpx.Client) -> None:
    entry = buy(shop, "1")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: activate(shop, entry, secrets.token_hex(8)), range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 15
    assert buckets(shop) == (0, 50)


def test_what_was_refunded_stays_away(shop: httpx.Client) -> None:
    entry = buy(shop, "1")
    tell(shop, "r1", type="refund", refers_to="1", amount="20.00")
    assert buckets(shop) == (30, 0)
    activate(shop, entry)
    assert buckets(shop) == (0, 30)
    tell(shop, "r2", type="refund", refers_to="1")
    assert buckets(shop) == (0, 0)


def test_a_person_can_stand_in_for_an_event(api: httpx.Client) -> None:
    shop = configured(api, {"pending": {"type": "event", "event_type": "delivered"}})
    entry = buy(shop, "1")
    assert activate(shop, entry).status_code == 201
    tell(shop, "d", type="delivered", refers_to="1")
    assert buckets(shop) == (0, 50)


def test_only_an_award_can_wait(api: httpx.Client) -> None:
    shop = configured(api, {})
    assert activate(shop, buy(shop, "1")).json()["code"] == "nothing_waits"
    body = {"member": {"external_id": "ada"}, "points": 1, "reason": "for the test"}
    adjusted = shop.post("/v1/adjustments", json=body).json()["entry"]["id"]
    assert activate(shop, adjusted).json()["code"] == "nothing_waits"
    assert activate(shop, "ent_0000000000001").json()["code"] == "not_found"
