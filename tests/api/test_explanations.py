"""Why an entry is as it is, for entries of every kind: rules, lines, caps, policies, and the lots that moved."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

Json = dict[str, Any]
ADA = {"external_id": "ada"}
LATER = "2050-01-01T00:00:00.000Z"
POLICIES = {
    "wallets": {"points": {"transferable": True, "overspent_refund": "negative"}},
    "points_payment": {"points": 10, "amount": "1.00"},
    "unearning_payment_methods": ["voucher"],
}
RULES = [
    {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "caps": {"per_month": 150}},
    {"type": "multiplier", "id": "books", "factor": "2", "where": 'category = "books"'},
    {"type": "fixed", "id": "large", "points": 9, "when": "event.amount >= 1000.00"},
]


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program with policies, rules, and a member with 100 points by hand, half of which expire."""
    (program,) = api.get("/v1/programs").json()["data"]
    version = {"If-Match": f'"v{program["version"]}"'}
    assert api.patch(f"/v1/programs/{program['id']}", json={"policies": POLICIES}, headers=version).status_code == 200
    assert api.post("/v1/rules/versions", json={"rules": RULES}).status_code == 201
    assert api.post("/v1/members", json=ADA).status_code == 201
    for fields in ({}, {"expires_at": LATER}):
        body = {"member": ADA, "points": 50, "reason": "a start", **fields}
        assert api.post("/v1/adjustments", json=body).status_code == 201
    return api


def explanation(client: httpx.Client, entry: Json) -> Json:
    answer = client.get(f"/v1/entries/{entry['id']}/explanation")
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def tell(client: httpx.Client, number: str, **event: Any) -> Json:
    body = {"source": "till", "id": number, "type": "purchase", "member": ADA, "currency": "USD", **event}
    answer = client.post("/v1/events", json=body)
    assert answer.status_code == 201, answer.text
    told: Json = answer.json()
    assert told["explanation"] == explanation(client, told["entries"][0])
    return told


def test_a_purchase_that_points_paid_in_part(shop: httpx.Client) -> None:
    """Case 3.30: what was paid by points and vouchers earns nothing, and the explanation says so."""
    told = tell(
        shop,
        "1",
        amount="100.00",
        items=[
            {"line_id": "a", "category": "books", "amount": "40.00"},
            {"line_id": "b", "category": "wine", "amount": "60.00"},
        ],
        payments=[
            {"method": "points", "amount": "6.00"},
            {"method": "voucher", "amount": "14.00"},
            {"method": "card", "amount": "80.00"},
        ],
    )["explanation"]
    assert told["rules_version"] == 1
    assert told["lines"] == [
        {"rule": "base", "wallet": "points", "points": 80, "basis": "80.00"},
        {"rule": "books", "wallet": "points", "points": 32, "basis": "0.00"},
    ]
    assert told["passed"] == {"large": "condition"}
    assert told["credits"] == [{"rule": "base", "wallet": "points", "points": 112, "attribution": [64, 48]}]
    assert told["unearning"] == {"methods": ["points", "voucher"], "amount": "20.00"}
    assert told["paid"][0]["points"] == 60
    used = [(lot["points"], lot["from"], lot["to"], lot.get("expires_at")) for lot in told["lots"]]
    assert used == [(50, "available", "spent", LATER), (10, "available", "spent", None)]


def test_a_cap(shop: httpx.Client) -> None:
    """Case 3.24: what was cut, by what, and what it would have been."""
    tell(shop, "1", amount="140.00")
    told = tell(shop, "2", amount="140.00")["explanation"]
    assert told["lines"] == [
        {
            "rule": "base",
            "wallet": "points",
            "points": 10,
            "basis": "140.00",
            "reason": "cap_per_month",
            "wanted": 140,
        }
    ]
    assert "lots" not in told
    assert "unearning" not in told


def test_a_reward_and_its_cancellation(shop: httpx.Client) -> None:
    reward = shop.post("/v1/rewards", json={"name": "Cup", "cost": 70}).json()["id"]
    bought = shop.post("/v1/redemptions", json={"member": ADA, "reward": reward}).json()["entry"]
    told = explanation(shop, bought)
    assert told["detail"]["reward"]["name"] == "Cup"
    assert [(lot["points"], lot["to"], lot.get("expires_at")) for lot in told["lots"]] == [
        (50, "spent", LATER),
        (20, "spent", None),
    ]
    back = shop.post(f"/v1/redemptions/{bought['id']}/cancel").json()["entry"]
    returned = explanation(shop, back)
    assert returned["detail"]["redemption"] == bought["id"]
    assert [(lot["points"], lot["from"], lot.get("expires_at")) for lot in returned["lots"]] == [
        (50, "spent", LATER),
        (20, "spent", None),
    ]


def test_a_refund_of_points_that_are_gone(shop: httpx.Client) -> None:
    """Case 3.10: the policy that decided is named, and what it left to be paid."""
    tell(shop, "1", amount="30.00")
    taken = {"member": ADA, "points": -120, "reason": "a mistake"}
    assert shop.post("/v1/adjustments", json=taken).status_code == 201
    told = tell(shop, "r", type="refund", refers_to="1")["explanation"]
    assert told["detail"]["refund"]["credits"] == [
        {"rule": "base", "wallet": "points", "points": 30, "owed": 20, "policy": "negative"}
    ]
    moved = [(lot["lot"], lot["points"], lot["to"]) for lot in told["lots"]]
    assert moved == [(1, 10, "reversed"), (0, 20, "reversed")]


def test_what_others_do(shop: httpx.Client) -> None:
    """A transfer, a hold and its capture: who, why, and which lots."""
    assert shop.post("/v1/members", json={"external_id": "bob"}).status_code == 201
    gift = {"sender": ADA, "recipient": {"external_id": "bob"}, "points": 60}
    sent = explanation(shop, shop.post("/v1/transfers", json=gift).json()["transfer"]["sent"])
    assert sent["detail"]["transfer"]["points"] == 60
    assert [(lot["points"], lot.get("expires_at")) for lot in sent["lots"]] == [(50, LATER), (10, None)]
    held = shop.post("/v1/holds", json={"member": ADA, "points": 30}).json()
    told = explanation(shop, held["entry"])
    assert [(lot["points"], lot["from"], lot["to"]) for lot in told["lots"]] == [(30, "available", "held")]
    captured = shop.post(f"/v1/holds/{held['hold']['id']}/capture", json={"points": 20}).json()
    told = explanation(shop, captured["entry"])
    assert [(lot["points"], lot["from"], lot["to"]) for lot in told["lots"]] == [
        (20, "held", "spent"),
        (10, "held", "available"),
    ]
