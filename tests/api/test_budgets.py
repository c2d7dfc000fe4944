"""Budgets of campaigns, over HTTP: what they give to all members together is never more than they may."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

RULE = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "campaign": "spring"}
FREE = {"type": "points_per_spend", "id": "free", "points": 1, "per": "1.00", "wallet": "points"}


def publish(api: httpx.Client, budget: Mapping[str, Any], *more: Mapping[str, Any], tag: str | None = None) -> None:
    body = {"rules": [RULE, *more], "campaigns": [{"id": "spring", "budget": budget}]}
    headers = {"If-Match": tag} if tag else {}
    answer = api.post("/v1/rules/versions", json=body, headers=headers)
    assert answer.status_code == 201, answer.text


def purchase(number: int, amount: str = "100.00", member: int = 0) -> dict[str, Any]:
    return {
        "source": "till",
        "id": str(number),
        "type": "purchase",
        "member": {"external_id": str(member)},
        "amount": amount,
        "currency": "USD",
    }


def budget(api: httpx.Client) -> dict[str, Any]:
    (found,) = api.get("/v1/rules/budgets").raise_for_status().json()["data"]
    return dict(found)


def earned(api: httpx.Client, members: int) -> int:
    balances = [api.get(f"/v1/members/ext:{member}/balance").json() for member in range(members)]
    return sum(balance["wallets"]["points"]["lifetime"]["earned"] for balance in balances)


def test_a_crowd_gets_the_budget_to_the_point_and_no_more(api: httpx.Client) -> None:
    """Case 3.24, over all members: counting and awarding are one."""
    publish(api, {"points": 1050})

    def buy(number: int) -> int:
        while (answer := api.post("/v1/events", json=purchase(number, member=number % 7))).status_code == 503:
            pass  # the others were faster fifty times: a client sends it again
        assert answer.status_code == 201, answer.text
        return int(answer.json()["entries"][0]["points"].get("points", 0))

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(buy, range(24)))
    assert sorted(given, reverse=True) == [100] * 10 + [50] + [0] * 13
    assert earned(api, 7) == 1050
    assert budget(api) == {"campaign": "spring", "budget_points": 1050, "given_points": 1050, "left_points": 0}


def test_what_was_cut_is_explained_and_what_is_told_again_draws_nothing(api: httpx.Client) -> None:
    publish(api, {"points": 30})
    first = api.post("/v1/events", json=purchase(1, "40.00")).json()
    again = api.post("/v1/events", json=purchase(1, "40.00"))
    assert (again.status_code, again.json()["replayed"]) == (200, True)
    assert budget(api)["given_points"] == 30
    (line,) = first["explanation"]["lines"]
    assert (line["points"], line["reason"]) == (30, "budget")


def test_a_rehearsal_draws_nothing_and_says_what_recording_would(api: httpx.Client) -> None:
    publish(api, {"points": 30})
    rehearsed = api.post("/v1/events/dry-run", json=purchase(1, "20.00")).json()
    assert (rehearsed["balances"]["points"]["available"], budget(api)["given_points"]) == (20, 0)
    api.post("/v1/events", json=purchase(1, "20.00"))
    assert api.post("/v1/events/dry-run", json=purchase(2, "20.00")).json()["balances"]["points"]["available"] == 30


def test_an_event_that_draws_nothing_needs_no_budget(api: httpx.Client) -> None:
    rule = {**FREE, "type": "fixed", "id": "hello", "points": 5, "events": ["hello"]}
    rule.pop("per")
    publish(api, {"points": 10}, rule)
    event = {"source": "till", "id": "h", "type": "hello", "member": {"external_id": "0"}}
    assert api.post("/v1/events", json=event).json()["balances"]["points"]["available"] == 5
    assert budget(api)["given_points"] == 0


def test_a_batch_keeps_the_budget_line_by_line(api: httpx.Client) -> None:
    publish(api, {"points": 250})
    answer = api.post("/v1/events/batch", json=[purchase(number, member=number) for number in range(4)]).json()
    assert [line["points"] for line in answer["results"]] == [100, 100, 50, 0]
    assert budget(api)["left_points"] == 0


def test_a_refund_gives_nothing_back_to_the_budget_and_a_new_version_goes_on_counting(api: httpx.Client) -> None:
    publish(api, {"points": 100})
    api.post("/v1/events", json=purchase(1))
    refund = {"source": "till", "id": "r", "type": "refund", "refers_to": "1", "member": {"external_id": "0"}}
    assert api.post("/v1/events", json=refund).json()["balances"]["points"]["available"] == 0
    publish(api, {"points": 120}, tag='"v1"')
    assert api.post("/v1/events", json=purchase(2)).json()["balances"]["points"]["available"] == 20


def test_an_amount_of_money_limits_by_what_points_are_worth(api: httpx.Client) -> None:
    program = api.get("/v1/programs").json()["data"][0]
    policies = {**program["policies"], "points_payment": {"points": 100, "amount": "1.00"}}
    changed = api.patch(
        f"/v1/programs/{program['id']}", json={"policies": policies}, headers={"If-Match": f'"v{program["version"]}"'}
    )
    assert changed.status_code == 200, changed.text
    publish(api, {"amount": "0.50", "points": 1000})
    assert budget(api)["budget_points"] == 50
    assert api.post("/v1/events", json=purchase(1)).json()["balances"]["points"]["available"] == 50
