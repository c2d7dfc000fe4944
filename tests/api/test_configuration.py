"""/v1/programs, /v1/keys: what a program is set up with."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from tests.api.test_conventions import defects, problem
from tests.bounds import assert_within
from tests.servers import PLAIN, Application, wait_until

Json = dict[str, Any]


@pytest.fixture
def program(api: httpx.Client) -> Json:
    (found,) = api.get("/v1/programs").json()["data"]
    return dict(found)


class TestPrograms:
    def test_a_key_sees_its_own(self, api: httpx.Client, program: Json) -> None:
        answer = api.get(f"/v1/programs/{program['id']}")
        assert answer.json() == program
        assert answer.headers["ETag"] == '"v1"'
        problem(api.get("/v1/programs/another"), 403, "forbidden")

    def test_a_change_needs_the_version(self, api: httpx.Client, program: Json) -> None:
        path = f"/v1/programs/{program['id']}"
        problem(api.patch(path, json={"name": "New"}), 428, "precondition_required")
        changed = api.patch(path, json={"name": "New", "backdating_days": 30}, headers={"If-Match": '"v1"'})
        assert changed.json() == {**program, "name": "New", "backdating_days": 30, "version": 2}
        problem(api.patch(path, json={"name": "X"}, headers={"If-Match": '"v1"'}), 412, "precondition_failed")
        cleared = api.patch(path, json={"backdating_days": None}, headers={"If-Match": '"v2"'})
        assert cleared.json()["backdating_days"] is None

    def test_bad_fields(self, api: httpx.Client, program: Json) -> None:
        path = f"/v1/programs/{program['id']}"
        body = {"name": "", "timezone": "Mars/Olympus", "backdating_days": -1, "auto_enrol": "yes", "currency": "EUR"}
        found = defects(api.patch(path, json=body, headers={"If-Match": '"v1"'}))
        assert set(found) == {f"/{name}" for name in body}
        found = defects(api.post("/v1/programs", json={"id": "A B", "name": "x", "currency": "ZZZ", "mode": "test"}))
        assert set(found) == {"/id", "/currency", "/mode"}

    def test_a_new_one_comes_with_a_key(self, api: httpx.Client, program: Json) -> None:
        body = {"id": f"new-{program['id'][5:]}", "name": "New", "currency": "JPY", "mode": "sandbox"}
        made = api.post("/v1/programs", json=body).json()
        headers = {"Authorization": f"Bearer {made['key']['secret']}"}
        assert api.get("/v1/programs", headers=headers).json()["data"] == [made["program"]]
        problem(api.post("/v1/programs", json=body), 409, "program_exists")


class TestKeys:
    def test_a_secret_is_shown_once(self, api: httpx.Client) -> None:
        body = {"name": "till", "scopes": ["members:read"]}
        made = api.post("/v1/keys", json=body, headers={"Idempotency-Key": "k1"})
        again = api.post("/v1/keys", json=body, headers={"Idempotency-Key": "k1"})
        assert made.json()["secret"].startswith("lk_")
        assert again.json() == {**made.json(), "secret": None}
        listed = api.get("/v1/keys")
        assert made.json()["secret"] not in listed.text
        assert [key["name"] for key in listed.json()["data"]] == ["test", "till"]

    def test_no_more_rights_than_ones_own(self, api: httpx.Client) -> None:
        small = api.post("/v1/keys", json={"name": "small", "scopes": ["keys:write"]}).json()
        headers = {"Authorization": f"Bearer {small['secret']}"}
        answer = api.post("/v1/keys", json={"name": "big", "scopes": ["keys:write", "members:read"]}, headers=headers)
        problem(answer, 403, "forbidden")

    def test_bad_fields(self, api: httpx.Client) -> None:
        body = {"name": "", "scopes": ["members:read", "members:read"], "expires_at": "tomorrow"}
        assert set(defects(api.post("/v1/keys", json=body))) == {"/name", "/scopes", "/expires_at"}
        assert set(defects(api.post("/v1/keys", json={"name": "x", "scopes": ["root"]}))) == {"/scopes/0"}

    def test_a_revoked_key_opens_nothing(self, api: httpx.Client, application: Application) -> None:
        made = api.post("/v1/keys", json={"name": "lost", "scopes": ["programs:read"]}).json()
        headers = {"Authorization": f"Bearer {made['secret']}"}

        def refused() -> bool:
            # New connections, so that every process is asked.
            answers = [
                httpx.get(f"{application.url}/v1/programs", verify=PLAIN, headers=headers, timeout=30) for _ in range(8)
            ]
            return all(answer.status_code == 401 for answer in answers)

        assert not refused()
        revoked = api.delete(f"/v1/keys/{made['id']}")
        assert revoked.json()["revoked_at"] is not None
        started = time.monotonic()
        wait_until(refused, timeout_s=6, failure=lambda: "the revoked key still opens")
        assert_within(2, time.monotonic() - started)  # Redis tells the other processes; without it they would need 5 s
        assert api.delete(f"/v1/keys/{made['id']}").json() == revoked.json()
        problem(api.delete("/v1/keys/key_unknown"), 404, "not_found")

    def test_an_expired_key_opens_nothing(self, api: httpx.Client) -> None:
        soon = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat()
        made = api.post("/v1/keys", json={"name": "guest", "scopes": ["programs:read"], "expires_at": soon}).json()
        headers = {"Authorization": f"Bearer {made['secret']}"}
        assert api.get("/v1/programs", headers=headers).is_success
        time.sleep(1.1)  # the key's second passes on the server's own clock
        problem(api.get("/v1/programs", headers=headers), 401, "unauthenticated")

    def test_a_rotated_key_overlaps_with_its_successor(self, api: httpx.Client) -> None:
        old = api.post("/v1/keys", json={"name": "till", "scopes": ["programs:read"]}).json()
        new = api.post(f"/v1/keys/{old['id']}/rotate", json={"overlap_seconds": 1}).json()
        assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
        assert api.get(f"/v1/keys/{old['id']}").json()["successor"] == new["id"]
        for key in (old, new):
            assert api.get("/v1/programs", headers={"Authorization": f"Bearer {key['secret']}"}).is_success
        time.sleep(1.1)  # the key's second passes on the server's own clock
        headers = {"Authorization": f"Bearer {old['secret']}"}
        problem(api.get("/v1/programs", headers=headers), 401, "unauthenticated")
        problem(api.post(f"/v1/keys/{old['id']}/rotate", json={}), 404, "not_found")
