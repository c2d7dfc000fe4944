"""Segments: what rules ask of a member, and who that is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from loyalty.configuration.text import read

BASE = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}
BONUS = {"type": "fixed", "id": "bonus", "points": 50, "events": ["purchase"]}
BERLINERS = {"id": "berliners", "name": "From Berlin", "when": 'member.attributes.city = "Berlin"'}
GERMANS = {"id": "germans", "when": 'member.language starts with "de" or member.attributes.city = "Berlin"'}
RULES = {
    "rules": [BASE, {**BONUS, "when": 'member.segments contains "berliners"'}],
    "segments": [BERLINERS, GERMANS],
}


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program with two segments, three members in them, and one who is in none."""
    assert api.post("/v1/rules/versions", json=RULES).status_code == 201
    for name, profile in {
        "ada": {"language": "de", "attributes": {"city": "Berlin"}},
        "bob": {"language": "de-CH"},
        "eva": {"attributes": {"city": "Berlin"}},
        "max": {"language": "en"},
    }.items():
        assert api.post("/v1/members", json={"external_id": name, "profile": profile}).status_code == 201
    return api


def buy(client: httpx.Client, member: str, number: str) -> dict[str, Any]:
    event = {"source": "till", "id": number, "type": "purchase", "amount": "10.00", "currency": "USD"}
    answer = client.post("/v1/events", json={**event, "member": {"external_id": member}})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def names(client: httpx.Client, segment: str, **query: Any) -> list[str]:
    answer = client.get(f"/v1/segments/{segment}/members", params=query)
    assert answer.status_code == 200, answer.text
    return [member["external_id"] for member in answer.json()["data"]]


def test_a_rule_asks_for_a_segment_and_the_list_shows_whom_it_means(shop: httpx.Client) -> None:
    assert buy(shop, "ada", "1")["balances"]["points"]["available"] == 60
    assert buy(shop, "max", "2")["balances"]["points"]["available"] == 10
    assert names(shop, "berliners") == ["ada", "eva"]
    told = shop.get("/v1/segments").json()
    assert told["rules_version"] == 1
    assert [(one["id"], one["name"], one["members"]) for one in told["data"]] == [
        ("berliners", "From Berlin", 2),
        ("germans", None, 3),
    ]
    assert told["data"][0]["condition"] == 'member.attributes.city = "Berlin"'


def test_whoever_fulfils_the_condition_is_in_it_from_then_on(shop: httpx.Client) -> None:
    assert buy(shop, "max", "1")["balances"]["points"]["available"] == 10
    changed = shop.patch("/v1/members/ext:max", json={"profile": {"attributes": {"city": "Berlin"}}})
    assert changed.status_code == 200
    assert buy(shop, "max", "2")["balances"]["points"]["available"] == 70
    assert names(shop, "berliners") == ["ada", "eva", "max"]


def test_members_are_paged_and_those_who_were_merged_are_not_there(shop: httpx.Client) -> None:
    first = shop.get("/v1/segments/germans/members", params={"limit": 2}).json()
    assert [member["external_id"] for member in first["data"]] == ["ada", "bob"]
    assert names(shop, "germans", limit=2, cursor=first["next_cursor"]) == ["eva"]
    assert shop.post("/v1/members/ext:ada/merge", json={"into": {"external_id": "eva"}}).status_code == 201
    assert [one["members"] for one in shop.get("/v1/segments").json()["data"]] == [1, 2]


def test_what_no_segment_can_be(api: httpx.Client) -> None:
    segments = [
        {**BERLINERS, "id": "a", "when": 'member.tier = "gold"'},
        {**BERLINERS, "id": "a", "when": 'member.segments contains "a"'},
        {**BERLINERS, "id": "b", "when": "event.amount > 5.00"},
    ]
    rules = [{**BONUS, "when": 'member.segments contains "berliner"'}]
    answer = api.post("/v1/rules/validate", json={"rules": rules, "segments": [*segments, BERLINERS]})
    found = {error["pointer"]: error for error in answer.json()["errors"]}
    assert set(found) == {"/segments/0/when", "/segments/1/when", "/segments/2/when"}
    assert "Ask for this in the condition of the rule" in found["/segments/0/when"]["detail"]
    trees = [{"id": "a", "when": {"field": "member.language", "op": "exists"}}, {**BERLINERS, "id": "a"}, BERLINERS]
    answer = api.post("/v1/rules/validate", json={"rules": rules, "segments": trees})
    found = {error["pointer"]: error for error in answer.json()["errors"]}
    assert {pointer: error["code"] for pointer, error in found.items()} == {
        "/segments/1/id": "duplicate",
        "/rules/0/when/value": "unknown_segment",
    }
    assert 'Perhaps you mean "berliners"' in found["/rules/0/when/value"]["detail"]
    assert api.get("/v1/segments").json() == {"rules_version": None, "data": []}
    assert api.get("/v1/segments/berliners/members").status_code == 404


def test_segments_are_compared_and_carried_with_the_rules(shop: httpx.Client) -> None:
    after = {**RULES, "segments": [{**BERLINERS, "when": 'member.attributes.city in ("Berlin", "Potsdam")'}]}
    draft = shop.post("/v1/rules/drafts", json=after).json()
    difference = shop.get(f"/v1/rules/drafts/{draft['id']}/diff").json()
    assert [one["id"] for one in difference["segments"]["removed"]] == ["germans"]
    (changed,) = difference["segments"]["changed"]
    assert changed["fields"] == [
        {
            "field": "/when",
            "before": 'member.attributes.city = "Berlin"',
            "after": 'member.attributes.city in ("Berlin", "Potsdam")',
        }
    ]
    exported = shop.get("/v1/configuration", headers={"Accept": "application/yaml"}).text
    assert read(exported)["rules"]["segments"] == [
        BERLINERS,
        {"id": "germans", "when": 'member.language starts with "de" or member.attributes.city = "Berlin"'},
    ]
