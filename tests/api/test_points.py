"""Redemptions, adjustments, balances and entries over HTTP."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

Json = dict[str, Any]
ADA = {"external_id": "ada"}


@pytest.fixture
def ada(api: httpx.Client) -> httpx.Client:
    """A program with one member who has 100 points."""
    assert api.post("/v1/members", json=ADA).status_code == 201
    assert adjust(api, 100).status_code == 201
    return api


def adjust(client: httpx.Client, points: int, key: str | None = None, **fields: Any) -> httpx.Response:
    body = {"member": ADA, "points": points, "reason": "for the test", **fields}
    return client.post("/v1/adjustments", json=body, headers={"Idempotency-Key": key} if key else {})


def offer(client: httpx.Client, cost: int = 30, **fields: Any) -> str:
    return str(client.post("/v1/rewards", json={"name": "Coffee", "cost": cost, **fields}).json()["id"])


def redeem(client: httpx.Client, reward: str, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/redemptions", json={"member": ADA, "reward": reward}, headers=headers)


def available(client: httpx.Client) -> int:
    return int(client.get("/v1/members/ext:ada/balance").json()["wallets"]["points"]["available"])


def test_a_redemption_pays_the_cost(ada: httpx.Client) -> None:
    answer = redeem(ada, offer(ada))
    assert answer.status_code == 201
    assert answer.json()["reward"]["cost"] == 30
    assert answer.json()["balances"]["points"]["available"] == available(ada) == 70


def test_the_same_key_buys_once_even_when_nothing_is_left(ada: httpx.Client) -> None:
    reward = offer(ada, cost=100)
    first = redeem(ada, reward, "k")
    again = redeem(ada, reward, "k")
    assert (again.status_code, again.json()) == (200, {**first.json(), "replayed": True})
    assert available(ada) == 0


def test_the_same_key_for_something_else_is_a_conflict(ada: httpx.Client) -> None:
    redeem(ada, offer(ada), "k")
    answer = redeem(ada, offer(ada, cost=1), "k")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert adjust(ada, 5, "k").json()["code"] == "idempotency_conflict"
    assert available(ada) == 70


def test_too_few_points_says_how_many_are_missing(ada: httpx.Client) -> None:
    answer = redeem(ada, offer(ada, cost=130))
    assert answer.status_code == 409
    assert (answer.json()["code"], answer.json()["missing_points"]) == ("insufficient_points", 30)


def test_no_overspend_whatever_the_crowd(ada: httpx.Client) -> None:
    reward = offer(ada, cost=30)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: redeem(ada, reward, secrets.token_hex(8)), range(24)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 21
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"insufficient_points"}
    assert available(ada) == 10


def test_a_reward_keeps_the_cost_of_its_day(ada: httpx.Client) -> None:
    reward = offer(ada)
    bought = redeem(ada, reward).json()
    tag = ada.get(f"/v1/rewards/{reward}").headers["ETag"]
    assert ada.patch(f"/v1/rewards/{reward}", json={"cost": 60}, headers={"If-Match": tag}).json()["cost"] == 60
    assert ada.patch(f"/v1/rewards/{reward}", json={"cost": 90}, headers={"If-Match": tag}).status_code == 412
    explained = ada.get(f"/v1/entries/{bought['entry']['id']}/explanation").json()
    assert explained["detail"]["reward"]["cost"] == 30
    assert redeem(ada, reward).json()["reward"]["cost"] == 60


def test_a_withdrawn_reward_cannot_be_redeemed(ada: httpx.Client) -> None:
    answer = redeem(ada, offer(ada, available=False))
    assert (answer.status_code, answer.json()["code"]) == (409, "reward_unavailable")


def test_a_blocked_member_cannot_spend(ada: httpx.Client) -> None:
    ada.patch("/v1/members/ext:ada", json={"status": "spending_blocked"})
    answer = redeem(ada, offer(ada))
    assert (answer.status_code, answer.json()["code"]) == (409, "member_blocked")


@pytest.mark.parametrize(
    ("member", "reward"),
    [({"external_id": "nobody"}, None), (ADA, "rew_" + "0" * 26)],
    ids=["unknown member", "unknown reward"],
)
def test_what_does_not_exist_is_not_found(ada: httpx.Client, member: Json, reward: str | None) -> None:
    body = {"member": member, "reward": reward or offer(ada)}
    answer = ada.post("/v1/redemptions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_adjustment_needs_points_and_a_reason(ada: httpx.Client) -> None:
    assert adjust(ada, 0).json()["errors"][0]["pointer"] == "/points"
    assert adjust(ada, 5, reason="").json()["errors"][0]["pointer"] == "/reason"
    assert adjust(ada, -40, "k").status_code == 201
    assert adjust(ada, -40, "k").status_code == 200
    assert adjust(ada, -61).json()["missing_points"] == 1
    assert available(ada) == 60


def test_a_balance_shows_where_it_came_from(ada: httpx.Client) -> None:
    redeem(ada, offer(ada))
    adjust(ada, -10)
    balance = ada.get("/v1/members/ext:ada/balance").json()
    assert balance["wallets"]["points"]["lifetime"] == {
        "earned": 0,
        "spent": 30,
        "expired": 0,
        "reversed": 0,
        "adjusted": 90,
        "restored": 0,
        "transferred": 0,
    }


def test_a_balance_has_an_etag_until_something_happens(ada: httpx.Client) -> None:
    first = ada.get("/v1/members/ext:ada/balance")
    tag = {"If-None-Match": first.headers["ETag"]}
    assert ada.get("/v1/members/ext:ada/balance", headers=tag).status_code == 304
    adjust(ada, 1)
    assert ada.get("/v1/members/ext:ada/balance", headers=tag).status_code == 200


def test_a_balance_of_the_past_is_what_was_known_then(ada: httpx.Client) -> None:
    before = ada.get("/v1/members/ext:ada/balance").json()
    adjust(ada, 900)
    past = ada.get("/v1/members/ext:ada/balance", params={"at": before["as_of"]}).json()
    assert past == before
    long_ago = ada.get("/v1/members/ext:ada/balance", params={"at": "2001-01-01T00:00:00Z"}).json()
    assert (long_ago["as_of"], long_ago["wallets"]["points"]["available"]) == (None, 0)


def test_a_new_member_has_nothing(api: httpx.Client) -> None:
    api.post("/v1/members", json=ADA)
    balance = api.get("/v1/members/ext:ada/balance").json()
    assert (balance["as_of"], balance["wallets"]["points"]["available"]) == (None, 0)
    assert api.get("/v1/members/ext:ada/entries").json() == {"data": [], "next_cursor": None}


def test_entries_are_paged_newest_first_and_stable_while_more_are_added(ada: httpx.Client) -> None:
    for points in range(1, 6):
        adjust(ada, points)
    page = ada.get("/v1/members/ext:ada/entries", params={"limit": 2}).json()
    seen = list(page["data"])
    adjust(ada, 99)
    while page["next_cursor"]:
        query = {"limit": 2, "cursor": page["next_cursor"]}
        page = ada.get("/v1/members/ext:ada/entries", params=query).json()
        seen += page["data"]
    assert [entry["points"]["points"] for entry in seen] == [5, 4, 3, 2, 1, 100]


def test_entries_of_another_program_are_not_found(ada: httpx.Client) -> None:
    assert ada.get("/v1/entries/ent_0000000000001").status_code == 404
    assert ada.get("/v1/entries/nonsense").status_code == 404
