"""Idempotency-Key on changes outside the ledger: once, whatever happens to the answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256

import httpx
import pytest
from bson.binary import Binary

from loyalty.infra.clock import system_clock
from loyalty.infra.http.idempotency import fingerprint
from loyalty.infra.mongo import Mongo, connect
from tests.api.test_conventions import problem
from tests.servers import Mongod

KEY = {"Idempotency-Key": "c0ffee"}


def test_the_first_answer_again(api: httpx.Client) -> None:
    first = api.post("/v1/members", json={"external_id": "1", "status": "active"}, headers=KEY)
    again = api.post("/v1/members", content=b'{ "status":"active", "external_id":"1" }', headers=KEY | JSON)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert (again.headers["ETag"], again.headers["Location"]) == (first.headers["ETag"], first.headers["Location"])


JSON = {"Content-Type": "application/json"}


def test_another_request_with_the_key(api: httpx.Client) -> None:
    api.post("/v1/members", json={"external_id": "1"}, headers=KEY)
    problem(api.post("/v1/members", json={"external_id": "2"}, headers=KEY), 409, "idempotency_conflict")
    problem(api.patch("/v1/members/ext:1", json={"status": "blocked"}, headers=KEY), 409, "idempotency_conflict")
    assert [member["external_id"] for member in api.get("/v1/members").json()["data"]] == ["1"]
    assert api.get("/v1/members/ext:1").json()["status"] == "active"


def test_keys_belong_to_their_program(api: httpx.Client, mongod: Mongod) -> None:
    other = api.post(
        "/v1/programs",
        json={
            "id": f"other-{sha256(api.headers['Authorization'].encode()).hexdigest()[:8]}",
            "name": "Other",
            "currency": "USD",
        },
    ).json()
    api.post("/v1/members", json={"external_id": "1"}, headers=KEY)
    headers = KEY | {"Authorization": f"Bearer {other['key']['secret']}"}
    assert "Idempotent-Replayed" not in api.post("/v1/members", json={"external_id": "1"}, headers=headers).headers


def test_a_refusal_is_an_answer(api: httpx.Client) -> None:
    api.post("/v1/members", json={"external_id": "1"})
    first = api.post("/v1/members", json={"external_id": "1"}, headers=KEY)
    problem(first, 409, "identity_taken")
    again = api.post("/v1/members", json={"external_id": "1"}, headers=KEY)
    assert (again.status_code, again.content) == (409, first.content)
    assert again.headers["Content-Type"] == "application/problem+json"


def test_a_lost_race_is_not(api: httpx.Client) -> None:
    api.post("/v1/members", json={"external_id": "1"})
    stale = KEY | {"If-Match": '"v2"'}
    problem(api.patch("/v1/members/ext:1", json={"status": "blocked"}, headers=stale), 412, "precondition_failed")
    fresh = KEY | {"If-Match": '"v1"'}
    assert api.patch("/v1/members/ext:1", json={"status": "blocked"}, headers=fresh).status_code == 200


def test_a_defect_does_not_use_the_key_up(api: httpx.Client) -> None:
    problem(api.post("/v1/members", json={"external_id": 1}, headers=KEY), 422, "validation_failed")
    assert api.post("/v1/members", json={"external_id": "1"}, headers=KEY).status_code == 201


@pytest.mark.parametrize("value", ["", "x" * 256, "a b", "\u00e9"])
def test_keys_that_are_none(api: httpx.Client, value: str) -> None:
    headers = {b"Idempotency-Key": value.encode()}
    problem(api.post("/v1/members", json={"external_id": "1"}, headers=headers), 400, "invalid_idempotency_key")


def test_at_once(api: httpx.Client) -> None:
    """Of concurrent requests one works; the others are told to wait, or have its answer."""

    def enrol(_: int) -> httpx.Response:
        return api.post("/v1/members", json={"external_id": "1"}, headers=KEY)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(enrol, range(24)))
    made = [answer for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert len(made) + len(waiting) == 24
    assert sum("Idempotent-Replayed" not in answer.headers for answer in made) == 1
    assert len({answer.content for answer in made}) == 1
    for answer in waiting:
        problem(answer, 409, "request_in_progress")
        assert answer.headers["Retry-After"] == "1"


class TestAnAbandonedRequest:
    """Its process died between the record and the answer."""

    @pytest.fixture
    def program(self, api: httpx.Client) -> str:
        return str(api.get("/v1/programs").json()["data"][0]["id"])

    @pytest.fixture
    def records(self, mongod: Mongod) -> Mongo:
        return connect(mongod.uri, "application", serves_requests=False)

    def leave(self, records: Mongo, program: str, seconds: int) -> None:
        started = system_clock() - timedelta(seconds=seconds)
        records.idempotency_keys.insert_one(
            {
                "_id": Binary(sha256(f"{program}\0c0ffee".encode()).digest()),
                "fingerprint": fingerprint("POST", "/v1/members?", "", b'{"external_id":"1"}'),
                "created_at": started,
                "started_at": started,
            }
        )
        records.client.close()

    def test_may_still_be_running(self, api: httpx.Client, program: str, records: Mongo) -> None:
        self.leave(records, program, 4)
        problem(api.post("/v1/members", json={"external_id": "1"}, headers=KEY), 409, "request_in_progress")

    def test_is_taken_over(self, api: httpx.Client, program: str, records: Mongo) -> None:
        self.leave(records, program, 15)
        assert api.post("/v1/members", json={"external_id": "1"}, headers=KEY).status_code == 201
        again = api.post("/v1/members", json={"external_id": "1"}, headers=KEY)
        assert again.headers["Idempotent-Replayed"] == "true"
