"""Forgetting who a member is, over HTTP. All of it is case 3.26."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
from bson.int64 import Int64

from loyalty.infra.ids import member_number
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.verify import verify
from tests.servers import Application, Mongod

Json = dict[str, Any]
EMAIL = "ada.lovelace@example.org"
ERASE = {"confirm": "erase"}


@pytest.fixture
def books(application: Application, mongod: Mongod) -> Iterator[Mongo]:
    """The database of the application, to see what is left."""
    database = connect(mongod.uri, "application", serves_requests=False)
    yield database
    database.client.close()


@pytest.fixture
def ada(api: httpx.Client) -> str:
    """A member with a profile, an identity, and points of all kinds: available, waiting, expiring."""
    rules = [
        {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"},
        {"type": "fixed", "id": "later", "points": 7, "events": ["purchase"], "pending": {"type": "manual"}},
        {
            "type": "fixed",
            "id": "gone",
            "points": 5,
            "events": ["purchase"],
            "expiry": {"type": "rolling", "days": 9},
        },
    ]
    assert api.post("/v1/rules/versions", json={"rules": rules}).status_code == 201
    profile = {"given_name": "Ada", "birthday": "1815-12-10", "attributes": {"city": "London"}}
    identities = [{"type": "email", "value": EMAIL}]
    body = {"external_id": "ada", "identities": identities, "profile": profile}
    member: str = api.post("/v1/members", json=body).json()["id"]
    assert buy(api, "1").status_code == 201
    return member


def buy(client: httpx.Client, number: str, **who: str) -> httpx.Response:
    event = {"source": "till", "id": number, "type": "purchase", "amount": "10.00", "currency": "USD"}
    return client.post("/v1/events", json={**event, "member": who or {"external_id": "ada"}})


def erase(client: httpx.Client, member: str, **headers: str) -> httpx.Response:
    return client.post(f"/v1/members/{member}/erase", json=ERASE, headers=headers)


def problem(answer: httpx.Response, status: int, code: str) -> Json:
    told: Json = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), answer.text
    return told


def test_the_person_goes_and_the_chain_stays(api: httpx.Client, ada: str, books: Mongo) -> None:
    before = api.get(f"/v1/members/{ada}/entries").json()["data"]
    answer = erase(api, "ext:ada")
    assert answer.status_code == 201, answer.text
    assert (answer.json()["member"], answer.json()["entry"]["points"]) == (ada, {"points": -22})
    wallet = api.get(f"/v1/members/{ada}/balance").json()["wallets"]["points"]
    assert (wallet["available"], wallet["pending"], wallet["lifetime"]["expired"]) == (0, 0, 22)
    entries = api.get(f"/v1/members/{ada}/entries").json()["data"]
    assert [entry["kind"] for entry in entries] == ["erase", "earn"]
    assert entries[1:] == before
    number = member_number(ada) or 0
    document = books.members.find_one({"_id": Int64(number)})
    assert document is not None
    assert (document["profile"], document["handles"]) == ({}, [f"erased:{ada}"])
    chain = list(books.ledger.find({"_id": {"$gte": number << 24, "$lt": (number + 1) << 24}}))
    mine = [entry["id"] for entry in entries]
    assert [defect for defect in verify(books).defects if defect.where in mine] == []
    left = orjson.dumps([document, *chain], default=str)
    for text in (b"Ada", b"lovelace", b"London", b"1815", b"ext:"):
        assert text not in left
    shown = api.get(f"/v1/members/{ada}").json()
    assert (shown["external_id"], shown["identities"], shown["status"]) == (None, [], "blocked")
    assert shown["erased_at"] == entries[0]["recorded_at"]
    for name in ("ext:ada", f"email:{EMAIL}"):
        problem(api.get(f"/v1/members/{name}"), 404, "not_found")
    assert ada not in [member["id"] for member in api.get("/v1/members").json()["data"]]


def test_an_event_brings_nobody_back_and_an_enrolment_does(api: httpx.Client, ada: str) -> None:
    assert erase(api, ada).status_code == 201
    told = problem(buy(api, "2"), 404, "not_found")
    assert "POST /v1/members" in told["detail"]
    visit = {"source": "till", "id": "9", "type": "visit", "member": {"email": EMAIL}}
    problem(api.post("/v1/events/dry-run", json=visit), 404, "not_found")
    assert buy(api, "3", external_id="bob").status_code == 201
    again = api.post("/v1/members", json={"external_id": "ada"})
    assert again.status_code == 201
    assert again.json()["id"] != ada
    assert buy(api, "4").json()["balances"]["points"]["available"] == 15


def test_nothing_happens_to_nobody(api: httpx.Client, ada: str) -> None:
    assert erase(api, ada).status_code == 201
    problem(erase(api, ada), 409, "member_erased")
    problem(buy(api, "2", id=ada), 409, "member_erased")
    adjustment = {"member": {"id": ada}, "points": 5, "reason": "a gift"}
    problem(api.post("/v1/adjustments", json=adjustment), 409, "member_erased")
    problem(api.patch(f"/v1/members/{ada}", json={"profile": {"given_name": "Ada"}}), 409, "member_erased")
    identity = {"type": "card", "value": "4711"}
    problem(api.post(f"/v1/members/{ada}/identities", json=identity), 409, "member_erased")
    other = api.post("/v1/members", json={"external_id": "bob"}).json()["id"]
    for source, into in ((ada, other), (other, ada)):
        problem(api.post(f"/v1/members/{source}/merge", json={"into": {"id": into}}), 409, "member_erased")


def test_points_that_are_set_aside_come_first(api: httpx.Client, ada: str) -> None:
    hold = api.post("/v1/holds", json={"member": {"id": ada}, "points": 3}).json()["hold"]["id"]
    assert problem(erase(api, ada), 409, "open_holds")["holds"] == [hold]
    assert api.get(f"/v1/members/{ada}").json()["external_id"] == "ada"
    assert api.post(f"/v1/holds/{hold}/void", json={}).status_code == 201
    assert erase(api, ada).status_code == 201


def test_the_same_key_erases_once_and_is_told_again(api: httpx.Client, ada: str) -> None:
    """Cases 3.1 and 3.28: also when the answer was lost and nobody is found by the name any more."""
    key = {"Idempotency-Key": secrets.token_hex(8)}
    first, again = erase(api, "ext:ada", **key), erase(api, "ext:ada", **key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "replayed": True}
    problem(erase(api, "ext:bob", **key), 409, "idempotency_conflict")


def test_a_crowd_erases_once(api: httpx.Client, ada: str) -> None:
    with ThreadPoolExecutor(8) as crowd:
        codes = sorted(answer.status_code for answer in crowd.map(lambda _: erase(api, ada), range(8)))
    assert codes == [201] + [409] * 7
    kinds = [entry["kind"] for entry in api.get(f"/v1/members/{ada}/entries").json()["data"]]
    assert kinds == ["erase", "earn"]


def test_whoever_was_merged_into_it_is_forgotten_too(api: httpx.Client, ada: str, books: Mongo) -> None:
    twin = {"external_id": "adele", "profile": {"given_name": "Adele", "attributes": {"city": "Paris"}}}
    gone = api.post("/v1/members", json=twin).json()["id"]
    assert api.post(f"/v1/members/{gone}/merge", json={"into": {"id": ada}}).status_code == 201
    assert erase(api, ada).status_code == 201
    document = books.members.find_one({"_id": Int64(member_number(gone) or 0)})
    assert document is not None
    assert document["profile"] == {}
    problem(buy(api, "2", external_id="adele"), 404, "not_found")


def test_the_answers_that_are_kept_for_repetitions_forget_too(api: httpx.Client, books: Mongo) -> None:
    """Whoever repeats such a request is told that the member was erased; all others get their answers again."""
    bob, ada = {"external_id": "bob"}, {"external_id": "ada", "profile": {"given_name": "Ada"}}
    card = {"type": "card", "value": 'l"4711'}
    keys = [{"Idempotency-Key": secrets.token_hex(8)} for _ in range(4)]

    def ask() -> list[httpx.Response]:
        return [
            api.post("/v1/members", json=ada, headers=keys[0]),
            api.post("/v1/members/ext:ada/identities", json=card, headers=keys[1]),
            api.post("/v1/members", json=bob, headers=keys[2]),
            api.post("/v1/members", json={**bob, "external_id": "eve", "identities": [card]}, headers=keys[3]),
        ]

    first = ask()
    assert [answer.status_code for answer in first] == [201, 201, 201, 409]
    assert problem(first[3], 409, "identity_taken")["handle"] == 'card:l"4711'
    assert [answer.content for answer in ask()] == [answer.content for answer in first]
    assert erase(api, "ext:ada").status_code == 201
    again = ask()
    for answer in (again[0], again[1], again[3]):
        problem(answer, 409, "member_erased")
    assert again[2].content == first[2].content
    left = [bytes(record.get("body", b"")) for record in books.idempotency_keys.find()]
    assert not [body for body in left if first[0].json()["id"].encode() in body or b"4711" in body]


def test_a_debt_is_waived(api: httpx.Client, ada: str) -> None:
    (program,) = api.get("/v1/programs").json()["data"]
    policies = {"wallets": {"points": {"overspent_refund": "negative"}}}
    version = {"If-Match": f'"v{program["version"]}"'}
    assert api.patch(f"/v1/programs/{program['id']}", json={"policies": policies}, headers=version).status_code == 200
    reward = api.post("/v1/rewards", json={"name": "Cup", "cost": 14}).json()["id"]
    assert api.post("/v1/redemptions", json={"member": {"id": ada}, "reward": reward}).status_code == 201
    refund = {"source": "till", "id": "r", "type": "refund", "refers_to": "1", "member": {"id": ada}}
    assert api.post("/v1/events", json=refund).json()["balances"]["points"]["available"] == -14
    assert erase(api, ada).json()["entry"]["points"] == {"points": 14}
    wallet = api.get(f"/v1/members/{ada}/balance").json()["wallets"]["points"]
    assert (wallet["available"], wallet["lifetime"]["adjusted"]) == (0, 14)
