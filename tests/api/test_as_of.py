"""Balances, lots and entries of an instant over HTTP: as known then, and as it had happened by then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

Json = dict[str, Any]
ADA = {"external_id": "ada"}


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """A program that gives a point for a dollar."""
    rule = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}
    assert api.post("/v1/rules/versions", json={"rules": [rule]}).status_code == 201
    return api


def buy(client: httpx.Client, id: str, amount: str, at: str | None) -> Json:
    event = {"source": "till", "id": id, "type": "purchase", "member": ADA, "amount": amount, "currency": "USD"}
    answer = client.post("/v1/events", json={**event, **({"occurred_at": at} if at else {})})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()["entries"][0]
    return made


def balance(client: httpx.Client, **instants: str) -> Json:
    answer = client.get("/v1/members/ext:ada/balance", params=instants)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def available(client: httpx.Client, **instants: str) -> int:
    wallets = balance(client, **instants)["wallets"]
    return int(wallets["points"]["available"])


def lots(client: httpx.Client, **instants: str) -> list[Json]:
    answer = client.get("/v1/members/ext:ada/lots", params=instants)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["data"]
    return found


def before(instant: str) -> str:
    """The millisecond before."""
    moved = datetime.fromisoformat(instant.replace("Z", "+00:00")) - timedelta(milliseconds=1)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_an_event_told_late_is_in_what_had_happened_and_not_in_what_was_known(shop: httpx.Client) -> None:
    """Case 3.20: the purchase of May was told after the one of June."""
    first = buy(shop, "1", "10.00", "2026-06-01T12:00:00Z")
    late = buy(shop, "2", "5.00", "2026-05-01T12:00:00Z")
    assert available(shop) == 15
    assert available(shop, happened_at="2026-04-30T12:00:00Z") == 0
    assert available(shop, happened_at="2026-05-15T12:00:00Z") == 5
    assert available(shop, happened_at="2026-06-01T12:00:00Z") == 15
    assert available(shop, at="2026-06-02T12:00:00Z") == 0  # nothing had been told yet
    assert available(shop, at=first["recorded_at"]) == 10
    then = before(late["recorded_at"])
    assert available(shop, at=then, happened_at="2026-05-15T12:00:00Z") == 0
    assert available(shop, at=then, happened_at="2026-06-15T12:00:00Z") == 10
    assert balance(shop, happened_at="2026-05-15T12:00:00Z")["as_of"] == "2026-05-01T12:00:00.000Z"


def test_entries_of_an_instant(shop: httpx.Client) -> None:
    first = buy(shop, "1", "10.00", "2026-06-01T12:00:00Z")
    late = buy(shop, "2", "5.00", "2026-05-01T12:00:00Z")

    def ids(**instants: str) -> list[str]:
        return [entry["id"] for entry in shop.get("/v1/members/ext:ada/entries", params=instants).json()["data"]]

    assert ids() == [late["id"], first["id"]]
    assert ids(at=before(late["recorded_at"])) == [first["id"]]
    assert ids(happened_at="2026-05-15T12:00:00Z") == [late["id"]]
    page = shop.get("/v1/members/ext:ada/entries", params={"limit": 1, "happened_at": "2026-07-01T00:00:00Z"}).json()
    more = {"limit": 1, "happened_at": "2026-07-01T00:00:00Z", "cursor": page["next_cursor"]}
    assert shop.get("/v1/members/ext:ada/entries", params=more).json()["data"][0]["id"] == first["id"]
    other = {**more, "happened_at": "2026-08-01T00:00:00Z"}
    assert shop.get("/v1/members/ext:ada/entries", params=other).json()["code"] == "invalid_cursor"


def test_a_lot_names_the_entries_that_fed_it_and_what_took_its_points(shop: httpx.Client) -> None:
    first = buy(shop, "1", "10.00", "2026-06-01T12:00:00Z")
    second = buy(shop, "2", "5.00", "2026-06-02T12:00:00Z")
    reward = shop.post("/v1/rewards", json={"name": "Coffee", "cost": 12}).json()["id"]
    spent = shop.post("/v1/redemptions", json={"member": ADA, "reward": reward}).json()["entry"]
    (lot,) = lots(shop)
    assert (lot["wallet"], lot["bucket"], lot["points"], lot["expires_at"]) == ("points", "available", 3, None)
    assert lot["fed_by"] == [
        {"entry": first["id"], "points": 10, "left": 0},
        {"entry": second["id"], "points": 5, "left": 3},
    ]
    assert lot["consumed_by"] == [
        {"entry": spent["id"], "to": "spent", "points": 10, "source": first["id"]},
        {"entry": spent["id"], "to": "spent", "points": 2, "source": second["id"]},
    ]
    assert (lot["fed_by_count"], lot["consumed_by_count"]) == (2, 2)
    (known,) = lots(shop, at=first["recorded_at"])
    assert (known["points"], known["consumed_by"]) == (10, [])
    (happened,) = lots(shop, happened_at="2026-06-02T12:00:00Z")
    assert (happened["points"], happened["consumed_by"]) == (15, [])


def test_lots_are_in_order_of_consumption(shop: httpx.Client) -> None:
    for expires_at in ("2091-03-01T00:00:00Z", None, "2090-03-01T00:00:00Z"):
        body = {"member": ADA, "points": 7, "reason": "for the test", "expires_at": expires_at}
        shop.post("/v1/members", json=ADA)
        assert shop.post("/v1/adjustments", json=body).status_code == 201
    expiries = [lot["expires_at"] for lot in lots(shop)]
    assert expiries == ["2090-03-01T00:00:00.000Z", "2091-03-01T00:00:00.000Z", None]


def test_of_a_member_without_entries_nothing_is_known(shop: httpx.Client) -> None:
    shop.post("/v1/members", json=ADA)
    assert lots(shop) == []
    assert lots(shop, happened_at="2026-05-15T12:00:00Z") == []
    assert balance(shop, happened_at="2026-05-15T12:00:00Z")["as_of"] is None
    assert shop.get("/v1/members/ext:bob/lots").json()["code"] == "not_found"


def tier(client: httpx.Client, **instants: str) -> httpx.Response:
    return client.get("/v1/members/ext:ada/tier", params=instants)


def publish_tiers(client: httpx.Client, **scheme: Any) -> None:
    levels = [{"id": "base", "name": "Base", "threshold": "0"}, {"id": "gold", "name": "Gold", "threshold": "10.00"}]
    body = {"basis": {"type": "spend"}, "window": {"type": "rolling", "days": 30}, "levels": levels, **scheme}
    assert client.post("/v1/tiers/versions", json=body).status_code == 201


def test_the_tier_of_an_instant_as_known_and_as_it_had_happened(shop: httpx.Client) -> None:
    """Case 3.20: a purchase of an earlier instant lifts the tier of that instant when it is told."""
    publish_tiers(shop)
    first = buy(shop, "1", "5.00", None)
    second = buy(shop, "2", "5.00", first["occurred_at"])
    assert tier(shop, at=first["recorded_at"]).json()["tier"]["id"] == "base"
    assert tier(shop, happened_at=first["occurred_at"]).json()["tier"]["id"] == "gold"
    then = {"at": before(second["recorded_at"]), "happened_at": first["occurred_at"]}
    assert tier(shop, **then).json()["tier"]["id"] == "base"
    assert tier(shop, happened_at="2026-01-01T00:00:00Z").status_code == 404  # there were no tiers


def test_a_tier_of_the_balance_of_an_instant_as_known_and_as_it_had_happened(shop: httpx.Client) -> None:
    """Case 3.20: a purchase that is told late was in the balance of its day, and a level with it."""
    levels = [{"id": "base", "name": "Base", "threshold": 0}, {"id": "gold", "name": "Gold", "threshold": 10}]
    publish_tiers(shop, basis={"type": "balance", "wallet": "points"}, window=None, levels=levels)
    published = shop.get("/v1/tiers/current").json()["published_at"]
    first = buy(shop, "1", "5.00", None)
    second = buy(shop, "2", "5.00", first["occurred_at"])
    assert tier(shop, at=first["recorded_at"]).json()["tier"]["id"] == "base"
    told = tier(shop, happened_at=first["occurred_at"]).json()
    assert (told["tier"]["id"], told["value"], told["since"]) == ("gold", 10, first["occurred_at"])
    then = {"at": before(second["recorded_at"]), "happened_at": first["occurred_at"]}
    assert (tier(shop, **then).json()["tier"]["id"], tier(shop, **then).json()["value"]) == ("base", 5)
    taken = {"member": ADA, "points": -3, "reason": "a mistake"}
    spent = shop.post("/v1/adjustments", json=taken).json()["entry"]
    assert tier(shop, happened_at=spent["occurred_at"]).json()["tier"]["id"] == "base"
    assert tier(shop, happened_at=before(spent["occurred_at"])).json()["tier"]["id"] == "gold"
    assert shop.get("/v1/tiers/current", params={"at": published}).json()["version"] == 1
    assert shop.get("/v1/tiers/current", params={"at": before(published)}).status_code == 404


@pytest.mark.parametrize("instant", ["yesterday", "2026-05-15T12:00:00", "1"])
def test_an_instant_that_is_none_is_refused(shop: httpx.Client, instant: str) -> None:
    for path in ("balance", "lots", "entries"):
        for name in ("at", "happened_at"):
            answer = shop.get(f"/v1/members/ext:ada/{path}", params={name: instant})
            assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
