"""Back-tests over a real ledger: the rules that were live give what was given, others what they would have given."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from loyalty.backtests import running, service
from loyalty.backtests.model import NewBacktest
from loyalty.backtests.running import parts_of
from loyalty.events import service as events
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.infra.problems import Problem, ValidationFailed
from loyalty.jobs.settlement import settlements
from loyalty.ledger.projection import rebuild
from loyalty.migrations import migrate
from loyalty.points.terms import Terms, current
from loyalty.programs import service as programs
from loyalty.programs.policies import Policies
from loyalty.rules import drafts
from loyalty.rules import service as rules
from loyalty.rules.model import Proposal, RuleSet
from loyalty.tiers import service as tiers
from loyalty.tiers.model import TierScheme

Json = dict[str, Any]
OPENED = datetime(2026, 1, 1, tzinfo=timezone.utc)
RULES: Json = {
    "rules": [
        {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "caps": {"per_month": 300}},
        {"type": "points_per_item", "id": "coffee", "points": 5, "where": 'category = "coffee"'},
        {"type": "multiplier", "id": "first", "factor": "2", "when": "counters.purchases.month = 0"},
        {"type": "points_per_visit", "id": "visit", "wallet": "stamps", "points": 1},
    ]
}
OTHER: Json = {"rules": [{"type": "points_per_spend", "id": "base", "points": 3, "per": "2.00"}]}
IN_ROME = 'member.segments contains "romans"'
POLICIES: Json = {
    "wallets": {
        "points": {
            "pending": {"type": "period", "days": 3},
            "expiry": {"type": "rolling", "days": 60, "round_up_to": "month"},
            "overspent_refund": "stop_at_zero",
        },
        "stamps": {},
    }
}
TIERS: Json = {
    "basis": {"type": "spend"},
    "window": {"type": "rolling", "days": 30},
    "levels": [
        {"id": "base", "name": "Base", "threshold": "0"},
        {"id": "gold", "name": "Gold", "threshold": "150.00", "earn_multiplier": "1.500"},
    ],
}


@pytest.fixture(scope="module")
def shop(mongo_uri: str) -> Iterator[Mongo]:
    """A program with pending and expiring points, capped rules and tiers; half a year of a few customers.

    Made once: back-tests change nothing of it.
    """
    db = connect(mongo_uri, f"test_{secrets.token_hex(8)}", serves_requests=False)
    migrate(db, release="test", clock=system_clock)
    program = programs.create(
        db, id="shop", name="Shop", currency="USD", timezone="America/New_York", clock=lambda: OPENED
    )
    programs.change(db, program.id, expected_version=None, changes={"policies": Policies.model_validate(POLICIES)})
    program = programs.read(db, "shop")
    publish = {"expected_version": None, "published_by": "key", "clock": lambda: OPENED}
    rules.publish(db, program, RuleSet.model_validate(RULES), **publish)  # type: ignore[arg-type]
    tiers.publish(db, program, TierScheme.model_validate(TIERS), **publish)  # type: ignore[arg-type]
    db.members.insert_many([member(number, "Oslo" if number % 2 else "Rome") for number in range(1, 13)])
    terms = current(db, program.id)
    for at, batch in history():
        tell(db, terms, batch, at)
    yield db
    db.client.drop_database(db.name)
    db.client.close()


def member(number: int, city: str) -> Json:
    return {
        "_id": number,
        "program": "shop",
        "handles": [f"ext:{number}"],
        "status": "active",
        "profile": {"attributes": {"city": city}},
        "created_at": OPENED,
        "updated_at": OPENED,
        "version": 1,
    }


def history() -> Iterator[tuple[datetime, list[Json]]]:
    """Day by day: purchases (some told late), visits, refunds in part and in full."""
    random_ = random.Random(7)
    bought: list[str] = []
    for day in range(0, 180, 3):
        now = OPENED + timedelta(days=day, hours=15)
        batch: list[Json] = []
        for number in range(1, 13):
            chance = random_.random()
            told: Json = {"source": "till", "id": f"{day}-{number}", "member": {"external_id": str(number)}}
            if chance < 0.5:
                told |= purchase(random_, now - timedelta(days=random_.choice([0, 0, 0, 5])))
                bought.append(f"{day}-{number}")
            elif chance < 0.6:
                told |= {"type": "visit", "occurred_at": instant(now)}
            elif chance < 0.7 and (own := [one for one in bought if one.endswith(f"-{number}")]):
                told |= {"type": "refund", "refers_to": random_.choice(own), "occurred_at": instant(now)}
                if random_.random() < 0.6:
                    told |= {"amount": "3.50", "currency": "USD"}
            else:
                continue
            batch.append(told)
        yield now, batch


def purchase(random_: random.Random, at: datetime) -> Json:
    cents = random_.randrange(500, 20_000)
    coffee = random_.randrange(100, 500)
    items = [
        {"line_id": "1", "category": "coffee", "quantity": random_.randrange(1, 4), "amount": money(coffee)},
        {"line_id": "2", "category": "books", "quantity": 1, "amount": money(cents - coffee)},
    ]
    return {
        "type": "purchase",
        "occurred_at": instant(at),
        "amount": money(cents),
        "currency": "USD",
        "items": items if random_.random() < 0.7 else [],
    }


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def tell(db: Mongo, terms: Terms, batch: Sequence[Json], now: datetime) -> None:
    for result in events.record_values(db, terms, [orjson.dumps(one) for one in batch], clock=lambda: now):
        # A purchase that was returned in full cannot be returned again.
        assert not isinstance(result, Problem) or result.code == "refund_exceeds_purchase", result.detail
    rebuild(db)
    for _ in settlements(db, clock=lambda: now):
        pass


def backtest(db: Mongo, *, uri: str | None = None, processes: int = 1, **wanted: Any) -> Json:
    """The result of a back-test, run here."""
    end = {"to": instant(OPENED + timedelta(days=400))}
    if "since" in wanted:
        wanted["from"] = wanted.pop("since")
    body = NewBacktest.model_validate_json(orjson.dumps({**end, **wanted}))
    document = service.request(db, programs.read(db, "shop"), body, by="key", clock=system_clock)
    service.complete(db, document, uri=uri, processes=processes, clock=system_clock, check=lambda: None)
    finished = service.read(db, "shop", document["_id"])
    assert finished["status"] == "done"
    result: Json = finished["result"]
    return result


def differences(result: Any) -> set[int]:
    """Every `difference` in the result."""
    if isinstance(result, dict):
        own = {result["difference"]} if "difference" in result else set()
        return own.union(*[differences(value) for value in result.values()])
    if isinstance(result, list):
        return set().union(*[differences(value) for value in result])
    return set()


def test_the_version_that_was_live_gives_what_was_given(shop: Mongo) -> None:
    before = shop.command("dbHash")["collections"]
    result = backtest(shop, version=1, segments=["tier", "attributes.city"])
    assert result["events"] > 250
    assert differences(result) == {0}
    assert result["winners"] == result["losers"] == {}
    after = shop.command("dbHash")["collections"]
    assert {name for name in after if after[name] != before.get(name)} == {"backtests"}


def test_what_really_happened_is_what_the_ledger_says(shop: Mongo) -> None:
    until = OPENED + timedelta(days=180)
    result = backtest(shop, version=1, to=instant(until))
    entries = list(shop.ledger.find({}))
    issued = [posting for entry in entries for posting in entry["postings"] if posting["from"] == "issuance"]
    credited = sum(posting["points"] for posting in issued if posting["wallet"] == "points")
    assert result["wallets"]["points"]["issued"]["real"] == credited
    heads = {entry["_id"] >> 24: entry["state"]["wallets"] for entry in entries}
    held = sum(wallets["points"]["available"] + wallets["points"]["pending"] for wallets in heads.values())
    gone = sum(
        lot["points"]
        for wallets in heads.values()
        for lot in wallets["points"]["lots"]
        if "expires_at" in lot and lot["expires_at"] <= until
    )
    assert result["wallets"]["points"]["open"]["real"] == held - gone
    taken = [posting for entry in entries for posting in entry["postings"] if posting["to"] == "reversed"]
    assert result["wallets"]["points"]["reversed"]["real"] >= sum(posting["points"] for posting in taken) > 0
    moves = sum(move["moves"]["real"] for move in result["moves"])
    assert moves >= sum(len(entry["evidence"].get("tier", ())) for entry in entries) > 0
    assert any(cap["reason"] == "cap_per_month" and cap["hits"]["real"] > 0 for cap in result["caps"])


@pytest.mark.parametrize("span", [(30, 90), (0, 45), (120, 400)])
def test_a_part_of_the_history_begins_with_what_was_there(shop: Mongo, span: tuple[int, int]) -> None:
    start, end = (instant(OPENED + timedelta(days=day)) for day in span)
    result = backtest(shop, version=1, since=start, to=end)
    assert 0 < result["events"] < 290
    assert {line["points"]["difference"] for line in result["rules"]} == {0}
    assert differences(result["wallets"]["points"]["issued"]) == {0}


def test_segments_of_the_draft_are_asked_for_and_told_apart(shop: Mongo) -> None:
    rules = {
        "rules": [*OTHER["rules"], {"type": "multiplier", "id": "m", "factor": "2", "when": IN_ROME}],
        "segments": [{"id": "romans", "when": 'member.attributes.city = "Rome"'}],
    }
    result = backtest(shop, rules=rules, segments=["segments.romans", "attributes.city"])
    plain = backtest(shop, rules=OTHER, segments=["attributes.city"])

    def drafts(of: Json, segment: str) -> Json:
        lines = [line for line in of["segments"] if line["segment"] == segment and line["wallet"] == "points"]
        return {line["value"]: line["points"]["draft"] for line in lines}

    told, before = drafts(result, "attributes.city"), drafts(plain, "attributes.city")
    assert drafts(result, "segments.romans") == {"in": told["Rome"], "out": told["Oslo"]}
    assert told["Oslo"] == before["Oslo"]
    assert told["Rome"] > 1.9 * before["Rome"]
    with pytest.raises(ValidationFailed) as refusal:
        backtest(shop, rules=rules, segments=["segments.roman"])
    assert 'Perhaps you mean "segments.romans"' in str(refusal.value.extra["errors"])


def test_other_rules_give_what_they_say(shop: Mongo) -> None:
    result = backtest(shop, rules=OTHER, segments=["attributes.city"])
    entries = shop.ledger.find({"evidence.event.type": "purchase"})
    expected = 0
    levels: Json = {"base": 1000, "gold": 1500}
    for entry in entries:
        level = levels[entry["evidence"]["award"]["tier"]]
        expected += entry["evidence"]["event"]["amount"] * 3 * level // (200 * 1000)
    assert result["wallets"]["points"]["issued"]["draft"] == expected
    assert result["wallets"]["stamps"]["issued"]["draft"] == 0
    cities = {line["value"]: line for line in result["segments"] if line["wallet"] == "points"}
    assert set(cities) == {"Rome", "Oslo"}
    assert sum(line["winners"] + line["losers"] + line["unchanged"] for line in cities.values()) == 12
    gained = result["winners"].get("points", [])
    assert gained == sorted(gained, key=lambda one: -one["points"]["difference"])
    assert all(one["segments"]["attributes.city"] in cities for one in gained)


def test_a_budget_is_told_and_not_spent(shop: Mongo) -> None:
    """Budgets are of all members together, and parts of a back-test know nothing of each other."""
    (rule,) = OTHER["rules"]
    campaigns = [{"id": "spring", "budget": {"points": 1}}]
    result = backtest(shop, rules={"rules": [{**rule, "campaign": "spring"}], "campaigns": campaigns})
    issued = result["wallets"]["points"]["issued"]["draft"]
    assert result["budgets"] == [{"campaign": "spring", "points": issued}]
    assert issued == backtest(shop, rules=OTHER)["wallets"]["points"]["issued"]["draft"]


def test_other_tiers_move_other_members(shop: Mongo) -> None:
    easy = {**TIERS, "levels": [TIERS["levels"][0], {**TIERS["levels"][1], "threshold": "1.00"}]}
    result = backtest(shop, version=1, tiers=easy)
    reached = {(move["from"], move["to"]): move["moves"] for move in result["moves"]}["base", "gold"]
    assert reached["draft"] > 0
    assert reached["draft"] != reached["real"]
    assert result["wallets"]["points"]["issued"]["difference"] > 0


def test_refunds_take_back_what_the_draft_gave(shop: Mongo) -> None:
    double = {"rules": [{**RULES["rules"][0], "points": 2, "caps": {}}]}
    single = {"rules": [{**RULES["rules"][0], "points": 1, "caps": {}}]}
    flat = {**TIERS, "levels": TIERS["levels"][:1]}
    one, two = (backtest(shop, rules=one, tiers=flat)["wallets"]["points"] for one in (single, double))
    assert one["reversed"]["draft"] > 0
    assert abs(two["reversed"]["draft"] - 2 * one["reversed"]["draft"]) <= 200  # roundings, one for each purchase


def test_several_processes_come_to_the_same(shop: Mongo, mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = backtest(shop, rules=OTHER)
    monkeypatch.setattr("loyalty.backtests.running.MEMBERS_IN_PART", 3)
    assert len(parts_of(shop, "shop")) == 4
    assert backtest(shop, rules=OTHER, uri=mongo_uri, processes=2) == alone


def test_one_that_was_cut_off_goes_on_where_it_was(shop: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = backtest(shop, rules=OTHER)
    monkeypatch.setattr("loyalty.backtests.running.MEMBERS_IN_PART", 3)
    body = NewBacktest.model_validate_json(orjson.dumps({"rules": OTHER, "to": instant(OPENED + timedelta(days=400))}))
    document = service.request(shop, programs.read(shop, "shop"), body, by="key", clock=system_clock)
    steps = iter([None, None])

    def cut() -> None:
        if next(steps, "cut") == "cut":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.complete(shop, document, uri=None, processes=1, clock=system_clock, check=cut)
    half = service.next_pending(shop)
    assert half is not None
    assert (half["status"], half["parts_done"], half["parts"]) == ("running", 2, 4)
    read: list[Any] = []
    original = running.run

    def counting(db: Mongo, spec: Any, parts: Any, **options: Any) -> Any:
        read.extend(parts)
        return original(db, spec, parts, **options)

    monkeypatch.setattr(service, "run", counting)
    service.complete(shop, half, uri=None, processes=1, clock=system_clock, check=lambda: None)
    assert len(read) == 2
    assert service.read(shop, "shop", document["_id"])["result"] == whole
    assert service.next_pending(shop) is None


def test_a_draft_can_be_tried(shop: Mongo) -> None:
    program = programs.read(shop, "shop")
    proposal = Proposal.model_validate(OTHER)
    draft = drafts.create(shop, program, proposal, by="key", clock=lambda: OPENED)
    assert backtest(shop, draft=draft.id) == backtest(shop, rules=OTHER)


def test_a_program_without_members_has_no_result_to_speak_of(database: Mongo) -> None:
    programs.create(database, id="shop", name="Shop", currency="USD", clock=lambda: OPENED)
    assert backtest(database, rules=OTHER)["events"] == 0
