"""Two members who turn out to be one person, over HTTP. All of it is case 3.25."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.ids import member_id
from loyalty.infra.mongo import Mongo, connect
from loyalty.infra.problems import NotFound
from loyalty.ledger.entry import Draft, business_key, member_of
from loyalty.ledger.movements import credit
from loyalty.ledger.verify import verify
from loyalty.members.model import Member
from loyalty.points.acts import Act, Decide, Done, perform
from loyalty.programs import service as programs
from tests.servers import Mongod

Json = dict[str, Any]
FIRST, SECOND = "2041-01-01T00:00:00.000Z", "2042-01-01T00:00:00.000Z"
BASE = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}
WELCOME = {
    "id": "welcome",
    "type": "fixed",
    "points": 1000,
    "when": "counters.purchases.ever = 0",
}


@pytest.fixture
def two(api: httpx.Client) -> httpx.Client:
    """Ada, and the same person a second time as Adele with a card."""
    api.post("/v1/members", json={"external_id": "ada", "identities": [{"type": "email", "value": "ada@example.org"}]})
    api.post("/v1/members", json={"external_id": "adele", "identities": [{"type": "card", "value": "4711"}]})
    return api


@pytest.fixture
def books(application: Any, mongod: Mongod) -> Iterator[Mongo]:
    """The database of the application, to verify what was written."""
    database = connect(mongod.uri, "application", serves_requests=False)
    yield database
    database.client.close()


def set_policies(client: httpx.Client, **policies: Any) -> None:
    (program,) = client.get("/v1/programs").json()["data"]
    answer = client.patch(
        f"/v1/programs/{program['id']}", json={"policies": policies}, headers={"If-Match": f'"v{program["version"]}"'}
    )
    assert answer.status_code == 200, answer.text


def give(client: httpx.Client, name: str, points: int, **fields: Any) -> Json:
    body = {"member": {"external_id": name}, "points": points, "reason": "for the test", **fields}
    answer = client.post("/v1/adjustments", json=body)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def tell(client: httpx.Client, name: str, number: str, kind: str = "purchase", **fields: Any) -> Json:
    event = {"source": "till", "id": number, "type": kind, "member": {"external_id": name}, **fields}
    if "amount" in fields:
        event["currency"] = "USD"
    answer = client.post("/v1/events", json=event)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def merge(client: httpx.Client, source: str = "ext:adele", into: Json | None = None, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key or secrets.token_hex(8)}
    return client.post(f"/v1/members/{source}/merge", json={"into": into or {"external_id": "ada"}}, headers=headers)


def wallet(client: httpx.Client, name: str = "ada", of: str = "points") -> Json:
    found: Json = client.get(f"/v1/members/ext:{name}/balance").json()["wallets"][of]
    return found


def test_open_lots_move_with_their_expiry(two: httpx.Client, books: Mongo) -> None:
    give(two, "ada", 5, expires_at=SECOND)
    given = give(two, "adele", 20, expires_at=SECOND)["entry"]
    give(two, "adele", 20, expires_at=FIRST)
    give(two, "adele", 20)
    give(two, "adele", -10)
    survivor = two.get("/v1/members/ext:ada").json()["id"]
    answer = merge(two)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["member"], answer.json()["merged"]) == (survivor, given["member"])
    assert wallet(two)["expiring"] == [{"at": FIRST, "points": 10}, {"at": SECOND, "points": 25}]
    assert wallet(two)["available"] == 55
    assert wallet(two, "adele") == wallet(two), "it is the same member now"
    closed, received = answer.json()["entry"], answer.json()["received"]
    assert (closed["points"], received["points"]) == ({"points": -50}, {"points": 50})
    for one, other in ((closed, received), (received, closed)):
        assert two.get(f"/v1/entries/{one['id']}/explanation").json()["detail"]["with"] == [other["id"]]
    assert two.get(f"/v1/entries/{given['id']}").json() == given, "the entries of both stay"
    mine = {closed["id"], received["id"], given["id"]}
    assert [defect for defect in verify(books).defects if defect.where in mine] == []


def test_every_name_means_the_survivor(two: httpx.Client) -> None:
    gone = two.get("/v1/members/ext:adele").json()["id"]
    stays = two.get("/v1/members/ext:ada").json()["id"]
    two.patch("/v1/members/ext:ada", json={"profile": {"given_name": "Ada"}})
    merge(two)
    for name in (gone, stays, "ext:ada", "ext:adele", "card:4711", "email:ada@example.org"):
        assert two.get(f"/v1/members/{name}").json()["id"] == stays
    found = two.get(f"/v1/members/{gone}").json()
    assert (found["external_id"], found["profile"]["given_name"], found["status"]) == ("ada", "Ada", "active")
    assert [member["id"] for member in two.get("/v1/members").json()["data"]] == [stays]
    assert give(two, "adele", 7)["entry"]["member"] == stays
    by_id = two.post("/v1/adjustments", json={"member": {"id": gone}, "points": 1, "reason": "for the test"})
    assert by_id.json()["entry"]["member"] == stays
    taken = two.post("/v1/members", json={"external_id": "adele"})
    assert (taken.status_code, taken.json()["code"]) == (409, "identity_taken")


def test_what_was_merged_before_goes_along(two: httpx.Client) -> None:
    two.post("/v1/members", json={"external_id": "addy"})
    names = {name: two.get(f"/v1/members/ext:{name}").json()["id"] for name in ("ada", "adele", "addy")}
    give(two, "addy", 3)
    assert merge(two, names["addy"], {"external_id": "adele"}).status_code == 201
    assert merge(two, names["adele"]).status_code == 201
    for name in (*names.values(), "ext:addy"):
        assert two.get(f"/v1/members/{name}").json()["id"] == names["ada"]
    assert wallet(two)["available"] == 3


def test_nobody_is_merged_twice_or_with_itself(two: httpx.Client) -> None:
    assert merge(two, "ext:ada").json()["code"] == "same_member"
    assert merge(two, "ext:nobody").status_code == 404
    assert merge(two, into={"external_id": "nobody"}).status_code == 404
    gone = two.get("/v1/members/ext:adele").json()["id"]
    first = merge(two, gone, key="k")
    again = merge(two, gone, key="k")
    assert (again.status_code, again.json()) == (200, {**first.json(), "replayed": True})
    assert merge(two, gone).json()["code"] == "same_member"
    assert merge(two, gone, {"external_id": "adele"}, "k").json()["code"] == "idempotency_conflict"


def test_points_that_are_set_aside_come_first(two: httpx.Client) -> None:
    give(two, "adele", 10)
    hold = two.post("/v1/holds", json={"member": {"external_id": "adele"}, "points": 5}).json()["hold"]["id"]
    answer = merge(two)
    assert (answer.status_code, answer.json()["code"], answer.json()["holds"]) == (409, "open_holds", [hold])
    assert two.get("/v1/members/ext:adele").json()["id"] != two.get("/v1/members/ext:ada").json()["id"]
    two.post(f"/v1/holds/{hold}/void")
    assert merge(two).status_code == 201
    late = two.post(f"/v1/holds/{hold}/capture", json={})
    assert (late.status_code, late.json()["resolution"]) == (409, "voided")


def test_what_is_given_once_is_not_given_again(two: httpx.Client) -> None:
    published = two.post("/v1/rules/versions", json={"rules": [BASE, WELCOME]})
    assert published.status_code == 201, published.text
    tell(two, "adele", "1", amount="10.00")
    assert wallet(two, "adele")["available"] == 1010
    merge(two)
    tell(two, "ada", "2", amount="10.00")
    assert wallet(two)["available"] == 1020


def test_a_cap_counts_for_both_together(two: httpx.Client) -> None:
    capped = {**BASE, "caps": {"per_year": 100}}
    published = two.post("/v1/rules/versions", json={"rules": [capped]})
    assert published.status_code == 201, published.text
    tell(two, "adele", "1", amount="60.00")
    tell(two, "ada", "2", amount="30.00")
    merge(two)
    tell(two, "ada", "3", amount="50.00")
    assert wallet(two)["available"] == 100


def test_a_limit_counts_for_both_together(two: httpx.Client) -> None:
    give(two, "ada", 10)
    give(two, "adele", 10)
    reward = two.post("/v1/rewards", json={"name": "Coffee", "cost": 1, "limit_per_member": 3}).json()["id"]

    def redeem(name: str) -> int:
        body = {"member": {"external_id": name}, "reward": reward}
        return two.post("/v1/redemptions", json=body).status_code

    assert [redeem("adele"), redeem("ada")] == [201, 201]
    merge(two)
    assert [redeem("adele"), redeem("ada")] == [201, 409]


def test_purchases_of_both_can_be_refunded(two: httpx.Client) -> None:
    two.post("/v1/rules/versions", json={"rules": [BASE]})
    tell(two, "adele", "1", amount="50.00")
    tell(two, "adele", "2", "refund", refers_to="later", amount="5.00")
    tell(two, "ada", "3", amount="20.00")
    merge(two)
    tell(two, "adele", "4", "refund", refers_to="1", amount="20.00")
    tell(two, "ada", "5", "refund", refers_to="1")
    assert wallet(two)["available"] == 20
    tell(two, "ada", "later", amount="30.00")
    assert wallet(two)["available"] == 45, "the refund that waited has come with it"


def test_points_that_wait_for_a_person_still_do(two: httpx.Client) -> None:
    set_policies(two, wallets={"points": {"pending": {"type": "manual"}}})
    two.post("/v1/rules/versions", json={"rules": [BASE]})
    entry = tell(two, "adele", "1", amount="50.00")["entries"][0]["id"]
    tell(two, "ada", "2", amount="20.00")
    merge(two)
    assert (wallet(two)["pending"], wallet(two)["available"]) == (70, 0)
    assert two.post(f"/v1/entries/{entry}/activate").status_code == 201
    assert (wallet(two)["pending"], wallet(two)["available"]) == (20, 50)


def test_a_debt_goes_along(two: httpx.Client) -> None:
    set_policies(two, wallets={"points": {"overspent_refund": "negative"}})
    two.post("/v1/rules/versions", json={"rules": [BASE]})
    tell(two, "adele", "1", amount="50.00")
    give(two, "adele", -30)
    tell(two, "adele", "2", "refund", refers_to="1")
    assert wallet(two, "adele")["available"] == -30
    give(two, "ada", 100)
    merge(two)
    assert wallet(two)["available"] == 70


def test_the_better_tier_stays_and_both_series_count(two: httpx.Client) -> None:
    levels = [
        {"id": "base", "name": "Base", "threshold": "0"},
        {"id": "silver", "name": "Silver", "threshold": "100.00"},
        {"id": "gold", "name": "Gold", "threshold": "150.00"},
    ]
    scheme = {"basis": {"type": "spend"}, "window": {"type": "calendar", "unit": "year"}, "levels": levels}
    assert two.post("/v1/tiers/versions", json=scheme).status_code == 201
    tell(two, "adele", "1", amount="110.00")
    tell(two, "ada", "2", amount="30.00")
    first = merge(two)
    assert first.status_code == 201, first.text
    tier = two.get("/v1/members/ext:ada/tier").json()
    assert (tier["tier"]["id"], tier["value"]) == ("silver", "140.00")
    two.post("/v1/members", json={"external_id": "addy"})
    tell(two, "addy", "3", amount="10.00")
    merge(two, "ext:addy")
    assert two.get("/v1/members/ext:ada/tier").json()["tier"]["id"] == "gold"
    history = two.get("/v1/members/ext:ada/tier/history").json()["data"]
    assert [(change["from"], change["to"]) for change in history] == [("silver", "gold"), ("base", "silver")]


def test_a_level_that_was_granted_stays(two: httpx.Client) -> None:
    levels = [{"id": "base", "name": "Base", "threshold": "0"}, {"id": "gold", "name": "Gold", "threshold": "150.00"}]
    scheme = {"basis": {"type": "spend"}, "window": {"type": "calendar", "unit": "year"}, "levels": levels}
    assert two.post("/v1/tiers/versions", json=scheme).status_code == 201
    lock = {"level": "gold", "reason": "A founder"}
    assert two.put("/v1/members/ext:adele/tier/lock", json=lock).status_code == 200
    merge(two)
    tier = two.get("/v1/members/ext:ada/tier").json()
    assert (tier["tier"]["id"], tier["locked"]) == ("gold", True)
    change = two.get("/v1/members/ext:ada/tier/history").json()["data"][0]
    assert (change["from"], change["to"], change["reason"]) == ("base", "gold", "merged")


def test_what_was_looked_up_before_the_merge_is_done_for_the_survivor(two: httpx.Client, books: Mongo) -> None:
    """The act finds Adele, then she is merged, and then it is to be written."""
    (program,) = two.get("/v1/programs").json()["data"]
    asked: list[str] = []

    def decide(member: Member) -> Decide:
        asked.append(member.id)
        if len(asked) == 1:
            assert merge(two).status_code == 201
        return lambda state, sequence, now: Draft(
            "adjust", now, credit(state, "points", 7, source="adjusted", sequence=sequence), {"reason": "for the test"}
        )

    key = business_key(program["id"], "request", "late")
    act = Act(programs.read(books, program["id"]), "ext:adele", ((key, NotFound("never")),), b"late", decide)
    (done,) = perform(books, [act], clock=system_clock)
    assert isinstance(done, Done), done
    assert (
        member_id(member_of(done.entry["_id"])) == two.get("/v1/members/ext:ada").json()["id"] == asked[1] != asked[0]
    )
    assert wallet(two)["available"] == 7


def test_whoever_comes_together_merges_once(two: httpx.Client) -> None:
    give(two, "adele", 10)
    gone, stays = (two.get(f"/v1/members/ext:{name}").json()["id"] for name in ("adele", "ada"))

    def race(number: int) -> httpx.Response:
        return merge(two, gone, {"id": stays}) if number % 2 else merge(two, stays, {"id": gone})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"same_member"}
    assert wallet(two)["available"] == wallet(two, "adele")["available"] == 10


def test_nothing_is_lost_that_happens_meanwhile(two: httpx.Client) -> None:
    def work(number: int) -> httpx.Response:
        if number == 20:
            return merge(two)
        body = {"member": {"external_id": ("ada", "adele")[number % 2]}, "points": 1, "reason": "for the test"}
        return two.post("/v1/adjustments", json=body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(60)))
    assert {answer.status_code for answer in answers} == {201}
    assert wallet(two)["available"] == 59
