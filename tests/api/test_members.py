"""/v1/members"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.test_conventions import defects, problem

Json = dict[str, Any]

ADA: Json = {
    "external_id": "00001",
    "identities": [
        {"type": "card", "value": "4711-0815"},
        {"type": "phone", "value": "+49 (30) 123-4567"},
        {"type": "email", "value": "Ada@Example.org"},
    ],
    "profile": {"given_name": "Ada", "birthday": "1815-12-10", "attributes": {"vip": True, "visits": 3, "note": "x"}},
}


@pytest.fixture
def ada(api: httpx.Client) -> Json:
    answer = api.post("/v1/members", json=ADA)
    assert answer.status_code == 201, answer.text
    member: Json = answer.json()
    assert answer.headers["Location"] == f"/v1/members/{member['id']}"
    assert answer.headers["ETag"] == '"v1"'
    return member


def test_a_member_is_found_by_every_handle(api: httpx.Client, ada: Json) -> None:
    assert ada["external_id"] == "00001"
    assert ada["status"] == "active"
    assert ada["profile"]["attributes"] == {"vip": True, "visits": 3, "note": "x"}
    assert ada["identities"][1:] == [
        {"type": "phone", "value": "+49301234567"},
        {"type": "email", "value": "ada@example.org"},
    ]
    for reference in (
        ada["id"],
        "ext:00001",
        "ext%3A00001",
        "card:4711-0815",
        "phone:%2B49301234567",
        "phone:0049-30-1234567",
        "email:ADA@example.org",
    ):
        assert api.get(f"/v1/members/{reference}").json() == ada


@pytest.mark.parametrize("reference", ["ext:1", "00001", "mem_zzzzzzzz", "mem_1", "fax:1", "phone:12", "card:", "a b"])
def test_unknown_members(api: httpx.Client, ada: Json, reference: str) -> None:
    problem(api.get(f"/v1/members/{reference}"), 404, "not_found")
    problem(api.patch(f"/v1/members/{reference}", json={}), 404, "not_found")


@pytest.mark.parametrize("value", ["a/b", "ä ö", "100%", "a+b", "x?y#z", "a:b:c", "..", "%2F", "\u2215"])
def test_odd_characters(api: httpx.Client, value: str) -> None:
    made = api.post("/v1/members", json={"external_id": value})
    assert made.status_code == 201, made.text
    found = api.get(f"/v1/members/ext:{quote(value, safe='')}")
    if value == "\u2215":  # stands for an escaped slash on the way, and is the one character that cannot be in a path
        problem(found, 404, "not_found")
    else:
        assert found.json() == made.json()


def test_programs_do_not_see_each_other(api: httpx.Client, ada: Json) -> None:
    other = api.post("/v1/programs", json={"id": f"other-{ada['id'][4:]}", "name": "Other", "currency": "EUR"}).json()
    headers = {"Authorization": f"Bearer {other['key']['secret']}"}
    for reference in (ada["id"], "ext:00001"):
        problem(api.get(f"/v1/members/{reference}", headers=headers), 404, "not_found")
    assert api.post("/v1/members", json=ADA, headers=headers).status_code == 201


def test_identities_are_unique(api: httpx.Client, ada: Json) -> None:
    for body in ({"external_id": "00001"}, {"identities": [{"type": "email", "value": "ADA@EXAMPLE.ORG"}]}):
        taken = problem(api.post("/v1/members", json=body), 409, "identity_taken")
        assert taken["handle"] in ("ext:00001", "email:ada@example.org")


@pytest.mark.parametrize("value", ["", " ", " x", "x ", "a\nb", "a\u0000b", "x" * 201])
def test_external_ids_that_are_none(api: httpx.Client, value: str) -> None:
    assert set(defects(api.post("/v1/members", json={"external_id": value}))) == {"/external_id"}


def test_a_member_has_a_handle(api: httpx.Client) -> None:
    assert defects(api.post("/v1/members", json={"profile": {"given_name": "Ada"}})) == {"": "invalid_value"}
    twice = {"identities": [{"type": "email", "value": "a@b.cd"}, {"type": "email", "value": "A@b.cd"}]}
    assert defects(api.post("/v1/members", json=twice)) == {"": "invalid_value"}


def test_changes(api: httpx.Client, ada: Json) -> None:
    body = {
        "status": "spending_blocked",
        "profile": {"given_name": None, "language": "en", "attributes": {"vip": None, "visits": 4}},
    }
    changed = api.patch("/v1/members/ext:00001", json=body)
    assert changed.headers["ETag"] == '"v2"'
    assert changed.json()["status"] == "spending_blocked"
    assert changed.json()["profile"] == {
        **ada["profile"],
        "given_name": None,
        "language": "en",
        "attributes": {"visits": 4, "note": "x"},
    }
    assert api.get("/v1/members/ext:00001").json() == changed.json()
    assert defects(api.patch("/v1/members/ext:00001", json={"status": None})) == {"/status": "invalid_value"}


def test_changes_can_be_guarded(api: httpx.Client, ada: Json) -> None:
    guarded = {"If-Match": '"v1"'}
    assert api.patch("/v1/members/ext:00001", json={"status": "blocked"}, headers=guarded).status_code == 200
    again = api.patch("/v1/members/ext:00001", json={"status": "active"}, headers=guarded)
    problem(again, 412, "precondition_failed")
    problem(api.patch("/v1/members/ext:00001", json={}, headers={"If-Match": "v1"}), 400, "bad_request")


def test_attributes_do_not_grow_for_ever(api: httpx.Client, ada: Json) -> None:
    many = {"profile": {"attributes": {f"a{number}": number for number in range(50)}}}
    assert defects(api.patch("/v1/members/ext:00001", json=many)) == {"/profile/attributes": "too_long"}


def test_identities_come_and_go(api: httpx.Client, ada: Json) -> None:
    path = "/v1/members/ext:00001/identities"
    added = api.post(path, json={"type": "custom", "value": "badge/7"})
    assert added.status_code == 201
    assert api.post(path, json={"type": "custom", "value": "badge/7"}).status_code == 200
    assert api.get("/v1/members/custom:badge%2F7").json() == added.json()
    assert api.delete(f"{path}/custom:badge%2F7").json()["identities"] == ada["identities"]
    problem(api.get("/v1/members/custom:badge%2F7"), 404, "not_found")
    problem(api.delete(f"{path}/custom:badge%2F7"), 404, "not_found")
    problem(api.delete(f"{path}/ext:00001"), 404, "not_found")
    api.post("/v1/members", json={"external_id": "00002"})
    taken = api.post("/v1/members/ext:00002/identities", json={"type": "card", "value": "4711-0815"})
    assert problem(taken, 409, "identity_taken")["handle"] == "card:4711-0815"


def test_the_last_identity_stays(api: httpx.Client) -> None:
    api.post("/v1/members", json={"identities": [{"type": "card", "value": "1"}]})
    problem(api.delete("/v1/members/card:1/identities/card:1"), 409, "last_identity")


def test_pages_under_inserts(api: httpx.Client) -> None:
    for number in range(7):
        api.post("/v1/members", json={"external_id": f"old-{number}"})
    seen: list[str] = []
    page = api.get("/v1/members?limit=3").json()
    for round_ in range(10):
        seen += [member["external_id"] for member in page["data"]]
        api.post("/v1/members", json={"external_id": f"new-{round_}"})
        if page["next_cursor"] is None or len(seen) > 30:
            break
        answer = api.get("/v1/members", params={"limit": 3, "cursor": page["next_cursor"]})
        page = answer.json()
        if page["next_cursor"]:
            assert api.get(answer.links["next"]["url"]).status_code == 200
    assert len(seen) == len(set(seen))
    assert [name for name in seen if name.startswith("old")] == [f"old-{number}" for number in range(7)]


def test_a_cursor_opens_only_its_list(api: httpx.Client) -> None:
    for number in range(3):
        api.post("/v1/members", json={"external_id": f"{number}"})
    cursor = api.get("/v1/members?limit=1").json()["next_cursor"]
    for parameters in (
        {"cursor": cursor, "status": "active"},
        {"cursor": cursor[:-1]},
        {"cursor": "x"},
        {"cursor": "OTk5.AAAAAAAAAAAAAAAAAAAAAAAAAAA"},
    ):
        problem(api.get("/v1/members", params=parameters), 400, "invalid_cursor")
    problem(api.get("/v1/rules/versions", params={"cursor": cursor}), 400, "invalid_cursor")


def test_search(api: httpx.Client, ada: Json) -> None:
    api.post("/v1/members", json={"external_id": "00002", "status": "blocked"})
    api.post("/v1/members", json={"external_id": "x.y"})

    def found(**parameters: str) -> list[str]:
        return [member["external_id"] for member in api.get("/v1/members", params=parameters).json()["data"]]

    assert found(query="0000") == ["00001", "00002"]
    assert found(query="0000", status="blocked") == ["00002"]
    assert found(query="card:47") == ["00001"]
    assert found(query="email:ADA@") == ["00001"]
    assert found(query="x.") == ["x.y"]
    assert found(query=".*") == []


def test_one_handle_one_member_under_concurrency(api: httpx.Client) -> None:
    def enrol(number: int) -> int:
        return api.post("/v1/members", json={"external_id": f"{number % 4}"}).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(enrol, range(40)))
    assert sorted(statuses) == [201] * 4 + [409] * 36
    members = api.get("/v1/members").json()["data"]
    assert sorted(member["external_id"] for member in members) == ["0", "1", "2", "3"]
    assert len({member["id"] for member in members}) == 4
