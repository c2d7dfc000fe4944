"""Adjustments over HTTP: by one person, and by two."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

Json = dict[str, Any]
ADA = {"external_id": "ada"}


@pytest.fixture
def clerk(api: httpx.Client) -> httpx.Client:
    """A key of a program in which adjustments of more than 100 points need a second one."""
    (program,) = api.get("/v1/programs").json()["data"]
    policies = {"wallets": {"points": {}, "stamps": {}}, "adjustment_approval_above": 100}
    answer = api.patch(
        f"/v1/programs/{program['id']}", json={"policies": policies}, headers={"If-Match": f'"v{program["version"]}"'}
    )
    assert answer.status_code == 200, answer.text
    assert api.post("/v1/members", json=ADA).status_code == 201
    return api


@pytest.fixture
def chief(clerk: httpx.Client) -> Iterator[httpx.Client]:
    """The other key."""
    scopes = ["adjustments:approve", "adjustments:read", "adjustments:write"]
    yield from another(clerk, scopes)


def another(client: httpx.Client, scopes: list[str]) -> Iterator[httpx.Client]:
    made = client.post("/v1/keys", json={"name": "another", "scopes": scopes}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    with httpx.Client(base_url=client.base_url, headers=headers, timeout=30) as other:
        yield other


def adjust(client: httpx.Client, points: int, key: str | None = None, **fields: Any) -> httpx.Response:
    body = {"member": ADA, "points": points, "reason": "for the test", **fields}
    return client.post("/v1/adjustments", json=body, headers={"Idempotency-Key": key} if key else {})


def approve(client: httpx.Client, adjustment: str, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"/v1/adjustments/{adjustment}/approve", headers=headers)


def reject(client: httpx.Client, adjustment: str, **fields: Any) -> httpx.Response:
    return client.post(f"/v1/adjustments/{adjustment}/reject", json=fields)


def ask(client: httpx.Client, points: int = 500, **fields: Any) -> str:
    answer = adjust(client, points, **fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["adjustment"]["id"])


def available(client: httpx.Client, wallet: str = "points") -> int:
    found = client.get("/v1/members/ext:ada/balance").json()["wallets"]
    return int(found[wallet]["available"]) if wallet in found else 0


def entries(client: httpx.Client) -> int:
    return len(client.get("/v1/members/ext:ada/entries").json()["data"])


# -- by one -----------------------------------------------------------------------------------------------------------


def test_a_small_adjustment_happens_at_once(clerk: httpx.Client) -> None:
    answer = adjust(clerk, 100)
    assert (answer.status_code, answer.json()["adjustment"], answer.json()["replayed"]) == (201, None, False)
    assert adjust(clerk, -100).status_code == 201
    assert available(clerk) == 0
    assert clerk.get("/v1/adjustments").json()["data"] == []


def test_points_enter_the_wallet_that_is_named(clerk: httpx.Client) -> None:
    assert adjust(clerk, 7, wallet="stamps").json()["balances"]["stamps"]["available"] == 7
    assert (available(clerk), available(clerk, "stamps")) == (0, 7)
    assert adjust(clerk, -8, wallet="stamps").json()["missing_points"] == 1
    answer = adjust(clerk, 7, wallet="nuts")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/wallet")


def test_points_that_are_given_can_expire(clerk: httpx.Client) -> None:
    adjust(clerk, 7, expires_at="2040-01-01T01:00:00+01:00")
    adjust(clerk, 5)
    found = clerk.get("/v1/members/ext:ada/balance").json()["wallets"]["points"]
    assert found["expiring"] == [{"at": "2040-01-01T00:00:00.000Z", "points": 7}]
    assert found["available"] == 12
    for points, at in ((5, "2001-01-01T00:00:00Z"), (-5, "2040-01-01T00:00:00Z")):
        assert adjust(clerk, points, expires_at=at).json()["errors"][0]["pointer"] == "/expires_at"
    assert available(clerk) == 12


# -- by two -----------------------------------------------------------------------------------------------------------


def test_a_large_one_waits_for_another_key(clerk: httpx.Client, chief: httpx.Client) -> None:
    answer = adjust(clerk, 500, reason="A jubilee", expires_at="2040-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()["entry"], answer.json()["balances"]) == (202, None, None)
    asked = answer.json()["adjustment"]
    assert (asked["status"], asked["points"], asked["decided_by"], asked["entry"]) == ("pending", 500, None, None)
    assert clerk.get(answer.headers["Location"]).json() == asked
    assert (available(clerk), entries(clerk)) == (0, 0)
    approved = approve(chief, asked["id"])
    assert approved.status_code == 201, approved.text
    after = approved.json()["adjustment"]
    assert (after["status"], after["entry"]) == ("approved", approved.json()["entry"]["id"])
    assert after["decided_by"] != after["requested_by"]
    assert clerk.get(f"/v1/adjustments/{asked['id']}").json() == after
    detail = clerk.get(f"/v1/entries/{after['entry']}/explanation").json()["detail"]
    assert (detail["by"], detail["approved_by"]) == (after["requested_by"], after["decided_by"])
    assert (detail["adjustment"], detail["reason"]) == (asked["id"], "A jubilee")
    wallet = clerk.get("/v1/members/ext:ada/balance").json()["wallets"]["points"]
    assert wallet["expiring"] == [{"at": "2040-01-01T00:00:00.000Z", "points": 500}]


def test_nobody_approves_a_request_of_its_own(clerk: httpx.Client) -> None:
    asked = ask(clerk)
    answer = approve(clerk, asked)
    assert (answer.status_code, answer.json()["code"]) == (409, "own_request")
    assert available(clerk) == 0


def test_the_successor_of_a_key_is_the_same_person(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = ask(chief)
    requested_by = clerk.get(f"/v1/adjustments/{asked}").json()["requested_by"]
    key, heir = requested_by, {}
    for _ in range(2):
        heir = clerk.post(f"/v1/keys/{key}/rotate", json={}).json()
        key = heir["id"]
    headers = {"Authorization": f"Bearer {heir['secret']}"}
    answer = clerk.post(f"/v1/adjustments/{asked}/approve", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "own_request")


def test_twenty_approvals_are_one_entry(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = ask(clerk)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: approve(chief, asked, secrets.token_hex(8)), range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {(problem["code"], problem["decision"]) for problem in refused} == {("already_decided", "approved")}
    (entry,) = {problem["entry"] for problem in refused}
    assert entry == clerk.get(f"/v1/adjustments/{asked}").json()["entry"]
    assert (available(clerk), entries(clerk)) == (500, 1)


def test_the_same_key_approves_once_and_is_told_again_case_3_1(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = ask(clerk)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: approve(chief, asked, "k"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["entry"]["id"] for answer in answers}) == 1
    assert available(clerk) == 500
    assert approve(chief, ask(clerk), "k").json()["code"] == "idempotency_conflict"


def test_approve_and_reject_exclude_each_other(clerk: httpx.Client, chief: httpx.Client) -> None:
    for _ in range(5):
        before = available(clerk)
        asked = ask(clerk)

        def race(approves: bool, asked: str = asked) -> httpx.Response:
            return approve(chief, asked, secrets.token_hex(8)) if approves else reject(chief, asked)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(race, [True, False] * 4))
        done = [answer.json() for answer in answers if answer.is_success]
        assert len(done) == 1
        decision = clerk.get(f"/v1/adjustments/{asked}").json()["status"]
        assert {answer.json()["decision"] for answer in answers if not answer.is_success} == {decision}
        assert available(clerk) == before + (500 if decision == "approved" else 0)


def test_a_rejected_one_never_happens(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = ask(clerk)
    answer = reject(chief, asked, reason="Was refunded already")
    assert (answer.status_code, answer.json()["status"]) == (200, "rejected")
    assert (answer.json()["rejection"], answer.json()["entry"]) == ("Was refunded already", None)
    for again in (approve(chief, asked), reject(chief, asked)):
        assert (again.status_code, again.json()["code"], again.json()["decision"]) == (
            409,
            "already_decided",
            "rejected",
        )
    assert reject(clerk, ask(clerk)).status_code == 200, "who asked may take it back"
    assert (available(clerk), entries(clerk)) == (0, 0)


def test_taking_more_than_there_is_can_be_approved_later(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = ask(clerk, -150)
    adjust(clerk, 100)
    answer = approve(chief, asked)
    assert (answer.status_code, answer.json()["code"], answer.json()["missing_points"]) == (
        409,
        "insufficient_points",
        50,
    )
    assert clerk.get(f"/v1/adjustments/{asked}").json()["status"] == "pending"
    adjust(clerk, 100)
    assert approve(chief, asked).status_code == 201
    assert available(clerk) == 50


def test_the_same_key_asks_once_case_3_1(clerk: httpx.Client, chief: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: adjust(clerk, 500, "k"), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (asked,) = {answer.json()["adjustment"]["id"] for answer in answers}
    assert [answer.json()["replayed"] for answer in answers].count(False) == 1
    assert adjust(clerk, 501, "k").json()["code"] == "idempotency_conflict"
    assert adjust(clerk, 5, "k").json()["code"] == "idempotency_conflict"
    approve(chief, asked)
    again = adjust(clerk, 500, "k")
    assert (again.status_code, again.json()["adjustment"]["status"]) == (202, "approved")
    adjust(clerk, 7, "direct")
    assert adjust(clerk, 500, "direct").json()["code"] == "idempotency_conflict"
    assert available(clerk) == 507


def test_requests_are_listed_newest_first(clerk: httpx.Client, chief: httpx.Client) -> None:
    asked = [ask(clerk, 101 + number) for number in range(5)]
    reject(chief, asked[0])
    approve(chief, asked[1])
    page = chief.get("/v1/adjustments", params={"limit": 2}).json()
    seen = [request["id"] for request in page["data"]]
    while page["next_cursor"]:
        page = chief.get("/v1/adjustments", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        seen += [request["id"] for request in page["data"]]
    assert seen == asked[::-1]
    for status, wanted in (("pending", asked[:1:-1]), ("rejected", asked[:1]), ("approved", asked[1:2])):
        found = chief.get("/v1/adjustments", params={"status": status}).json()["data"]
        assert [request["id"] for request in found] == wanted


def test_what_does_not_exist_is_not_found(clerk: httpx.Client, chief: httpx.Client) -> None:
    unknown = "adj_" + "0" * 26
    assert clerk.get(f"/v1/adjustments/{unknown}").status_code == 404
    assert approve(chief, unknown).status_code == 404
    assert reject(chief, unknown).status_code == 404
    assert adjust(clerk, 500, member={"external_id": "nobody"}).status_code == 404
    for client in another(clerk, ["adjustments:write"]):
        assert approve(client, ask(clerk)).json()["code"] == "forbidden"
