"""Corner cases that belong to no single feature, in memory, by the very functions that decide live."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import loyalty
from loyalty.ledger import movements
from loyalty.ledger.entry import Draft
from loyalty.ledger.state import InsufficientPoints, LedgerDefect, Posting, State, fold
from tests.model.chain import Chain, check
from tests.model.engine_side import Engine
from tests.model.naive_member import Member

NOW = datetime(2027, 3, 1, 12, tzinfo=timezone.utc)
SOURCES = Path(loyalty.__file__).parent

PLAIN: dict[str, Any] = {
    "zone": "Europe/Berlin",
    "policies": {"wallets": {"points": {}, "status": {}}},
    "rules": {"rules": [{"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}]},
    "tiers": None,
}


def purchase(name: str, amount: str = "10.00", **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "purchase", "amount": amount, "currency": "USD", **more}


def available(engine: Engine, now: datetime = NOW) -> int:
    return engine.at(now).wallet("points").available


def test_lots_are_ordered_by_instants_not_by_how_they_are_written() -> None:
    """Case 3.6: 23:30 at +02:00 is before 22:30 at +00:00, whatever the texts say; never-expiring points go last."""
    east = timezone(timedelta(hours=2))
    state = State()
    for sequence, expires_at in (
        (1, None),
        (2, datetime(2027, 5, 1, 22, 30, tzinfo=timezone.utc)),
        (3, datetime(2027, 5, 1, 23, 30, tzinfo=east)),
    ):
        state = fold(
            state,
            movements.credit(state, "points", 10, source="issuance", sequence=sequence, expires_at=expires_at),
        )
    spent = movements.debit(state, "points", 25, target="spent")
    assert [(posting.lot, posting.points) for posting in spent] == [(3, 10), (2, 10), (1, 5)]


def test_a_debt_is_paid_by_what_comes_next_and_expired_points_pay_none() -> None:
    """Case 3.7: the balance after is what was earned less what was owed, and expiry takes nothing twice."""
    wallets = {"points": {"overspent_refund": "negative", "expiry": {"type": "rolling", "days": 5}}, "status": {}}
    engine = Engine({**PLAIN, "policies": {"wallets": wallets}}, NOW)
    engine.event(purchase("first", "100.00"), NOW)
    engine.spend("points", 80, NOW, "reward")
    engine.event({"id": "back", "type": "refund", "refers_to": "first"}, NOW)
    assert available(engine) == -80
    engine.event(purchase("second", "50.00"), NOW + timedelta(days=1))
    assert available(engine, NOW + timedelta(days=1)) == -30
    assert available(engine, NOW + timedelta(days=30)) == -30
    engine.event(purchase("third", "100.00"), NOW + timedelta(days=30))
    assert available(engine, NOW + timedelta(days=30)) == 70
    assert available(engine, NOW + timedelta(days=60)) == 0


def test_corrections_are_new_entries_and_nothing_else_changes() -> None:
    """Case 3.22."""
    engine = Engine(PLAIN, NOW)
    engine.event(purchase("first", "100.00"), NOW)
    engine.spend("points", 30, NOW, "reward")
    before = [json.dumps(entry, default=str) for entry in engine.chain.entries]
    engine.cancel("reward", NOW)
    engine.event({"id": "back", "type": "refund", "refers_to": "first"}, NOW)
    engine.adjust("points", 7, NOW, None)
    assert [json.dumps(entry, default=str) for entry in engine.chain.entries[:2]] == before
    assert [entry["kind"] for entry in engine.chain.entries[2:]] == ["cancel", "refund", "adjust"]
    refund = engine.chain.entries[3]["evidence"]["refund"]
    assert refund["of"]["id"] == "first"


def test_a_single_module_writes_the_ledger_and_none_changes_it() -> None:
    """Case 3.22: the database's users could not either, see the test of their privileges."""
    writes = re.compile(r"ledger\.(insert|update|delete|replace|find_one_and|bulk_write|drop|rename)\w*\(")
    found = {
        (str(path.relative_to(SOURCES)), match.group(1))
        for path in SOURCES.rglob("*.py")
        for match in writes.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == {("ledger/append.py", "insert")}


def test_every_movement_has_two_ends_and_every_entry_its_state() -> None:
    """Case 3.23: a sum of movements is zero, and what an entry says of the state is what its movements make of it."""
    engine = Engine(PLAIN, NOW)
    engine.event(purchase("first", "100.00"), NOW)
    engine.hold("points", 40, 60, NOW)
    chain = Chain()
    for entry in engine.chain.entries:
        balance: dict[str, int] = {}
        for posting in entry["postings"]:
            balance[posting["from"]] = balance.get(posting["from"], 0) - posting["points"]
            balance[posting["to"]] = balance.get(posting["to"], 0) + posting["points"]
        assert sum(balance.values()) == 0
        check(entry, chain.head)
        chain.head = type(chain.head).of(entry)
    forged = {**engine.chain.entries[-1], "state": engine.chain.entries[0]["state"]}
    with pytest.raises(AssertionError):
        check(forged, engine.chain.head)


def test_points_out_of_nothing_are_a_defect() -> None:
    """Case 3.23: neither from a bucket that does not give, nor more than a lot has."""
    for posting in (
        Posting("points", "spent", "pending", 5, 1, activates_at=NOW),
        Posting("points", "available", "spent", 5, 1),
    ):
        with pytest.raises(LedgerDefect):
            fold(State(), [posting])


def test_the_ledger_knows_a_number_and_no_person() -> None:
    """Case 3.26: what a person is called stands in the profile alone, so it can go while the chain stays and verifies.

    No member is deleted, not even by an erasure.
    """
    engine = Engine(PLAIN, NOW)
    engine.event(purchase("first", "100.00"), NOW)
    engine.hold("points", 40, 60, NOW)
    for entry in engine.chain.entries:
        written = json.dumps({**entry, "prev": "", "hash": ""}, default=str)
        assert "ext:7" not in written
        assert "external_id" not in written
    members = (SOURCES / "members" / "service.py").read_text(encoding="utf-8")
    assert re.search(r"\.delete_(one|many)\(", members) is None


def test_a_source_that_repeats_itself_is_stopped_by_the_cap_of_the_day() -> None:
    """Case 3.32: after so many a day nothing more is given, and each attempt leaves a trace."""
    rule = {"id": "check-in", "type": "points_per_visit", "points": 10, "caps": {"per_day": 30}}
    engine = Engine({**PLAIN, "rules": {"rules": [rule]}}, NOW)
    given = []
    for number in range(6):
        entry = engine.event({"id": f"visit-{number}", "type": "visit"}, NOW + timedelta(minutes=number))
        (line,) = entry["evidence"]["award"]["lines"]
        given.append((line["points"], line.get("reason")))
    assert given == [(10, None)] * 3 + [(0, "cap_per_day")] * 3
    assert available(engine, NOW + timedelta(minutes=6)) == 30
    engine.event({"id": "tomorrow", "type": "visit"}, NOW + timedelta(days=1))
    assert available(engine, NOW + timedelta(days=1)) == 40


def test_a_burst_of_debits_ends_where_the_points_end() -> None:
    """Case 3.32: however fast, nobody spends what is not there, and a refusal leaves no entry."""
    engine = Engine(PLAIN, NOW)
    engine.event(purchase("first", "25.00"), NOW)
    done = 0
    for number in range(20):
        if number < 2:
            engine.spend("points", 10, NOW, number)
            done += 1
            continue
        with pytest.raises(InsufficientPoints) as refusal:
            engine.spend("points", 10, NOW, number)
        assert refusal.value.missing == 5
    assert (done, available(engine), len(engine.chain.entries)) == (2, 5, 3)


def test_what_is_written_replays_to_the_same_hashes() -> None:
    """Case 3.23: the log on an empty chain makes the same chain."""
    engine = Engine(PLAIN, NOW)
    for number in range(5):
        engine.event(purchase(f"p{number}", "12.00"), NOW + timedelta(days=number))
    engine.spend("points", 33, NOW + timedelta(days=9), "reward")
    engine.chain.append(lambda state, sequence, now: Draft("settle", now, [], {}), NOW + timedelta(days=400))
    again = engine.chain.replayed()
    assert [entry["hash"] for entry in again.entries] == [entry["hash"] for entry in engine.chain.entries]


def test_an_event_that_activates_another_one_keeps_its_own_refunds_apart() -> None:
    """Case 3.21: the refund of a delivery came before it; the delivery makes the purchase's points available."""
    wallets = {"points": {"pending": {"type": "event", "event_type": "delivered"}}, "status": {}}
    rules = {
        "rules": [*PLAIN["rules"]["rules"], {"id": "thanks", "type": "fixed", "points": 5, "events": ["delivered"]}]
    }
    engine = Engine({**PLAIN, "policies": {"wallets": wallets}, "rules": rules}, NOW)
    engine.event({"id": "back", "type": "refund", "refers_to": "parcel"}, NOW)
    engine.event(purchase("order", "100.00"), NOW)
    engine.event({"id": "parcel", "type": "delivered", "refers_to": "order"}, NOW)
    assert available(engine) == 100
    engine.event({"id": "half", "type": "refund", "refers_to": "order", "amount": "50.00", "currency": "USD"}, NOW)
    assert available(engine) == 50


def test_a_tier_of_a_balance_falls_when_the_idle_wallet_lapses() -> None:
    """Case 3.14: the entry that earns says when the wallet lapses, and the tier knows it from then on."""
    levels = [
        {"id": level, "threshold": least, "multiplier_milli": 1000} for level, least in (("base", 0), ("gold", 5))
    ]
    tiers = {
        "basis": {"type": "balance", "wallet": "points"},
        "window": {"type": "lifetime"},
        "levels": levels,
        "downgrade": {"to": "full", "grace_days": 0},
    }
    wallets = {"points": {"expiry": {"type": "inactivity", "days": 1}}, "status": {}}
    engine = Engine({**PLAIN, "policies": {"wallets": wallets}, "tiers": tiers, "start": NOW.isoformat()}, NOW)
    engine.event(purchase("p"), NOW)
    assert engine.standing(NOW).level == "gold"
    later = NOW + timedelta(days=10)
    assert (available(engine, later), engine.standing(later).level) == (0, "base")
    assert engine.standing(later).since == datetime(2027, 3, 2, 23, tzinfo=timezone.utc)


def test_a_balance_that_changed_once_costs_one_level_and_the_next_one_at_midnight() -> None:
    """Case 3.14: an entry that leaves the balance as it is, even in the instant of the change, is no review."""
    levels = [
        {"id": level, "threshold": least, "multiplier_milli": 1000}
        for level, least in (("base", 0), ("silver", 1), ("gold", 2))
    ]
    tiers = {
        "basis": {"type": "balance", "wallet": "points"},
        "window": {"type": "lifetime"},
        "levels": levels,
        "downgrade": {"to": "one_level", "grace_days": 0},
    }
    program = {**PLAIN, "tiers": tiers}
    engine, naive = Engine(program, NOW), Member(program, NOW.date())
    end = NOW + timedelta(hours=3)

    def give(wallet: str, now: datetime, expires_at: datetime | None) -> None:
        engine.adjust(wallet, 2, now, expires_at)
        naive.do("adjust", wallet, 2, now, expires_at)

    def level(now: datetime) -> str:
        naive.do("wait", now)
        assert engine.standing(now).level == levels[naive.world.standing.rank]["id"]
        return engine.standing(now).level

    give("points", NOW, end)
    assert level(NOW) == "gold"
    assert level(end) == "silver"
    give("status", end, None)
    assert level(end) == "silver"
    midnight = datetime(2027, 3, 1, 23, tzinfo=timezone.utc)
    assert level(midnight - timedelta(milliseconds=1)) == "silver"
    assert level(midnight) == "base"
