"""Rewards over HTTP: what a member can afford, buying, cancelling, stock and limits."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from loyalty.infra.http.model import format_instant
from tests.servers import wait_until

Json = dict[str, Any]
WALLETS = {"points": {}, "stamps": {}, "status": {"spendable": False}}


@pytest.fixture
def ada(api: httpx.Client) -> httpx.Client:
    """A program with three wallets, and a member who has 100 points."""
    set_policies(api, wallets=WALLETS)
    enrol(api, "ada", 100)
    return api


def set_policies(client: httpx.Client, **policies: Any) -> None:
    (program,) = client.get("/v1/programs").json()["data"]
    answer = client.patch(
        f"/v1/programs/{program['id']}", json={"policies": policies}, headers={"If-Match": f'"v{program["version"]}"'}
    )
    assert answer.status_code == 200, answer.text


def enrol(client: httpx.Client, name: str, points: int, **fields: Any) -> None:
    client.post("/v1/members", json={"external_id": name})
    body = {"member": {"external_id": name}, "points": points, "reason": "for the test", **fields}
    assert client.post("/v1/adjustments", json=body).status_code == 201


def offer(client: httpx.Client, cost: int = 30, **fields: Any) -> str:
    answer = client.post("/v1/rewards", json={"name": "Coffee", "cost": cost, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def redeem(client: httpx.Client, reward: str, key: str | None = None, member: str = "ada") -> httpx.Response:
    headers = {"Idempotency-Key": key or secrets.token_hex(8)}
    return client.post("/v1/redemptions", json={"member": {"external_id": member}, "reward": reward}, headers=headers)


def cancel(client: httpx.Client, redemption: str, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"/v1/redemptions/{redemption}/cancel", headers=headers)


def wallet(client: httpx.Client, name: str = "points", member: str = "ada") -> Json:
    found: Json = client.get(f"/v1/members/ext:{member}/balance").json()["wallets"][name]
    return found


def stock(client: httpx.Client, reward: str) -> Json:
    found: Json = client.get(f"/v1/rewards/{reward}/stock").json()
    return found


def offers(client: httpx.Client, member: str = "ada") -> dict[str, Json]:
    answer = client.get(f"/v1/members/ext:{member}/rewards")
    assert answer.status_code == 200, answer.text
    return {offered["reward"]["id"]: offered for offered in answer.json()["data"]}


def crowd(work: list[Any], do: Any) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(do, work))


def codes(answers: list[httpx.Response]) -> dict[str, int]:
    """How often each code came; `done` for what was done."""
    names = [answer.json().get("code", "done") for answer in answers]
    return {name: names.count(name) for name in set(names)}


# -- buying -----------------------------------------------------------------------------------------------------------


def test_exactly_as_many_redemptions_succeed_as_the_balance_pays_case_3_3(ada: httpx.Client) -> None:
    reward = offer(ada, cost=7)
    answers = crowd(list(range(40)), lambda _: redeem(ada, reward))
    assert codes(answers) == {"done": 100 // 7, "insufficient_points": 40 - 100 // 7}
    assert wallet(ada)["available"] == 100 % 7
    assert wallet(ada)["lifetime"]["spent"] == 100 - 100 % 7


def test_check_and_deduction_look_at_the_same_wallet_case_3_31(ada: httpx.Client) -> None:
    reward = offer(ada, cost=10, wallet="stamps")
    short = redeem(ada, reward)
    assert (short.status_code, short.json()["code"], short.json()["missing_points"]) == (409, "insufficient_points", 10)
    enrol(ada, "ada", 25, wallet="stamps")
    answers = crowd(list(range(8)), lambda _: redeem(ada, reward))
    assert codes(answers) == {"done": 2, "insufficient_points": 6}
    assert (wallet(ada)["available"], wallet(ada, "stamps")["available"]) == (100, 5)
    bought = next(answer.json() for answer in answers if answer.status_code == 201)
    assert bought["reward"]["wallet"] == "stamps"


def test_a_reward_of_a_wallet_that_is_not_spendable_cannot_be_bought(ada: httpx.Client) -> None:
    enrol(ada, "ada", 50, wallet="status")
    reward = offer(ada, wallet="status")
    answer = redeem(ada, reward)
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet_not_spendable")
    unknown = ada.post("/v1/rewards", json={"name": "Coffee", "cost": 1, "wallet": "nuts"})
    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (422, "unknown_wallet")


def test_what_was_bought_can_be_read(ada: httpx.Client) -> None:
    bought = redeem(ada, offer(ada)).json()
    found = ada.get(f"/v1/redemptions/{bought['entry']['id']}").json()
    assert (found["status"], found["reward"], found["cancelled_at"]) == ("redeemed", bought["reward"], None)
    entries = ada.get("/v1/members/ext:ada/entries").json()["data"]
    no_redemption = [entry["id"] for entry in entries if entry["kind"] == "adjust"]
    for name in (*no_redemption, "ent_0000000000001", "nonsense"):
        assert ada.get(f"/v1/redemptions/{name}").json()["code"] == "not_found"
        assert cancel(ada, name).json()["code"] == "not_found"


def test_a_lost_answer_is_told_again_even_when_the_reward_is_gone(ada: httpx.Client) -> None:
    reward = offer(ada)
    first = redeem(ada, reward, "k")
    ada.patch(f"/v1/rewards/{reward}", json={"available": False}, headers={"If-Match": "*"})
    again = redeem(ada, reward, "k")
    assert (again.status_code, again.json()) == (200, {**first.json(), "replayed": True})


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancellation_gives_the_points_back_once_case_3_28(ada: httpx.Client) -> None:
    bought = redeem(ada, offer(ada)).json()["entry"]["id"]
    answer = cancel(ada, bought, "c")
    assert answer.status_code == 201, answer.text
    again = cancel(ada, bought, "c")
    assert (again.status_code, again.json()) == (200, {**answer.json(), "replayed": True})
    second = cancel(ada, bought)
    assert (second.status_code, second.json()["code"]) == (409, "already_cancelled")
    assert second.json()["cancelled_by"] == answer.json()["entry"]["id"]
    found = ada.get(f"/v1/redemptions/{bought}").json()
    assert (found["status"], found["cancelled_by"]) == ("cancelled", answer.json()["entry"]["id"])
    assert wallet(ada)["available"] == 100
    assert (wallet(ada)["lifetime"]["spent"], wallet(ada)["lifetime"]["restored"]) == (30, 30)
    assert cancel(ada, redeem(ada, offer(ada)).json()["entry"]["id"], "c").json()["code"] == "idempotency_conflict"


def test_a_crowd_cancels_once_case_3_28(ada: httpx.Client) -> None:
    bought = redeem(ada, offer(ada, stock=9)).json()["entry"]["id"]
    answers = crowd(list(range(20)), lambda _: cancel(ada, bought, secrets.token_hex(8)))
    assert codes(answers) == {"done": 1, "already_cancelled": 19}
    assert wallet(ada)["available"] == 100


def test_what_comes_back_expires_when_it_would_have_case_3_5(api: httpx.Client) -> None:
    first, second = "2041-01-01T00:00:00.000Z", "2042-01-01T00:00:00.000Z"
    enrol(api, "ada", 20)
    enrol(api, "ada", 20, expires_at=second)
    enrol(api, "ada", 20, expires_at=first)
    before = wallet(api)["expiring"]
    assert before == [{"at": first, "points": 20}, {"at": second, "points": 20}]
    bought = redeem(api, offer(api, cost=50)).json()["entry"]["id"]
    assert wallet(api)["expiring"] == []
    cancel(api, bought)
    assert wallet(api)["expiring"] == before
    assert wallet(api)["available"] == 60


@pytest.mark.parametrize(("grace_days", "back"), [(0, 0), (30, 60)])
def test_what_expired_meanwhile_goes_by_the_policy_case_3_5(api: httpx.Client, grace_days: int, back: int) -> None:
    set_policies(api, wallets={"points": {"restore_grace_days": grace_days}})
    enrol(api, "ada", 100, expires_at=format_instant(datetime.now(timezone.utc) + timedelta(seconds=1.5)))
    bought = redeem(api, offer(api, cost=60)).json()["entry"]["id"]
    wait_until(lambda: wallet(api)["available"] == 0, timeout_s=10, failure=lambda: "the points did not expire")
    cancelled = cancel(api, bought)
    assert cancelled.status_code == 201, cancelled.text
    assert wallet(api)["available"] == back
    assert wallet(api)["lifetime"]["expired"] == 100 - back


def test_a_balance_tier_falls_in_the_entry_that_pays_case_3_14(ada: httpx.Client) -> None:
    levels = [{"id": "base", "name": "Base", "threshold": 0}, {"id": "gold", "name": "Gold", "threshold": 100}]
    scheme = {"basis": {"type": "balance", "wallet": "points"}, "levels": levels}
    assert ada.post("/v1/tiers/versions", json=scheme).status_code == 201
    bought = redeem(ada, offer(ada)).json()["entry"]["id"]
    cancelled = cancel(ada, bought).json()["entry"]["id"]
    history = ada.get("/v1/members/ext:ada/tier/history").json()["data"]
    assert [(change["entry"], change["from"], change["to"]) for change in history] == [
        (cancelled, "base", "gold"),
        (bought, "gold", "base"),
        (bought, "base", "gold"),
    ]


# -- stock and limits -------------------------------------------------------------------------------------------------


def test_a_stock_is_never_oversold_case_3_29(api: httpx.Client) -> None:
    names = [f"m{number}" for number in range(6)]
    for name in names:
        enrol(api, name, 1000)
    reward = offer(api, cost=1, stock=10)
    answers = crowd(names * 6, lambda name: redeem(api, reward, member=name))
    assert codes(answers) == {"done": 10, "out_of_stock": 26}
    assert stock(api, reward) == {"stock": 10, "taken": 10, "remaining": 0}
    assert sum(wallet(api, member=name)["available"] for name in names) == 6000 - 10


def test_stock_and_points_move_together_case_3_29(ada: httpx.Client) -> None:
    reward = offer(ada, cost=60, stock=5)
    answers = crowd(list(range(12)), lambda _: redeem(ada, reward))
    assert codes(answers) == {"done": 1, "insufficient_points": 11}
    assert stock(ada, reward)["taken"] == 1
    bought = next(answer.json()["entry"]["id"] for answer in answers if answer.status_code == 201)
    cancel(ada, bought)
    cancel(ada, bought)
    assert stock(ada, reward) == {"stock": 5, "taken": 0, "remaining": 5}


def test_the_same_key_takes_one_of_the_stock_case_3_1(ada: httpx.Client) -> None:
    reward = offer(ada, cost=100, stock=1)
    answers = crowd(list(range(12)), lambda _: redeem(ada, reward, "k"))
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]
    assert len({answer.json()["entry"]["id"] for answer in answers}) == 1
    assert stock(ada, reward)["remaining"] == 0
    assert redeem(ada, offer(ada), "k").json()["code"] == "idempotency_conflict"


def test_more_stock_lets_the_next_one_in(ada: httpx.Client) -> None:
    reward = offer(ada, cost=1, stock=1)
    assert redeem(ada, reward).status_code == 201
    tag = ada.get(f"/v1/rewards/{reward}").headers["ETag"]
    assert ada.patch(f"/v1/rewards/{reward}", json={"stock": 2}, headers={"If-Match": tag}).json()["stock"] == 2
    assert [redeem(ada, reward).status_code for _ in range(2)] == [201, 409]
    ada.patch(f"/v1/rewards/{reward}", json={"stock": None}, headers={"If-Match": "*"})
    assert redeem(ada, reward).status_code == 201
    assert stock(ada, reward)["remaining"] is None


def test_a_member_has_its_share_and_no_more_whatever_the_crowd(ada: httpx.Client) -> None:
    reward = offer(ada, cost=1, limit_per_member=3)
    answers = crowd(list(range(16)), lambda _: redeem(ada, reward))
    assert codes(answers) == {"done": 3, "limit_reached": 13}
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["limit_per_member"] == 3
    bought = next(answer.json()["entry"]["id"] for answer in answers if answer.status_code == 201)
    assert cancel(ada, bought).status_code == 201
    assert [redeem(ada, reward).status_code for _ in range(2)] == [201, 409]
    enrol(ada, "eve", 5)
    assert redeem(ada, reward, member="eve").status_code == 201


# -- what a member can afford -----------------------------------------------------------------------------------------


def test_each_reward_says_what_is_in_the_way(ada: httpx.Client) -> None:
    cheap, dear, off = offer(ada, cost=100), offer(ada, cost=130), offer(ada, available=False)
    sold, once = offer(ada, cost=1, stock=1), offer(ada, cost=1, limit_per_member=1)
    stamps, status = offer(ada, cost=5, wallet="stamps"), offer(ada, cost=5, wallet="status")
    assert offers(ada)[cheap]["affordable"]
    assert (offers(ada)[sold]["remaining"], offers(ada)[once]["remaining_for_member"]) == (1, 1)
    redeem(ada, sold)
    redeem(ada, once)
    found = offers(ada)
    assert {name: offered["reasons"] for name, offered in found.items()} == {
        cheap: ["insufficient_points"],
        dear: ["insufficient_points"],
        off: ["not_available"],
        sold: ["out_of_stock"],
        once: ["limit_reached"],
        stamps: ["insufficient_points"],
        status: ["insufficient_points", "wallet_not_spendable"],
    }
    assert (found[cheap]["missing_points"], found[dear]["missing_points"], found[stamps]["missing_points"]) == (
        2,
        32,
        5,
    )
    assert not any(offered["affordable"] for offered in found.values())
    ada.patch("/v1/members/ext:ada", json={"status": "blocked"})
    assert offers(ada)[off]["reasons"] == ["not_available", "member_blocked"]


def test_what_is_said_is_what_happens(ada: httpx.Client) -> None:
    for fields in ({"cost": 100}, {"cost": 101}, {"available": False}, {"stock": 0}, {"wallet": "status"}):
        offer(ada, **fields)
    for name, offered in offers(ada).items():
        answer = redeem(ada, name)
        assert (answer.status_code == 201) == offered["affordable"]
        if answer.status_code == 201:
            cancel(ada, answer.json()["entry"]["id"])


def test_offers_are_paged(ada: httpx.Client) -> None:
    names = [offer(ada) for _ in range(5)]
    page = ada.get("/v1/members/ext:ada/rewards", params={"limit": 2}).json()
    seen = [offered["reward"]["id"] for offered in page["data"]]
    while page["next_cursor"]:
        page = ada.get("/v1/members/ext:ada/rewards", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        seen += [offered["reward"]["id"] for offered in page["data"]]
    assert seen == names
    assert ada.get("/v1/members/ext:nobody/rewards").status_code == 404
