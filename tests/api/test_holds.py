"""Holds over HTTP: points set aside, taken, let go."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from loyalty.infra.http.model import format_instant
from tests.servers import wait_until

Json = dict[str, Any]
ADA = {"external_id": "ada"}
WALLETS = {"points": {}, "status": {"spendable": False}}


@pytest.fixture
def ada(api: httpx.Client) -> httpx.Client:
    """A program with a spendable wallet and one for status, and a member who has 100 points in each."""
    set_policies(api, wallets=WALLETS)
    assert api.post("/v1/members", json=ADA).status_code == 201
    assert adjust(api, 100).status_code == 201
    assert adjust(api, 100, wallet="status").status_code == 201
    return api


def set_policies(client: httpx.Client, **policies: Any) -> None:
    (program,) = client.get("/v1/programs").json()["data"]
    answer = client.patch(
        f"/v1/programs/{program['id']}", json={"policies": policies}, headers={"If-Match": f'"v{program["version"]}"'}
    )
    assert answer.status_code == 200, answer.text


def adjust(client: httpx.Client, points: int, **fields: Any) -> httpx.Response:
    return client.post("/v1/adjustments", json={"member": ADA, "points": points, "reason": "for the test", **fields})


def place(client: httpx.Client, points: int = 60, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/holds", json={"member": ADA, "points": points, **fields}, headers=headers)


def resolve(client: httpx.Client, hold: str, how: str, points: int | None = None, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = ({"points": points} if points else {}) if how == "capture" else None
    return client.post(f"/v1/holds/{hold}/{how}", json=body, headers=headers)


def wallet(client: httpx.Client, name: str = "points") -> Json:
    found: Json = client.get("/v1/members/ext:ada/balance").json()["wallets"][name]
    return found


def buckets(client: httpx.Client) -> tuple[int, int, int]:
    """Available, held and spent."""
    found = wallet(client)
    return found["available"], found["held"], found["lifetime"]["spent"]


def in_seconds(seconds: float) -> str:
    return format_instant(datetime.now(timezone.utc) + timedelta(seconds=seconds))


def test_a_hold_moves_points_out_of_available_case_3_4(ada: httpx.Client) -> None:
    answer = place(ada, 60, reference="basket 1")
    assert answer.status_code == 201, answer.text
    hold = answer.json()["hold"]
    assert hold == ada.get(f"/v1/holds/{hold['id']}").json()
    assert hold["id"] == answer.json()["entry"]["id"]
    assert (hold["status"], hold["points"], hold["reference"], hold["captured_points"]) == ("open", 60, "basket 1", 0)
    assert buckets(ada) == (40, 60, 0)
    short = place(ada, 41)
    assert (short.status_code, short.json()["code"], short.json()["missing_points"]) == (409, "insufficient_points", 1)


def test_a_capture_in_part_returns_the_rest_case_3_4(ada: httpx.Client) -> None:
    hold = place(ada, 60).json()["hold"]["id"]
    answer = resolve(ada, hold, "capture", 45)
    assert answer.status_code == 201, answer.text
    assert answer.json()["hold"]["captured_points"] == 45
    assert answer.json()["hold"]["resolved_by"] == answer.json()["entry"]["id"]
    assert buckets(ada) == (55, 0, 45)


def test_a_capture_takes_all_unless_it_says_how_many(ada: httpx.Client) -> None:
    hold = place(ada, 60).json()["hold"]["id"]
    assert resolve(ada, hold, "capture").json()["hold"]["status"] == "captured"
    assert buckets(ada) == (40, 0, 60)


def test_a_capture_of_more_than_is_held_changes_nothing(ada: httpx.Client) -> None:
    hold = place(ada, 60).json()["hold"]["id"]
    answer = resolve(ada, hold, "capture", 61)
    assert (answer.status_code, answer.json()["code"], answer.json()["held_points"]) == (409, "hold_too_small", 60)
    assert ada.get(f"/v1/holds/{hold}").json()["status"] == "open"
    assert buckets(ada) == (40, 60, 0)


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [
        ("capture", "capture", "captured"),
        ("capture", "void", "captured"),
        ("void", "capture", "voided"),
        ("void", "void", "voided"),
    ],
)
def test_a_second_resolution_says_how_the_first_went_case_3_28(
    ada: httpx.Client, first: str, second: str, how: str
) -> None:
    hold = place(ada, 60).json()["hold"]["id"]
    done = resolve(ada, hold, first)
    before = buckets(ada)
    answer = resolve(ada, hold, second)
    assert (answer.status_code, answer.json()["code"]) == (409, "hold_already_resolved")
    assert (answer.json()["resolution"], answer.json()["resolved_by"]) == (how, done.json()["entry"]["id"])
    assert buckets(ada) == before


def test_the_same_key_resolves_once_and_answers_again(ada: httpx.Client) -> None:
    placed = place(ada, 60, "h", reference="r")
    assert place(ada, 60, "h", reference="r").json() == {**placed.json(), "replayed": True}
    assert place(ada, 61, "h", reference="r").json()["code"] == "idempotency_conflict"
    hold = placed.json()["hold"]["id"]
    captured = resolve(ada, hold, "capture", 10, "c")
    again = resolve(ada, hold, "capture", 10, "c")
    assert (again.status_code, again.json()) == (200, {**captured.json(), "replayed": True})
    assert resolve(ada, hold, "capture", 11, "c").json()["code"] == "idempotency_conflict"
    assert place(ada, 60, "h", reference="r").json()["hold"]["status"] == "captured"
    assert buckets(ada) == (90, 0, 10)


def test_a_hold_ends_by_itself_whoever_looks_case_3_4(ada: httpx.Client) -> None:
    hold = place(ada, 60, seconds=1).json()["hold"]

    def over() -> bool:
        return bool(ada.get(f"/v1/holds/{hold['id']}").json()["status"] != "open")

    wait_until(over, timeout_s=10, failure=lambda: "the hold did not time out")
    found = ada.get(f"/v1/holds/{hold['id']}").json()
    assert (found["status"], found["resolved_at"], found["resolved_by"]) == ("timed_out", hold["until"], None)
    assert buckets(ada) == (100, 0, 0)
    for how in ("capture", "void"):
        answer = resolve(ada, hold["id"], how)
        assert (answer.status_code, answer.json()["code"]) == (409, "hold_already_resolved")
        assert answer.json()["resolution"] == "timed_out"
    # The points are free for others, whose entry writes down what time has done.
    written = place(ada, 100).json()
    assert ada.get(f"/v1/holds/{hold['id']}").json()["resolved_by"] == written["entry"]["id"]
    assert buckets(ada) == (0, 100, 0)


def expiring(client: httpx.Client, grace_days: int) -> Callable[[], bool]:
    """100 points that expire within seconds, of which 60 are held; and whether those that are not have expired."""
    set_policies(client, wallets={"points": {"restore_grace_days": grace_days}})
    client.post("/v1/members", json=ADA)
    assert adjust(client, 100, expires_at=in_seconds(1.5)).status_code == 201
    return lambda: wallet(client)["available"] == 0


def test_held_points_do_not_expire_and_pay_after_their_day_case_3_5(api: httpx.Client) -> None:
    gone = expiring(api, 0)
    hold = place(api).json()["hold"]["id"]
    wait_until(gone, timeout_s=10, failure=lambda: "the points did not expire")
    assert buckets(api) == (0, 60, 0)
    assert resolve(api, hold, "capture", 50).status_code == 201
    assert buckets(api) == (0, 0, 50)
    assert wallet(api)["lifetime"]["expired"] == 50


@pytest.mark.parametrize(("grace_days", "back"), [(0, 0), (3, 60)])
def test_a_void_after_the_expiry_goes_by_the_policy_case_3_5(api: httpx.Client, grace_days: int, back: int) -> None:
    gone = expiring(api, grace_days)
    hold = place(api).json()["hold"]["id"]
    wait_until(gone, timeout_s=10, failure=lambda: "the points did not expire")
    voided = resolve(api, hold, "void").json()
    assert buckets(api) == (back, 0, 0)
    if back:
        (lot,) = wallet(api)["expiring"]
        at = datetime.fromisoformat(voided["entry"]["recorded_at"].replace("Z", "+00:00")) + timedelta(days=grace_days)
        assert lot == {"at": format_instant(at), "points": 60}


def test_a_hold_takes_and_returns_the_earliest_expiry_first_case_3_6(api: httpx.Client) -> None:
    """Instants are compared, not texts: 01:00+02:00 is before 00:30Z."""
    api.post("/v1/members", json=ADA)
    adjust(api, 10)
    adjust(api, 10, expires_at="2032-03-01T00:30:00Z")
    adjust(api, 10, expires_at="2032-03-01T01:00:00+02:00")
    first = {"at": "2032-02-29T23:00:00.000Z", "points": 10}
    second = {"at": "2032-03-01T00:30:00.000Z", "points": 10}
    assert wallet(api)["expiring"] == [first, second]
    hold = place(api, 15).json()["hold"]["id"]
    assert wallet(api)["expiring"] == [{**second, "points": 5}]
    resolve(api, hold, "capture", 12)
    assert wallet(api)["expiring"] == [{**second, "points": 8}]
    assert wallet(api)["available"] == 18


def test_what_is_held_is_held_once_whatever_the_crowd(ada: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: place(ada, 30, secrets.token_hex(8)), range(24)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 21
    assert buckets(ada) == (10, 90, 0)


@pytest.mark.parametrize("attempt", range(5))
def test_capture_and_void_exclude_each_other_whatever_the_crowd_case_3_4(ada: httpx.Client, attempt: int) -> None:
    hold = place(ada, 10 + attempt).json()["hold"]["id"]

    def race(how: str) -> httpx.Response:
        return resolve(ada, hold, how, key=secrets.token_hex(8))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, ["capture", "void"] * 6))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11
    (done,) = [answer.json()["hold"]["status"] for answer in answers if answer.status_code == 201]
    assert {answer.json()["resolution"] for answer in answers if answer.status_code == 409} == {done}
    taken = 10 + attempt if done == "captured" else 0
    assert buckets(ada) == (100 - taken, 0, taken)


def test_a_wallet_that_is_not_spendable_cannot_be_held(ada: httpx.Client) -> None:
    answer = place(ada, 10, wallet="status")
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet_not_spendable")
    answer = place(ada, 10, wallet="stamps")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_wallet")
    assert wallet(ada, "status")["held"] == 0


def test_a_blocked_member_cannot_place_a_hold_but_an_old_one_can_be_resolved(ada: httpx.Client) -> None:
    hold = place(ada, 10).json()["hold"]["id"]
    ada.patch("/v1/members/ext:ada", json={"status": "blocked"})
    assert place(ada, 10).json()["code"] == "member_blocked"
    assert resolve(ada, hold, "void").status_code == 201


def test_what_is_no_hold_is_not_found(ada: httpx.Client) -> None:
    entry = adjust(ada, 1).json()["entry"]["id"]
    for name in (entry, "ent_0000000000001", "nonsense"):
        assert ada.get(f"/v1/holds/{name}").json()["code"] == "not_found"
        assert resolve(ada, name, "capture").status_code == 404
        assert resolve(ada, name, "void").status_code == 404
    assert ada.post("/v1/holds", json={"member": {"external_id": "eve"}, "points": 1}).status_code == 404
    assert ada.post("/v1/holds", json={"member": ADA, "points": 1, "seconds": 604_801}).status_code == 422
