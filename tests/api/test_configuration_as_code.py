"""A program as a document: read, compared, applied, and carried to another program, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from loyalty.configuration.text import read
from tests.servers import Application, Mongod, new_program

YAML = {"Content-Type": "application/yaml"}
DOCUMENT = """
format: 1
program:
  name: Bakery
  currency: USD
  timezone: Europe/Berlin
  policies:
    wallets:
      points:
        pending: {type: period, days: 14}
        expiry: {type: rolling, months: 12, round_up_to: month}
      status: {spendable: false}
rules:
  rules:
    - {id: base, type: points_per_spend, points: 1, per: "1.00"}
    - {id: weekend, type: multiplier, factor: "2", when: 'time.weekday in (sat, sun)'}
    - {id: status, type: points_per_spend, wallet: status, points: 1, per: "1.00"}
tiers:
  basis: {type: earned, wallet: status}
  window: {type: calendar, unit: year}
  levels:
    - {id: basic, name: Basic, threshold: 0}
    - {id: gold, name: Gold, threshold: 500, earn_multiplier: "1.5"}
rewards:
  - {name: Coffee, cost: 100}
"""


@pytest.fixture
def other(application: Application, mongod: Mongod) -> Iterator[httpx.Client]:
    """A client of another program."""
    headers = {"Authorization": f"Bearer {new_program(mongod.uri, 'application')}"}
    with httpx.Client(base_url=application.url, headers=headers, timeout=30) as client:
        yield client


def apply(api: httpx.Client, document: str, tag: str = "*") -> Any:
    answer = api.put("/v1/configuration", content=document, headers={**YAML, "If-Match": tag})
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_yaml(api: httpx.Client) -> str:
    return api.get("/v1/configuration", headers={"Accept": "application/yaml"}).raise_for_status().text


def test_a_document_makes_a_program_and_again_changes_nothing(api: httpx.Client) -> None:
    assert apply(api, DOCUMENT)["parts"] == ["program", "rules", "tiers", "rewards"]
    assert apply(api, DOCUMENT) == {"parts": [], "differences": []}
    assert api.get("/v1/rules/current").json()["version"] == 1
    assert [level["id"] for level in api.get("/v1/tiers/current").json()["levels"]] == ["basic", "gold"]


def test_a_plan_says_what_would_change_and_changes_nothing(api: httpx.Client) -> None:
    apply(api, DOCUMENT)
    before = as_yaml(api)
    wanted = DOCUMENT.replace('factor: "2"', 'factor: "3"').replace("cost: 100", "cost: 120")
    plan = api.post("/v1/configuration/plan", content=wanted, headers=YAML).json()
    assert plan["differences"] == [
        {"path": "/rules/rules/[weekend]/factor", "change": "changed", "before": "2", "after": "3"},
        {"path": "/rewards/[Coffee]/cost", "change": "changed", "before": 100, "after": 120},
    ]
    assert as_yaml(api) == before


def test_what_one_program_says_makes_another_one_alike(api: httpx.Client, other: httpx.Client) -> None:
    apply(api, DOCUMENT)
    apply(other, as_yaml(api))
    assert as_yaml(other) == as_yaml(api)
    assert read(as_yaml(other))["rules"]["rules"][1]["when"] == "time.weekday in (sat, sun)"


def test_json_is_the_same_document(api: httpx.Client, other: httpx.Client) -> None:
    apply(api, DOCUMENT)
    document = api.get("/v1/configuration").json()
    answer = other.put("/v1/configuration", json=document, headers={"If-Match": "*"})
    assert answer.status_code == 200, answer.text
    assert as_yaml(other) == as_yaml(api)


def test_everything_that_is_wrong_is_said_at_once_and_nothing_happens(api: httpx.Client) -> None:
    wrong = (
        DOCUMENT.replace("currency: USD", "currency: EUR")
        .replace("wallet: status, points", "wallet: nowhere, points")
        .replace("earned, wallet: status", "earned, wallet: nothing")
        .replace("cost: 100", "cost: 100, wallet: none_such")
    )
    answer = api.put("/v1/configuration", content=wrong, headers={**YAML, "If-Match": "*"})
    assert answer.status_code == 422
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert pointers == ["/program/currency", "/rules/rules/2/wallet", "/tiers/basis/wallet", "/rewards/0/wallet"]
    assert api.get("/v1/rules/current").status_code == 404


def test_a_typing_error_in_a_condition_is_refused_with_its_place(api: httpx.Client) -> None:
    wrong = DOCUMENT.replace("time.weekday", "time.wekday")
    answer = api.post("/v1/configuration/plan", content=wrong, headers=YAML)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/rules/rules/1/when"
    assert "time.weekday" in error["detail"]


def test_rules_may_name_the_levels_that_the_document_brings_and_no_others(api: httpx.Client) -> None:
    named = DOCUMENT.replace("time.weekday in (sat, sun)", 'member.tier = "gold"')
    wrong = api.post("/v1/configuration/plan", content=named.replace('= "gold"', '= "gld"'), headers=YAML)
    assert [error["code"] for error in wrong.json()["errors"]] == ["unknown_level"]
    apply(api, named)
    only_rules = "format: 1\nrules:\n  rules:\n    - {id: b, type: fixed, points: 1, when: 'member.tier = \"gld\"'}\n"
    wrong = api.post("/v1/configuration/plan", content=only_rules, headers=YAML)
    assert [error["code"] for error in wrong.json()["errors"]] == ["unknown_level"]


@pytest.mark.parametrize("body", ["a: &x 1\nb: *x", "a: [", "a: 1\na: 2"])
def test_what_is_no_document_is_refused(api: httpx.Client, body: str) -> None:
    answer = api.post("/v1/configuration/plan", content=body, headers=YAML)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_yaml")


def test_a_lost_race_is_noticed(api: httpx.Client) -> None:
    tag = api.get("/v1/configuration").headers["ETag"]
    apply(api, DOCUMENT, tag)
    answer = api.put("/v1/configuration", content=DOCUMENT, headers={**YAML, "If-Match": tag})
    assert answer.status_code == 412
    assert api.put("/v1/configuration", content=DOCUMENT, headers=YAML).status_code == 428


def test_a_reward_that_is_not_named_is_taken_off_the_offer_and_parts_that_are_absent_stay(api: httpx.Client) -> None:
    apply(api, DOCUMENT)
    only_rewards = "format: 1\nrewards:\n  - {name: Tea, cost: 80}\n"
    assert apply(api, only_rewards)["parts"] == ["rewards"]
    assert apply(api, only_rewards)["parts"] == []
    offered = {reward["name"]: reward["available"] for reward in api.get("/v1/rewards").json()["data"]}
    assert offered == {"Coffee": False, "Tea": True}
    assert api.get("/v1/rules/current").json()["version"] == 1


def test_rules_that_need_two_people_are_not_changed_by_one(api: httpx.Client) -> None:
    careful = DOCUMENT.replace("  policies:\n", "  policies:\n    rules_four_eyes: true\n")
    assert apply(api, careful)["parts"] == ["program", "rules", "tiers", "rewards"]
    wanted = careful.replace('factor: "2"', 'factor: "3"').replace("cost: 100", "cost: 120")
    refused = api.put("/v1/configuration", content=wanted, headers={**YAML, "If-Match": "*"})
    assert (refused.status_code, refused.json()["code"]) == (409, "approval_required")
    assert api.get("/v1/rewards").json()["data"][0]["cost"] == 100
    assert apply(api, careful.replace("cost: 100", "cost: 120"))["parts"] == ["rewards"]
