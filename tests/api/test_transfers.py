"""Transfers over HTTP: points from one member to another."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

Json = dict[str, Any]
FIRST, SECOND = "2041-01-01T00:00:00.000Z", "2042-01-01T00:00:00.000Z"


@pytest.fixture
def two(api: httpx.Client) -> httpx.Client:
    """A program whose points can be given away and whose stamps cannot; Ada has 100 points, Bob nothing."""
    set_policies(api, {"points": {"transferable": True}, "stamps": {}})
    api.post("/v1/members", json={"external_id": "bob", "identities": [{"type": "card", "value": "b"}]})
    give(api, "ada", 100)
    return api


def set_policies(client: httpx.Client, wallets: Json) -> None:
    (program,) = client.get("/v1/programs").json()["data"]
    answer = client.patch(
        f"/v1/programs/{program['id']}",
        json={"policies": {"wallets": wallets}},
        headers={"If-Match": f'"v{program["version"]}"'},
    )
    assert answer.status_code == 200, answer.text


def give(client: httpx.Client, name: str, points: int, **fields: Any) -> None:
    client.post("/v1/members", json={"external_id": name})
    body = {"member": {"external_id": name}, "points": points, "reason": "for the test", **fields}
    assert client.post("/v1/adjustments", json=body).status_code == 201


def transfer(
    client: httpx.Client,
    points: int,
    key: str | None = None,
    sender: str = "ada",
    recipient: str = "bob",
    **fields: Any,
) -> httpx.Response:
    body = {"sender": {"external_id": sender}, "recipient": {"external_id": recipient}, "points": points, **fields}
    return client.post("/v1/transfers", json=body, headers={"Idempotency-Key": key} if key else {})


def wallet(client: httpx.Client, name: str) -> Json:
    found: Json = client.get(f"/v1/members/ext:{name}/balance").json()["wallets"]["points"]
    return found


def available(client: httpx.Client) -> tuple[int, int]:
    return wallet(client, "ada")["available"], wallet(client, "bob")["available"]


def test_points_go_from_one_chain_to_the_other_case_3_27(two: httpx.Client) -> None:
    answer = transfer(two, 30, note="Happy birthday")
    assert answer.status_code == 201, answer.text
    made = answer.json()["transfer"]
    assert (made["points"], made["wallet"], made["note"]) == (30, "points", "Happy birthday")
    assert answer.json()["balances"]["points"]["available"] == 70
    assert available(two) == (70, 30)
    assert (made["sent"]["points"], made["received"]["points"]) == ({"points": -30}, {"points": 30})
    for side, other in (("sent", "received"), ("received", "sent")):
        assert two.get(f"/v1/transfers/{made[side]['id']}").json() == made
        explained = two.get(f"/v1/entries/{made[side]['id']}/explanation").json()["detail"]
        assert explained["with"] == [made[other]["id"]]
    for name in ("ent_0000000000001", "nonsense"):
        assert two.get(f"/v1/transfers/{name}").json()["code"] == "not_found"


def test_the_expiry_goes_along_case_3_27(two: httpx.Client) -> None:
    """So nobody renews points by giving them away, to and fro."""
    give(two, "ada", 20, expires_at=SECOND)
    give(two, "ada", 20, expires_at=FIRST)
    give(two, "bob", 5, expires_at=SECOND)
    transfer(two, 50)
    assert wallet(two, "bob")["expiring"] == [{"at": FIRST, "points": 20}, {"at": SECOND, "points": 25}]
    assert wallet(two, "bob")["available"] == 55
    transfer(two, 55, sender="bob", recipient="ada")
    assert wallet(two, "ada")["expiring"] == [{"at": FIRST, "points": 20}, {"at": SECOND, "points": 25}]
    assert available(two) == (145, 0)


def test_what_is_held_cannot_be_given_away_case_3_27(two: httpx.Client) -> None:
    two.post("/v1/holds", json={"member": {"external_id": "ada"}, "points": 60})
    answer = transfer(two, 41)
    assert (answer.status_code, answer.json()["code"], answer.json()["missing_points"]) == (
        409,
        "insufficient_points",
        1,
    )
    assert available(two) == (40, 0)


def test_nobody_gives_to_oneself(two: httpx.Client) -> None:
    assert transfer(two, 1, recipient="ada").json()["code"] == "same_member"
    body = {"sender": {"external_id": "bob"}, "recipient": {"card": "b"}, "points": 1}
    answer = two.post("/v1/transfers", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "same_member")


def test_the_policy_of_the_wallet_decides(two: httpx.Client) -> None:
    give(two, "ada", 10, wallet="stamps")
    answer = transfer(two, 1, wallet="stamps")
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet_not_transferable")
    assert transfer(two, 1, wallet="nuts").json()["errors"][0]["code"] == "unknown_wallet"


def test_what_does_not_fit_in_is_not_sent(api: httpx.Client) -> None:
    set_policies(api, {"points": {"transferable": True, "max_balance": 120}})
    give(api, "ada", 100)
    give(api, "bob", 90)
    answer = transfer(api, 31)
    assert (answer.status_code, answer.json()["code"], answer.json()["room"]) == (409, "balance_limit", 30)
    assert available(api) == (100, 90)
    assert transfer(api, 30).status_code == 201


def test_blocked_members_neither_give_nor_get(two: httpx.Client) -> None:
    for name, status in (("ada", "spending_blocked"), ("bob", "earning_blocked")):
        two.patch(f"/v1/members/ext:{name}", json={"status": status})
        answer = transfer(two, 1)
        assert (answer.status_code, answer.json()["code"]) == (409, "member_blocked")
        two.patch(f"/v1/members/ext:{name}", json={"status": "active"})
    assert transfer(two, 1, recipient="nobody").status_code == 404
    assert transfer(two, 1, sender="nobody").status_code == 404
    assert available(two) == (100, 0)


def test_the_same_key_gives_once(two: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: transfer(two, 100, "k"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["transfer"]["id"] for answer in answers}) == 1
    assert transfer(two, 99, "k").json()["code"] == "idempotency_conflict"
    assert available(two) == (0, 100)


def test_exactly_what_there_is_goes_whatever_the_crowd_case_3_3(two: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: transfer(two, 30, secrets.token_hex(8)), range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 13
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"insufficient_points"}
    assert available(two) == (10, 90)


def test_to_and_fro_at_once_keeps_the_sum(two: httpx.Client) -> None:
    give(two, "bob", 100)

    def swap(number: int) -> httpx.Response:
        sender, recipient = ("ada", "bob") if number % 2 else ("bob", "ada")
        return transfer(two, 10, secrets.token_hex(8), sender=sender, recipient=recipient)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(swap, range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert available(two) == (100, 100)
