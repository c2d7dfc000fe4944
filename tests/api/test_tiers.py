"""/v1/tiers, /v1/members/{m}/tier: schemes, standings, locks, history."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.test_conventions import defects, problem

Json = dict[str, Any]

BALANCE: Json = {
    "basis": {"type": "balance", "wallet": "points"},
    "levels": [
        {"id": "base", "name": "Member", "threshold": 0},
        {"id": "silver", "name": "Silver", "threshold": 100, "earn_multiplier": "1.25"},
        {"id": "gold", "name": "Gold", "threshold": 500, "earn_multiplier": "1.500"},
    ],
    "downgrade": {"to": "full", "grace_days": 0},
}
SPEND: Json = {
    "basis": {"type": "spend"},
    "window": {"type": "calendar", "unit": "year"},
    "levels": [
        {"id": "base", "name": "Member", "threshold": "0"},
        {"id": "gold", "name": "Gold", "threshold": "500.00", "earn_multiplier": "2"},
    ],
}


@pytest.fixture
def member(api: httpx.Client) -> str:
    made = api.post("/v1/members", json={"external_id": "anna"})
    assert made.status_code == 201
    return str(made.json()["id"])


def publish(api: httpx.Client, scheme: Json, *, over: int | None = None) -> httpx.Response:
    headers = {"If-Match": f'"v{over}"'} if over else {}
    return api.post("/v1/tiers/versions", json=scheme, headers=headers)


def give(api: httpx.Client, points: int) -> None:
    body = {"member": {"external_id": "anna"}, "points": points, "reason": "for a test"}
    assert api.post("/v1/adjustments", json=body).status_code == 201


class TestSchemes:
    def test_versions_follow_each_other(self, api: httpx.Client) -> None:
        problem(api.get("/v1/tiers/current"), 404, "not_found")
        problem(publish(api, SPEND, over=1), 412, "precondition_failed")
        first = publish(api, SPEND)
        assert (first.status_code, first.headers["ETag"]) == (201, '"v1"')
        assert first.json()["downgrade"] == {"to": "one_level", "grace_days": 0}
        problem(publish(api, SPEND), 428, "precondition_required")
        second = publish(api, BALANCE, over=1)
        problem(publish(api, BALANCE, over=1), 412, "precondition_failed")
        assert api.get("/v1/tiers/current").json() == second.json()
        assert api.get(first.headers["Location"]).json() == first.json()
        page = api.get("/v1/tiers/versions?limit=1").json()
        rest = api.get("/v1/tiers/versions", params={"limit": 1, "cursor": page["next_cursor"]}).json()
        assert (page["data"], rest["data"], rest["next_cursor"]) == ([second.json()], [first.json()], None)
        for number in ("0", "3", "99999999999999999999"):
            problem(api.get(f"/v1/tiers/versions/{number}"), 404, "not_found")

    def test_the_form_is_checked_at_once(self, api: httpx.Client) -> None:
        scheme = {
            "basis": {"type": "likes"},
            "window": {"type": "rolling", "days": 5, "months": 1},
            "levels": [{"id": "B", "name": "", "threshold": 1.5, "earn_multiplier": "x"}],
            "downgrade": {"to": "half", "grace_days": -1},
        }
        found = set(defects(publish(api, scheme)))
        assert {"/basis", "/window", "/levels/0/id", "/levels/0/name", "/levels/0/earn_multiplier"} <= found
        assert {"/downgrade/to", "/downgrade/grace_days"} <= found
        assert any(pointer.startswith("/levels/0/threshold") for pointer in found)

    def test_the_sense_is_checked_at_once(self, api: httpx.Client) -> None:
        levels = [
            {"id": "base", "name": "A", "threshold": 5},
            {"id": "base", "name": "B", "threshold": 4, "earn_multiplier": "0.000"},
            {"id": "gold", "name": "C", "threshold": "10.00"},
        ]
        found = defects(publish(api, {"basis": {"type": "earned", "wallet": "stars"}, "levels": levels}))
        assert set(found) == {
            "/basis/wallet",
            "/window",
            "/levels/0/threshold",
            "/levels/1/id",
            "/levels/1/earn_multiplier",
            "/levels/1/threshold",
            "/levels/2/threshold",
        }
        amounts = [{**SPEND["levels"][0], "threshold": 0}, {**SPEND["levels"][1], "threshold": "1.005"}]
        found = defects(publish(api, {**SPEND, "levels": amounts}))
        assert set(found) == {"/levels/0/threshold", "/levels/1/threshold"}
        found = defects(publish(api, {**BALANCE, "window": {"type": "lifetime"}}))
        assert set(found) == {"/window"}

    def test_large_thresholds_are_read_again(self, api: httpx.Client) -> None:
        levels = [BALANCE["levels"][0], {"id": "gold", "name": "Gold", "threshold": 1 << 50}]
        made = publish(api, {**BALANCE, "levels": levels}).json()
        assert api.get("/v1/tiers/current").json() == made


class TestStanding:
    def test_without_tiers(self, api: httpx.Client, member: str) -> None:
        problem(api.get(f"/v1/members/{member}/tier"), 404, "not_found")
        lock = {"level": "gold", "reason": "a founder"}
        problem(api.put(f"/v1/members/{member}/tier/lock", json=lock), 409, "tiers_not_published")
        assert api.get(f"/v1/members/{member}/tier/history").json() == {"data": [], "next_cursor": None}

    def test_of_a_new_member(self, api: httpx.Client, member: str) -> None:
        publish(api, SPEND)
        answer = api.get("/v1/members/ext:anna/tier").json()
        assert answer["member"] == member
        assert answer["tier"] == {"id": "base", "name": "Member", "earn_multiplier": "1.000"}
        assert (answer["value"], answer["to_stay"], answer["version"]) == ("0.00", "0.00", 1)
        assert answer["to_next"] == {"level": "gold", "missing": "500.00"}
        assert (answer["projected"], answer["drop_at"], answer["locked"]) == ({"level": "base"}, None, False)
        problem(api.get("/v1/members/ext:bernd/tier"), 404, "not_found")
        before = {"at": "2020-01-01T00:00:00Z"}
        problem(api.get("/v1/members/ext:anna/tier", params=before), 404, "not_found")

    def test_of_a_balance(self, api: httpx.Client, member: str) -> None:
        """Case 3.14: a balance makes the level, so spending lowers it."""
        publish(api, BALANCE)
        give(api, 600)
        gold = api.get(f"/v1/members/{member}/tier").json()
        assert (gold["tier"]["id"], gold["value"], gold["to_next"]) == ("gold", 600, None)
        give(api, -350)
        silver = api.get(f"/v1/members/{member}/tier").json()
        assert (silver["tier"]["id"], silver["value"]) == ("silver", 250)
        assert silver["to_next"] == {"level": "gold", "missing": 250}
        then = api.get(f"/v1/members/{member}/tier", params={"at": gold["as_of"]}).json()
        assert then == gold


class TestLock:
    def test_a_lock_holds_until_it_is_released(self, api: httpx.Client, member: str) -> None:
        publish(api, SPEND)
        path = f"/v1/members/{member}/tier/lock"
        locked = api.put(path, json={"level": "gold", "reason": "a founder"}, headers={"Idempotency-Key": "k1"})
        assert locked.status_code == 200
        answer = locked.json()
        assert (answer["tier"]["tier"]["id"], answer["tier"]["locked"], answer["replayed"]) == ("gold", True, False)
        again = api.put(path, json={"level": "gold", "reason": "a founder"}, headers={"Idempotency-Key": "k1"})
        assert again.json() == {**answer, "replayed": True}
        assert again.headers["Idempotent-Replayed"] == "true"
        other = api.put(path, json={"level": "base", "reason": "a founder"}, headers={"Idempotency-Key": "k1"})
        problem(other, 409, "idempotency_conflict")
        entry = api.get(f"/v1/entries/{answer['entry']}").json()
        assert (entry["kind"], entry["postings"]) == ("tier", [])
        explained = api.get(f"/v1/entries/{answer['entry']}/explanation").json()["detail"]
        assert (explained["reason"], explained["lock"]) == ("a founder", "gold")
        assert explained["by"].startswith("key_")
        released = api.delete(path, params={"reason": "sold the shop"}, headers={"Idempotency-Key": "k2"}).json()
        assert (released["tier"]["tier"]["id"], released["tier"]["locked"]) == ("gold", False)
        assert released["tier"]["drop_at"] is not None
        assert released["tier"]["projected"] == {"level": "base"}
        assert released["tier"]["to_stay"] == "500.00"

    def test_bad_locks(self, api: httpx.Client, member: str) -> None:
        publish(api, SPEND)
        path = f"/v1/members/{member}/tier/lock"
        assert set(defects(api.put(path, json={"level": "brass", "reason": "a founder"}))) == {"/level"}
        assert set(defects(api.put(path, json={"level": "Gold!", "reason": "x"}))) == {"/level", "/reason"}
        assert api.delete(path).status_code == 422
        problem(api.delete("/v1/members/ext:bernd/tier/lock", params={"reason": "no reason"}), 404, "not_found")

    def test_the_history_is_in_the_ledger(self, api: httpx.Client, member: str) -> None:
        publish(api, SPEND)
        path = f"/v1/members/{member}/tier"
        entries = []
        for level in ("gold", "base", "gold"):
            entries.append(api.put(f"{path}/lock", json={"level": level, "reason": "to and fro"}).json()["entry"])
        history = api.get(f"{path}/history").json()["data"]
        assert [(change["from"], change["to"]) for change in history] == [
            ("base", "gold"),
            ("gold", "base"),
            ("base", "gold"),
        ]
        assert [change["entry"] for change in history] == entries[::-1]
        assert {(change["reason"], change["value"]) for change in history} == {("locked", "0.00")}
        page = api.get(f"{path}/history?limit=2").json()
        rest = api.get(f"{path}/history", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert page["data"] + rest["data"] == history
        assert rest["next_cursor"] is None
