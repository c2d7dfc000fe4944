"""Refunds and points as payment over HTTP, against a real database: races, repetitions, and what comes out of order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

Json = dict[str, Any]

BASE_RULE: Json = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}


def policies(api: httpx.Client, **wanted: Any) -> None:
    """Change the policies, in every process of the application."""
    (program,) = api.get("/v1/programs").json()["data"]
    path = f"/v1/programs/{program['id']}"
    tag = {"If-Match": api.get(path).headers["ETag"]}
    changed = api.patch(path, json={"policies": wanted}, headers=tag)
    assert changed.status_code == 200, changed.text


def publish(api: httpx.Client, *rules: Json) -> httpx.Client:
    published = api.post("/v1/rules/versions", json={"rules": list(rules)})
    assert published.status_code == 201, published.text
    return api


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program with one point a dollar."""
    return publish(api, BASE_RULE)


def event(name: str, kind: str, amount: str | None = None, **fields: Any) -> Json:
    told: Json = {"source": "till", "id": name, "type": kind, "member": {"external_id": "ada"}, **fields}
    if amount is not None:
        told |= {"amount": amount, "currency": "USD"}
    return told


def buy(shop: httpx.Client, name: str, amount: str, **fields: Any) -> Json:
    answer = shop.post("/v1/events", json=event(name, "purchase", amount, **fields))
    assert answer.status_code == 201, answer.text
    result: Json = answer.json()
    return result


def refund(shop: httpx.Client, name: str, of: str, amount: str | None = None, **fields: Any) -> httpx.Response:
    return shop.post("/v1/events", json=event(name, "refund", amount, refers_to=of, **fields))


def available(shop: httpx.Client, member: str = "ext:ada") -> int:
    wallets = shop.get(f"/v1/members/{member}/balance").json()["wallets"]
    return int(wallets["points"]["available"])


def taken(answer: httpx.Response) -> int:
    assert answer.status_code == 201, answer.text
    return sum(credit["points"] for credit in answer.json()["explanation"]["detail"]["refund"]["credits"])


def test_a_refund_says_what_it_took_and_from_what(shop: httpx.Client) -> None:
    """Case 3.9."""
    bought = buy(shop, "p", "617.90")
    answer = refund(shop, "r1", "p", "250.00")
    assert taken(answer) == 249
    result = answer.json()
    assert result["balances"]["points"]["available"] == 617 - 249
    assert result["entries"][0]["kind"] == "refund"
    detail = result["explanation"]["detail"]
    assert detail["refund"]["of"] == {"source": "till", "id": "p", "entry": bought["entries"][0]["id"]}
    assert (detail["refund"]["amount"], detail["refund"]["currency"]) == ("250.00", "USD")
    assert detail["refunded"]["credits"] == [249]
    assert [taken(refund(shop, "r2", "p", "250.00")), taken(refund(shop, "r3", "p"))] == [250, 118]
    assert available(shop) == 0


def test_a_refund_told_again_has_the_first_answer(shop: httpx.Client) -> None:
    """Cases 3.1 and 3.2: also when nothing is left that could be refunded."""
    buy(shop, "p", "100.00")
    key = {"Idempotency-Key": "a-refund"}
    body = event("r", "refund", refers_to="p")
    first = shop.post("/v1/events", json=body, headers=key)
    assert first.status_code == 201
    for headers in (key, {}, {"Idempotency-Key": "another"}):
        again = shop.post("/v1/events", json=body, headers=headers)
        assert (again.status_code, again.json()) == (200, {**first.json(), "replayed": True})
    other = shop.post("/v1/events", json={**body, "amount": "1.00", "currency": "USD"})
    assert (other.status_code, other.json()["code"]) == (409, "event_conflict")
    assert available(shop) == 0


def test_more_than_was_bought_is_refused(shop: httpx.Client) -> None:
    lines = [{"line_id": "1", "quantity": 3, "amount": "30.00"}, {"line_id": "2", "amount": "20.00"}]
    buy(shop, "p", "50.00", items=lines)
    assert refund(shop, "r1", "p", items=[{"line_id": "1"}]).status_code == 201
    refused = refund(shop, "r2", "p", "40.01")
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "refund_exceeds_purchase")
    left = [{"line_id": "1", "quantity": 2}, {"line_id": "2", "quantity": 1}]
    assert (problem["left_amount"], problem["left_items"]) == ("40.00", left)
    assert available(shop) == 40
    assert refund(shop, "r2", "p", "40.00").status_code == 201  # nothing had happened under this id


def test_a_purchase_belongs_to_its_member(shop: httpx.Client) -> None:
    buy(shop, "p", "50.00")
    refused = refund(shop, "r", "p", member={"external_id": "grace"})
    assert (refused.status_code, refused.json()["code"]) == (409, "event_of_another_member")
    assert available(shop) == 50


def test_a_refund_cannot_be_refunded(shop: httpx.Client) -> None:
    """Case 3.28."""
    buy(shop, "p", "50.00")
    assert refund(shop, "r", "p").status_code == 201
    refused = refund(shop, "rr", "r")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_refundable")


def test_another_source_can_refund(shop: httpx.Client) -> None:
    buy(shop, "p", "50.00")
    body = event("r", "refund", refers_to="p", refers_to_source="till")
    assert taken(shop.post("/v1/events", json={**body, "source": "back-office"})) == 50


@pytest.mark.parametrize(
    ("policy", "left", "shortfall"), [("stop_at_zero", 0, 60), ("pending_only", 40, 100), ("negative", -60, 0)]
)
def test_points_that_were_spent(api: httpx.Client, policy: str, left: int, shortfall: int) -> None:
    """Case 3.10: each policy has its own answer, and none blocks the till."""
    policies(api, wallets={"points": {"overspent_refund": policy}})
    shop = publish(api, BASE_RULE)
    buy(shop, "p", "100.00")
    spent = shop.post("/v1/adjustments", json={"member": {"external_id": "ada"}, "points": -60, "reason": "spent"})
    assert spent.status_code == 201, spent.text
    (credit,) = refund(shop, "r", "p").json()["explanation"]["detail"]["refund"]["credits"]
    assert (available(shop), credit.get("shortfall", 0)) == (left, shortfall)
    assert buy(shop, "q", "100.00")["balances"]["points"]["available"] == left + 100


def test_rules_that_changed_meanwhile_do_not_matter(shop: httpx.Client) -> None:
    """Case 3.12."""
    buy(shop, "p", "100.00")
    published = shop.post(
        "/v1/rules/versions", json={"rules": [{**BASE_RULE, "points": 9}]}, headers={"If-Match": '"v1"'}
    )
    assert published.status_code == 201
    assert taken(refund(shop, "r", "p", "50.00")) == 50


def test_points_pay_and_come_back(api: httpx.Client) -> None:
    """Cases 3.11 and 3.30: the part that points paid earns nothing, and comes back with its share of a refund."""
    policies(api, points_payment={"points": 100, "amount": "1.00", "max_share_percent": 50})
    shop = publish(api, {**BASE_RULE, "points": 100})
    buy(shop, "first", "20.00")
    pays = [{"method": "points", "amount": "10.00"}, {"method": "card", "amount": "30.00"}]
    bought = buy(shop, "p", "40.00", payments=pays)
    assert bought["explanation"]["paid"] == [
        {"wallet": "points", "points": 1000, "amount": "10.00", "parts": [{"id": 1, "points": 1000}]}
    ]
    assert available(shop) == 2000 - 1000 + 3000
    half = refund(shop, "r1", "p", "20.00").json()
    assert half["explanation"]["detail"]["refund"]["restored"] == [{"wallet": "points", "points": 500}]
    assert available(shop) == 4000 + 500 - 1500
    refund(shop, "r2", "p")
    assert available(shop) == 2000
    too_many = shop.post(
        "/v1/events", json=event("q", "purchase", "10.00", payments=[{"method": "points", "amount": "5.01"}])
    )
    assert [error["code"] for error in too_many.json()["errors"]] == ["too_many_points"]
    missing = shop.post(
        "/v1/events", json=event("q", "purchase", "1000.00", payments=[{"method": "points", "amount": "20.01"}])
    )
    assert (missing.status_code, missing.json()["code"], missing.json()["missing_points"]) == (
        409,
        "insufficient_points",
        1,
    )


def test_a_hold_pays(api: httpx.Client) -> None:
    """Case 3.4: captured with the purchase, in one entry; the rest returns."""
    policies(api, points_payment={"points": 100, "amount": "1.00"})
    shop = publish(api, {**BASE_RULE, "points": 100})
    buy(shop, "first", "20.00")
    held = shop.post("/v1/holds", json={"member": {"external_id": "ada"}, "points": 800})
    assert held.status_code == 201, held.text
    hold = held.json()["hold"]["id"]
    bought = buy(shop, "p", "6.00", payments=[{"method": "points", "amount": "6.00", "hold": hold}])
    assert bought["balances"]["points"] == {"available": 1400, "pending": 0, "held": 0}
    assert shop.get(f"/v1/holds/{hold}").json()["status"] == "captured"
    again = event("q", "purchase", "2.00", payments=[{"method": "points", "amount": "2.00", "hold": hold}])
    refused = shop.post("/v1/events", json=again)
    assert (refused.status_code, refused.json()["code"]) == (409, "hold_already_resolved")


def test_a_refund_before_its_purchase_waits_for_it(shop: httpx.Client) -> None:
    """Case 3.21."""
    parked = refund(shop, "r", "p", "40.00")
    assert parked.status_code == 201
    assert parked.json()["entries"][0]["kind"] == "park"
    bought = buy(shop, "p", "100.00")
    assert bought["balances"]["points"]["available"] == 60
    assert bought["explanation"]["detail"]["refunds"][0]["credits"] == [
        {"rule": "base", "wallet": "points", "points": 40}
    ]
    assert taken(refund(shop, "r2", "p")) == 60
    assert refund(shop, "r", "p", "40.00").json()["replayed"] is True


def test_a_rehearsed_refund_is_the_real_one(shop: httpx.Client) -> None:
    buy(shop, "p", "100.00")
    body = event("r", "refund", "30.00", refers_to="p")
    rehearsed = shop.post("/v1/events/dry-run", json=body).json()
    assert available(shop) == 100
    real = shop.post("/v1/events", json=body).json()
    assert rehearsed["explanation"] == real["explanation"]
    assert rehearsed["balances"] == real["balances"]
    waiting = event("r", "refund", "30.00", refers_to="unknown")
    assert shop.post("/v1/events/dry-run", json={**waiting, "id": "x"}).json()["entries"][0]["kind"] == "park"


def test_racing_refunds_take_each_point_once(shop: httpx.Client) -> None:
    """Cases 3.9 and 3.24: twenty at once want a tenth each; ten get it, and what they take is the award."""
    buy(shop, "p", "99.90", items=[{"line_id": "1", "quantity": 10, "amount": "99.90"}])
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda number: refund(shop, f"r{number}", "p", items=[{"line_id": "1"}]), range(20)))
    done = [answer for answer in answers if answer.status_code == 201]
    refused = {(answer.status_code, answer.json()["code"]) for answer in answers if answer.status_code != 201}
    assert (len(done), refused) == (10, {(409, "refund_exceeds_purchase")})
    assert sum(taken(answer) for answer in done) == 99
    assert available(shop) == 0


def test_a_refund_and_its_purchase_race(shop: httpx.Client) -> None:
    """Case 3.21: whichever comes first, nothing is lost."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            told = [event(f"p{number}", "purchase", "10.00"), event(f"r{number}", "refund", refers_to=f"p{number}")]
            told += [event(f"x{number}-{other}", "purchase", "1.00") for other in range(4)]
            answers = list(pool.map(lambda one: shop.post("/v1/events", json=one), told))
            assert {answer.status_code for answer in answers} == {201}
    assert available(shop) == 32


def test_a_batch_may_hold_purchases_and_their_refunds(shop: httpx.Client) -> None:
    """Cases 3.9 and 3.21: in the order of the batch, many of one purchase, before and after it."""
    told = [
        event("r0", "refund", "5.00", refers_to="p"),
        event("p", "purchase", "100.00"),
        event("r1", "refund", "10.00", refers_to="p"),
        event("r2", "refund", "10.00", refers_to="p"),
        event("q", "purchase", "7.00"),
        event("r3", "refund", "100.00", refers_to="p"),
        event("r4", "refund", refers_to="p"),
        event("r4", "refund", refers_to="p"),
        event("g", "refund", refers_to="q", member={"card": "4711"}),
    ]
    answer = shop.post("/v1/events/batch", json=told)
    lines = answer.json()["results"]
    assert [line["status"] for line in lines] == [201, 201, 201, 201, 201, 409, 201, 200, 409], lines
    assert lines[5]["problem"]["left_amount"] == "75.00"
    assert available(shop) == 7
    assert {line["status"] for line in shop.post("/v1/events/batch", json=told).json()["results"]} == {200, 409}


def test_points_wait_for_an_event(api: httpx.Client) -> None:
    """Case 3.19: the delivery makes the points of its order available, once."""
    policies(api, wallets={"points": {"pending": {"type": "event", "event_type": "delivered"}}})
    shop = publish(api, BASE_RULE)
    bought = buy(shop, "p", "100.00")
    assert bought["balances"]["points"] == {"available": 0, "pending": 100, "held": 0}
    assert bought["explanation"]["credits"][0]["awaits"] == "delivered"
    assert shop.get("/v1/members/ext:ada/balance").json()["wallets"]["points"]["waiting"] == 100
    body = event("d", "delivered", refers_to="p")
    first = shop.post("/v1/events", json=body).json()
    assert first["entries"][0]["kind"] == "activate"
    assert first["balances"]["points"] == {"available": 100, "pending": 0, "held": 0}
    assert shop.post("/v1/events", json=body).json() == {**first, "replayed": True}
    assert taken(refund(shop, "r", "p")) == 100
    stranger = shop.post("/v1/events", json=event("x", "delivered", refers_to="q", member={"external_id": "grace"}))
    assert stranger.status_code == 201  # it waits for a purchase of that member
    buy(shop, "q", "50.00")
    shop.post("/v1/events", json=event("dq", "delivered", refers_to="q"))
    assert available(shop) == 50


def test_a_delivery_of_somebody_else_changes_nothing(api: httpx.Client) -> None:
    policies(api, wallets={"points": {"pending": {"type": "event", "event_type": "delivered"}}})
    shop = publish(api, BASE_RULE)
    buy(shop, "p", "100.00")
    refund(shop, "r", "p", "40.00")
    stranger = shop.post("/v1/events", json=event("x", "delivered", refers_to="p", member={"external_id": "grace"}))
    assert (stranger.status_code, stranger.json()["code"]) == (409, "event_of_another_member")
    assert taken(refund(shop, "r2", "p")) == 60


def test_a_delivery_before_its_purchase_waits_for_it(api: httpx.Client) -> None:
    """Case 3.21: with a refund before it too, in the order in which they were told."""
    policies(api, wallets={"points": {"pending": {"type": "event", "event_type": "delivered"}}})
    shop = publish(api, BASE_RULE)
    assert refund(shop, "r", "p", "40.00").status_code == 201
    body = event("d", "delivered", refers_to="p")
    assert shop.post("/v1/events", json=body).json()["explanation"]["detail"]["parked"]["id"] == "p"
    bought = buy(shop, "p", "100.00")
    assert bought["balances"]["points"] == {"available": 60, "pending": 0, "held": 0}
    assert bought["explanation"]["detail"]["activations"][0]["credits"][0]["points"] == 60
    assert taken(refund(shop, "r2", "p")) == 60
    assert available(shop) == 0


def test_policies_change_as_a_whole_and_are_checked(api: httpx.Client) -> None:
    (program,) = api.get("/v1/programs").json()["data"]
    path = f"/v1/programs/{program['id']}"
    assert program["policies"]["wallets"]["points"]["expiry"] == {"type": "never"}
    policies(api, wallets={"points": {}, "status": {}}, hold_seconds=60)
    changed = api.get(path)
    assert changed.json()["policies"]["hold_seconds"] == 60
    tag = {"If-Match": changed.headers["ETag"]}
    bad = {"wallets": {"points": {"spendable": False}}, "points_payment": {"points": 1, "amount": "0.001"}}
    refused = api.patch(path, json={"policies": bad}, headers=tag)
    assert sorted(error["pointer"] for error in refused.json()["errors"]) == [
        "/policies/points_payment/amount",
        "/policies/points_payment/wallet",
        "/policies/wallets/status",
    ]
    assert api.get(path).json() == changed.json()
