"""/v1/rules: versions, drafts, four eyes, differences, and what the rules of a program make of its events."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.test_conventions import defects, problem
from tests.servers import Application

Json = dict[str, Any]

BASE: Json = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}
RULES: Json = {"rules": [BASE]}
FULL_BASE: Json = {**BASE, "wallet": "points", "rounding": "floor", "minimum": "0"}


def publish(api: httpx.Client, rules: Json, *, after: int = 0) -> Json:
    headers = {"If-Match": f'"v{after}"'} if after else {}
    answer = api.post("/v1/rules/versions", json=rules, headers=headers)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def save(api: httpx.Client, rules: Json) -> Json:
    answer = api.post("/v1/rules/drafts", json=rules)
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"v1"'), answer.text
    assert api.get(answer.headers["Location"]).json() == answer.json()
    return dict(answer.json())


def act(api: httpx.Client, draft: Json, what: str) -> httpx.Response:
    return api.post(f"/v1/rules/drafts/{draft['id']}/{what}", headers={"If-Match": f'"v{draft["version"]}"'})


def buy(api: httpx.Client, number: str, amount: str, **more: Any) -> Json:
    event = {
        "source": "till", "id": number, "type": "purchase", "member": {"external_id": "1"},
        "occurred_at": "2026-03-04T12:00:00Z", "amount": amount, "currency": "USD", **more,
    }  # by hand: a line holds what belongs together  # fmt: skip
    answer = api.post("/v1/events", json=event)
    assert answer.is_success, answer.text
    return dict(answer.json())


@pytest.fixture
def colleague(api: httpx.Client, application: Application) -> Any:
    """A second key of the program."""
    made = api.post("/v1/keys", json={"name": "colleague", "scopes": ["rules:read", "rules:write", "rules:publish"]})
    headers = {"Authorization": f"Bearer {made.json()['secret']}"}
    with httpx.Client(base_url=application.url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def four_eyes(api: httpx.Client) -> None:
    (program,) = api.get("/v1/programs").json()["data"]
    changed = api.patch(
        f"/v1/programs/{program['id']}",
        json={"policies": {**program["policies"], "rules_four_eyes": True}},
        headers={"If-Match": f'"v{program["version"]}"'},
    )
    assert changed.is_success, changed.text


class TestVersions:
    def test_they_follow_each_other(self, api: httpx.Client) -> None:
        problem(api.get("/v1/rules/current"), 404, "not_found")
        problem(api.post("/v1/rules/versions", json=RULES, headers={"If-Match": '"v1"'}), 412, "precondition_failed")
        first = api.post("/v1/rules/versions", json=RULES)
        assert (first.status_code, first.headers["ETag"]) == (201, '"v1"')
        problem(api.post("/v1/rules/versions", json=RULES), 428, "precondition_required")
        second = api.post("/v1/rules/versions", json=RULES, headers={"If-Match": '"v1"'})
        problem(api.post("/v1/rules/versions", json=RULES, headers={"If-Match": '"v1"'}), 412, "precondition_failed")
        assert api.get("/v1/rules/current").json() == second.json()
        assert api.get(first.headers["Location"]).json() == first.json()
        assert [version["version"] for version in api.get("/v1/rules/versions").json()["data"]] == [2, 1]
        page = api.get("/v1/rules/versions?limit=1").json()
        rest = api.get("/v1/rules/versions", params={"limit": 1, "cursor": page["next_cursor"]}).json()
        assert (page["data"], rest["data"], rest["next_cursor"]) == ([second.json()], [first.json()], None)
        for number in ("0", "3", "99999999999999999999"):
            problem(api.get(f"/v1/rules/versions/{number}"), 404, "not_found")

    def test_a_simple_version_looks_as_it_always_did(self, api: httpx.Client) -> None:
        version = publish(api, RULES)
        assert version.keys() == {"version", "rules", "published_at", "published_by"}
        assert version["rules"] == [FULL_BASE]

    def test_what_was_current_at_an_instant(self, api: httpx.Client) -> None:
        first = publish(api, RULES)
        second = publish(api, RULES, after=1)
        for version in (first, second):
            assert api.get("/v1/rules/current", params={"at": version["published_at"]}).json() == version
        problem(api.get("/v1/rules/current", params={"at": "2020-01-01T00:00:00Z"}), 404, "not_found")

    def test_an_older_one_comes_back_as_a_new_one(self, api: httpx.Client) -> None:
        first = publish(api, RULES)
        publish(api, {"rules": [{**BASE, "points": 9}], "note": "Too generous"}, after=1)
        path = "/v1/rules/versions/1/republish"
        problem(api.post(path, json={}), 428, "precondition_required")
        problem(api.post(path, json={}, headers={"If-Match": '"v1"'}), 412, "precondition_failed")
        answer = api.post(path, json={"note": "Back again"}, headers={"If-Match": '"v2"'})
        assert answer.status_code == 201
        again = answer.json()
        assert (again["version"], again["rules"], again["note"], again["republishes"]) == (
            3, first["rules"], "Back again", 1,
        )  # by hand: a line holds what belongs together  # fmt: skip
        assert buy(api, "1", "10.00")["explanation"]["rules_version"] == 3
        problem(api.post("/v1/rules/versions/9/republish", json={}, headers={"If-Match": '"v3"'}), 404, "not_found")

    def test_case_3_12_what_was_awarded_keeps_its_version(self, api: httpx.Client) -> None:
        """Case 3.12: the entry names the version that decided, which can be read for ever; new rules change nothing."""
        publish(api, RULES)
        before = buy(api, "1", "10.00")
        publish(api, {"rules": [{**BASE, "points": 5}]}, after=1)
        entry = before["entries"][0]["id"]
        explained = api.get(f"/v1/entries/{entry}/explanation").json()
        assert explained["rules_version"] == 1
        assert [line["points"] for line in explained["lines"]] == [10]
        assert api.get("/v1/rules/versions/1").json()["rules"] == [FULL_BASE]
        assert buy(api, "1", "10.00")["explanation"] == before["explanation"]

    def test_conditions_are_kept_as_trees_and_shown_as_texts(self, api: httpx.Client) -> None:
        text = 'event.amount>=50.00 and any line where category in ("music","books")'
        version = publish(api, {"rules": [{**BASE, "when": text}]})
        (rule,) = version["rules"]
        assert rule["when"] == {
            "all": [
                {"field": "event.amount", "op": ">=", "value": "50.00"},
                {
                    "lines": "any",
                    "where": {"field": "category", "op": "in", "value": ["music", "books"]},
                    "at_least": 1,
                },
            ]
        }
        canonical = 'event.amount >= 50.00 and any line where category in ("music", "books")'
        assert version["texts"] == {"/rules/0/when": canonical}
        again = publish(api, {"rules": [{**BASE, "when": rule["when"]}]}, after=1)
        assert (again["rules"], again["texts"]) == (version["rules"], version["texts"])


class TestDefects:
    def test_of_the_form(self, api: httpx.Client) -> None:
        rules = [
            {"type": "points_per_spend", "id": "a", "points": 1.5, "per": 1, "rounding": "up"},
            {"type": "points_per_visit", "id": "B"},
            {"type": "points_per_dream", "id": "c"},
        ]
        assert defects(api.post("/v1/rules/versions", json={"rules": rules})) == {
            "/rules/0/points": "wrong_type",
            "/rules/0/per": "wrong_type",
            "/rules/0/rounding": "invalid_value",
            "/rules/1/id": "invalid_value",
            "/rules/1/points": "missing",
            "/rules/2": "invalid_value",
        }

    def test_of_the_meaning(self, api: httpx.Client) -> None:
        rules = [
            {**BASE, "per": "0.001"},
            {**BASE, "per": "0"},
            {**BASE, "id": "a", "wallet": "stars", "campaign": "sprnig"},
            {**BASE, "id": "b", "starts_at": "2026-02-01T00:00:00Z", "ends_at": "2026-02-01T00:00:00Z"},
            {"type": "fixed", "id": "c", "points": 5},
            {"type": "multiplier", "id": "d", "factor": "2", "applies_to": ["base", "bsae"], "group": "g"},
            {**BASE, "id": "e", "group": "g", "when": {"field": "event.amonut", "op": ">", "value": "1"}},
            {**BASE, "id": "f", "when": "counters.points.pionts.month < 100"},
        ]
        campaigns = [{"id": "spring", "budget": {"amount": "1000.00"}}]
        body = {"rules": rules, "campaigns": campaigns, "groups": {"h": "first"}}
        answer = api.post("/v1/rules/versions", json=body)
        assert defects(answer) == {
            "/rules/0/per": "invalid_value",
            "/rules/1/id": "duplicate",
            "/rules/1/per": "invalid_value",
            "/rules/2/wallet": "unknown_wallet",
            "/rules/2/campaign": "unknown_campaign",
            "/rules/3/ends_at": "invalid_value",
            "/rules/4/when": "missing",
            "/rules/5/applies_to/1": "unknown_rule",
            "/rules/6/group": "mixed_group",
            "/rules/6/when/field": "unknown_field",
            "/rules/7/when/field": "unknown_wallet",
            "/groups/h": "unknown_group",
            "/campaigns/0/budget/amount": "no_worth",
        }
        details = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
        assert 'Perhaps you mean "spring"' in details["/rules/2/campaign"]
        assert 'Perhaps you mean "base"' in details["/rules/5/applies_to/1"]
        assert 'Perhaps you mean "event.amount"' in details["/rules/6/when/field"]
        assert 'Perhaps you mean "points"' in details["/rules/7/when/field"]

    def test_a_level_that_the_program_does_not_have(self, api: httpx.Client) -> None:
        conditions = ['member.tier = "gld"', 'member.tier not in ("gold", "sliver") or event.store = "gld"']
        body = {"rules": [{**BASE, "id": f"r{number}", "when": when} for number, when in enumerate(conditions)]}
        assert api.post("/v1/rules/validate", json=body).json()["valid"]  # nobody knows what levels there will be
        levels = [{"id": name, "name": name, "threshold": at} for name, at in (("silver", "0"), ("gold", "100.00"))]
        tiers = {"basis": {"type": "spend"}, "window": {"type": "rolling", "months": 12}, "levels": levels}
        assert api.post("/v1/tiers/versions", json=tiers).status_code == 201
        for path in ("/v1/rules/drafts", "/v1/rules/versions"):
            answer = api.post(path, json=body)
            assert defects(answer) == {
                "/rules/0/when/value": "unknown_level",
                "/rules/1/when/any/0/value/1": "unknown_level",
            }
            told = [error["detail"] for error in answer.json()["errors"]]
            assert told == [
                "The program has no level 'gld'. Perhaps you mean \"gold\".",
                "The program has no level 'sliver'. Perhaps you mean \"silver\".",
            ]
        assert not api.post("/v1/rules/validate", json=body).json()["valid"]
        starts = {"rules": [{**BASE, "when": 'member.tier > "g" and member.tier exists'}]}
        assert api.post("/v1/rules/drafts", json=starts).status_code == 201

    def test_a_text_says_where_and_what_was_meant(self, api: httpx.Client) -> None:
        body = {"rules": [{**BASE, "when": 'event.store = "main"\nand event.amuont >= 5'}]}
        answer = api.post("/v1/rules/drafts", json=body)
        assert defects(answer) == {"/rules/0/when": "invalid_value"}
        detail = answer.json()["errors"][0]["detail"]
        assert "Line 2, column 5" in detail
        assert 'Perhaps you mean "event.amount"' in detail

    def test_validation_finds_everything_at_once_and_saves_nothing(self, api: httpx.Client) -> None:
        rules = [{**BASE, "points": 0}, {**BASE, "id": "b", "per": "0.001", "when": "event.amount >= 5"}]
        answer = api.post("/v1/rules/validate", json={"rules": rules, "stacking": "pile"})
        assert answer.status_code == 200
        told = answer.json()
        assert told["valid"] is False
        assert {error["pointer"] for error in told["errors"]} == {
            "/rules/0/points", "/rules/1/per", "/stacking",
        }  # by hand: a line holds what belongs together  # fmt: skip
        good = api.post("/v1/rules/validate", json={"rules": [{**BASE, "when": "event.amount>=5"}]}).json()
        assert good == {"valid": True, "errors": [], "texts": {"/rules/0/when": "event.amount >= 5"}}
        problem(
            api.post("/v1/rules/validate", content=b"{", headers={"Content-Type": "application/json"}),
            400,
            "malformed_json",
        )
        assert api.get("/v1/rules/drafts").json()["data"] == []


class TestDrafts:
    def test_from_the_first_idea_to_a_version(self, api: httpx.Client) -> None:
        draft = save(api, {**RULES, "note": "First"})
        assert (draft["rules"], draft["note"], draft["based_on"], draft["approvals"]) == ([FULL_BASE], "First", 0, [])
        path = f"/v1/rules/drafts/{draft['id']}"
        problem(api.put(path, json=RULES), 428, "precondition_required")
        changed = api.put(path, json={"rules": [{**BASE, "points": 2}]}, headers={"If-Match": '"v1"'})
        assert (changed.status_code, changed.headers["ETag"]) == (200, '"v2"')
        assert "note" not in changed.json()
        problem(api.put(path, json=RULES, headers={"If-Match": '"v1"'}), 412, "precondition_failed")
        problem(api.get("/v1/rules/current"), 404, "not_found")
        problem(act(api, draft, "publish"), 412, "precondition_failed")
        published = act(api, changed.json(), "publish")
        assert published.status_code == 201
        assert published.headers["Location"] == "/v1/rules/versions/1"
        version = published.json()
        assert (version["version"], version["rules"][0]["points"]) == (1, 2)
        assert version["authors"] == changed.json()["authors"] == [version["published_by"]]
        assert api.get("/v1/rules/current").json() == version
        problem(api.get(path), 404, "not_found")

    def test_every_part_of_it_is_replaced(self, api: httpx.Client) -> None:
        rich = {
            "rules": [{**BASE, "group": "g", "campaign": "c"}],
            "campaigns": [{"id": "c"}], "stacking": "best", "groups": {"g": "first"},
        }  # by hand: a line holds what belongs together  # fmt: skip
        draft = save(api, rich)
        assert {"campaigns", "stacking", "groups"} <= draft.keys()
        path = f"/v1/rules/drafts/{draft['id']}"
        changed = api.put(path, json=RULES, headers={"If-Match": '"v1"'}).json()
        assert not {"campaigns", "stacking", "groups"} & changed.keys()

    def test_lists_and_removal(self, api: httpx.Client) -> None:
        made = [save(api, RULES) for _ in range(3)]
        assert api.get("/v1/rules/drafts").json()["data"] == made[::-1]
        page = api.get("/v1/rules/drafts?limit=2").json()
        rest = api.get("/v1/rules/drafts", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert (page["data"], rest["data"]) == (made[:0:-1], made[:1])
        path = f"/v1/rules/drafts/{made[0]['id']}"
        problem(api.delete(path), 428, "precondition_required")
        problem(api.delete(path, headers={"If-Match": '"v7"'}), 412, "precondition_failed")
        assert api.delete(path, headers={"If-Match": '"v1"'}).json() == made[0]
        problem(api.delete(path, headers={"If-Match": '"v1"'}), 404, "not_found")

    def test_one_that_was_overtaken_is_looked_at_again(self, api: httpx.Client) -> None:
        draft = save(api, RULES)
        publish(api, RULES)
        problem(act(api, draft, "publish"), 409, "draft_outdated")
        saved = api.put(f"/v1/rules/drafts/{draft['id']}", json=RULES, headers={"If-Match": '"v1"'}).json()
        assert saved["based_on"] == 1
        assert act(api, saved, "publish").status_code == 201

    def test_the_scope_to_write_is_not_that_to_publish(self, api: httpx.Client, application: Application) -> None:
        made = api.post("/v1/keys", json={"name": "writer", "scopes": ["rules:read", "rules:write"]}).json()
        headers = {"Authorization": f"Bearer {made['secret']}"}
        with httpx.Client(base_url=application.url, headers=headers, timeout=30) as writer:
            draft = save(writer, RULES)
            for what in ("approve", "publish"):
                assert problem(act(writer, draft, what), 403, "forbidden")["scope"] == "rules:publish"
        assert act(api, draft, "publish").status_code == 201

    def test_those_of_another_program_are_not_there(self, api: httpx.Client) -> None:
        draft = save(api, RULES)
        (program,) = api.get("/v1/programs").json()["data"]
        other = {"id": f"o-{program['id'][5:]}", "name": "Other", "currency": "USD"}
        secret = api.post("/v1/programs", json=other).json()["key"]["secret"]
        with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as stranger:
            path = f"/v1/rules/drafts/{draft['id']}"
            problem(stranger.get(path), 404, "not_found")
            problem(stranger.delete(path, headers={"If-Match": '"v1"'}), 404, "not_found")
            for what in ("approve", "publish"):
                problem(act(stranger, draft, what), 404, "not_found")


@pytest.mark.usefixtures("four_eyes")
class TestFourEyes:
    def test_nobody_publishes_alone(self, api: httpx.Client) -> None:
        told = problem(api.post("/v1/rules/versions", json=RULES), 409, "approval_required")
        assert "POST /v1/rules/drafts" in told["detail"]
        draft = save(api, RULES)
        told = problem(act(api, draft, "publish"), 409, "approval_required")
        assert f"/v1/rules/drafts/{draft['id']}/approve" in told["detail"]
        problem(act(api, draft, "approve"), 409, "own_draft")
        problem(api.get("/v1/rules/current"), 404, "not_found")

    def test_with_the_approval_of_another_key(self, api: httpx.Client, colleague: httpx.Client) -> None:
        draft = save(api, RULES)
        approved = act(colleague, draft, "approve").json()
        assert [approval["key"] for approval in approved["approvals"]] != draft["authors"]
        version = act(api, approved, "publish").json()
        assert version["approved_by"] == [approval["key"] for approval in approved["approvals"]]
        assert version["authors"] == draft["authors"]
        republished = api.post("/v1/rules/versions/1/republish", json={}, headers={"If-Match": '"v1"'})
        problem(republished, 409, "approval_required")

    def test_a_change_takes_the_approval_back(self, api: httpx.Client, colleague: httpx.Client) -> None:
        draft = save(api, RULES)
        act(colleague, draft, "approve")
        path = f"/v1/rules/drafts/{draft['id']}"
        changed = api.put(path, json={"rules": [{**BASE, "points": 900}]}, headers={"If-Match": '"v1"'}).json()
        assert changed["approvals"] == []
        problem(act(api, changed, "publish"), 409, "approval_required")
        problem(act(colleague, draft, "approve"), 412, "precondition_failed")  # what it read is no more

    def test_whoever_changed_it_is_an_author_too(self, api: httpx.Client, colleague: httpx.Client) -> None:
        draft = save(api, RULES)
        path = f"/v1/rules/drafts/{draft['id']}"
        changed = colleague.put(path, json={"rules": [{**BASE, "points": 9}]}, headers={"If-Match": '"v1"'}).json()
        for client in (api, colleague):
            problem(act(client, changed, "approve"), 409, "own_draft")

    def test_a_rotated_key_is_the_same_client(self, api: httpx.Client, application: Application) -> None:
        made = api.post("/v1/keys", json={"name": "w", "scopes": ["rules:write", "rules:read", "rules:publish"]}).json()
        with httpx.Client(
            base_url=application.url, headers={"Authorization": f"Bearer {made['secret']}"}, timeout=30
        ) as writer:  # by hand: a line holds what belongs together  # fmt: skip
            draft = save(writer, RULES)
        successor = api.post(f"/v1/keys/{made['id']}/rotate", json={}).json()
        with httpx.Client(
            base_url=application.url, headers={"Authorization": f"Bearer {successor['secret']}"}, timeout=30
        ) as writer:  # by hand: a line holds what belongs together  # fmt: skip
            problem(act(writer, draft, "approve"), 409, "own_draft")


class TestDifferences:
    def test_field_by_field(self, api: httpx.Client) -> None:
        publish(api, {"rules": [BASE, {**BASE, "id": "old"}], "campaigns": [{"id": "c"}]})
        after = {
            "rules": [
                {**BASE, "points": 2, "caps": {"per_day": 50}, "when": "event.amount >= 5.00"},
                {**BASE, "id": "new"},
            ],
            "campaigns": [{"id": "c", "name": "C"}],
            "stacking": "best",
        }
        publish(api, after, after=1)
        told = api.get("/v1/rules/versions/1/diff/2").json()
        assert told == {
            "rules": {
                "added": [{**FULL_BASE, "id": "new"}],
                "removed": [{**FULL_BASE, "id": "old"}],
                "changed": [
                    {
                        "id": "base",
                        "fields": [
                            {"field": "/caps", "before": None, "after": {"per_day": 50}},
                            {"field": "/points", "before": 1, "after": 2},
                            {"field": "/when", "before": None, "after": "event.amount >= 5.00"},
                        ],
                    }
                ],
            },
            "campaigns": {
                "added": [],
                "removed": [],
                "changed": [
                    {"id": "c", "fields": [{"field": "/name", "before": None, "after": "C"}]},
                ],
            },
            "segments": {"added": [], "removed": [], "changed": []},
            "settings": [{"field": "/stacking", "before": None, "after": "best"}],
        }
        back = api.get("/v1/rules/versions/2/diff/1").json()
        assert (back["rules"]["added"], back["rules"]["removed"]) == (told["rules"]["removed"], told["rules"]["added"])
        same: Json = {"added": [], "removed": [], "changed": []}
        assert api.get("/v1/rules/versions/2/diff/2").json() == {
            **dict.fromkeys(("rules", "campaigns", "segments"), same),
            "settings": [],
        }
        problem(api.get("/v1/rules/versions/2/diff/3"), 404, "not_found")

    def test_of_a_draft(self, api: httpx.Client) -> None:
        first = save(api, RULES)
        assert api.get(f"/v1/rules/drafts/{first['id']}/diff").json()["rules"]["added"] == [FULL_BASE]
        publish(api, RULES)
        draft = save(api, {"rules": [{**BASE, "points": 3}]})
        (changed,) = api.get(f"/v1/rules/drafts/{draft['id']}/diff").json()["rules"]["changed"]
        assert changed == {"id": "base", "fields": [{"field": "/points", "before": 1, "after": 3}]}


class TestAwards:
    def test_rules_of_every_kind_decide_together(self, api: httpx.Client) -> None:
        rules = [
            {**BASE, "basis": {"exclude": 'category = "tobacco"'}},
            {"type": "points_per_item", "id": "coffee", "points": 5, "where": 'category = "coffee"'},
            {
                "type": "multiplier",
                "id": "wednesday",
                "factor": "2",
                "when": "time.weekday = wed",
                "applies_to": ["base"],
            },
            {"type": "fixed", "id": "big", "points": 50, "when": "event.amount >= 100.00"},
        ]
        publish(api, {"rules": rules})
        items = [
            {"line_id": "1", "category": "coffee", "quantity": 2, "amount": "8.00"},
            {"line_id": "2", "category": "tobacco", "amount": "10.00"},
        ]
        told = buy(api, "1", "18.00", items=items)
        lines = {line["rule"]: line["points"] for line in told["explanation"]["lines"]}
        assert lines == {"base": 8, "coffee": 10, "wednesday": 8}
        assert told["balances"]["points"]["available"] == 26

    def test_case_3_24_a_replay_does_not_consume_its_cap(self, api: httpx.Client) -> None:
        """Case 3.24: the same event again is the same entry; its cap was used once."""
        publish(api, {"rules": [{**BASE, "caps": {"per_day": 15}}]})
        first = buy(api, "1", "10.00")
        assert buy(api, "1", "10.00") == {**first, "replayed": True}
        second = buy(api, "2", "10.00")
        (line,) = second["explanation"]["lines"]
        assert (line["points"], line["reason"], line["wanted"]) == (5, "cap_per_day", 10)
        assert buy(api, "3", "10.00")["balances"]["points"]["available"] == 15
