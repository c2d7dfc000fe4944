"""Recording: when points become available, when they go, what a wallet holds, and what pays."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from loyalty.infra.ids import entry_id
from loyalty.ledger import movements
from loyalty.ledger.entry import Draft
from loyalty.ledger.state import SOMEDAY, HoldNotOpen, HoldTooSmall, InsufficientPoints
from loyalty.tiers.engine import Basis, Downgrade, Level, Scheme, Window
from tests.unit.events.purchases import BASE, START, Json, Till, points, terms

YEAR: Json = {"type": "rolling", "months": 12, "round_up_to": "month"}
DELIVERED: Json = {"type": "event", "event_type": "delivered"}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def award(entry: Any) -> Json:
    found: Json = entry["evidence"]["award"]
    return found


# -- pending and expiry -----------------------------------------------------------------------------------------------


def test_pending_points_become_available_at_midnight() -> None:
    """Case 3.16: at 00:00 of the local day, to the millisecond."""
    till = Till(terms(zone="Europe/Berlin", **points(pending={"type": "period", "days": 14})))
    entry = till.buy("p", "100.00")
    assert award(entry)["credits"][0]["activates_at"] == utc("2026-03-15 23:00")
    till.now = utc("2026-03-15 22:59:59.999")
    assert (till.available, till.wallet().pending) == (0, 100)
    till.now = utc("2026-03-15 23:00")
    assert (till.available, till.wallet().pending) == (100, 0)


def test_the_time_of_pending_points_runs_from_their_activation() -> None:
    """Case 3.19: a year from 16 March, to the end of that month."""
    till = Till(terms(**points(pending={"type": "period", "days": 14}, expiry=YEAR)))
    (credit,) = award(till.buy("p", "100.00"))["credits"]
    assert (credit["activates_at"], credit["expires_at"]) == (utc("2026-03-16"), utc("2027-04-01"))
    till.now = utc("2027-03-31 23:59:59.999")
    assert till.available == 100
    till.now = utc("2027-04-01")
    assert till.available == 0


def test_an_event_told_after_its_waiting_time_is_available_at_once() -> None:
    """Cases 3.19 and 3.20: what it would be if it had been told in time."""
    policies = points(pending={"type": "period", "days": 14}, expiry=YEAR)
    late, prompt = Till(terms(**policies)), Till(terms(**policies))
    prompt.buy("p", "100.00")
    late.wait(days=40).buy("p", "100.00", occurred_at=START.isoformat())
    prompt.wait(days=40)
    assert movements.settle(late.head.state, late.now) == movements.settle(prompt.head.state, prompt.now)


def test_points_can_be_born_expired() -> None:
    """Case 3.20: an event told so late that its points have expired: they come and are gone, in its own entry."""
    till = Till(terms(**points(expiry=YEAR)))
    till.buy("now", "5.00")
    entry = till.wait(days=800).buy("p", "100.00", occurred_at=START.isoformat())
    moved = [(posting["from"], posting["to"], posting["points"]) for posting in entry["postings"]]
    assert moved == [("available", "expired", 5), ("issuance", "available", 100), ("available", "expired", 100)]
    assert till.wallet().earned == till.wallet().expired == 105


def test_points_that_are_born_expired_pay_no_debt() -> None:
    """Cases 3.7 and 3.20."""
    till = Till(terms(**points(expiry=YEAR, overspent_refund="negative")))
    till.buy("p", "50.00")
    till.spend(50)
    till.refund("r", "p")
    till.wait(days=800).buy("late", "30.00", occurred_at=START.isoformat())
    assert till.available == -50
    assert till.buy("next", "60.00")["state"]["wallets"]["points"]["available"] == 10


def test_points_that_wait_for_a_date() -> None:
    till = Till(terms(**points(pending={"type": "date", "date": "2026-04-01"})))
    till.buy("before", "10.00")
    till.now = utc("2026-04-01")
    assert till.available == 10
    till.buy("after", "7.00")
    assert till.available == 17


def test_a_rule_can_give_its_points_another_life() -> None:
    """A bonus of 30 days beside points that never expire."""
    bonus = {
        "type": "fixed",
        "id": "bonus",
        "points": 50,
        "wallet": "points",
        "events": ["purchase"],
        "expiry": {"type": "rolling", "days": 30},
        "pending": {"type": "period", "days": 1},
    }
    till = Till(terms(BASE, bonus))
    till.buy("p", "10.00")
    assert (till.available, till.wallet().pending) == (10, 50)
    assert till.wait(days=2).available == 60
    assert till.wait(days=31).available == 10


def test_points_that_wait_for_an_event() -> None:
    """They are the purchase's own: another delivery does not touch them. Their time runs from the event."""
    till = Till(terms(**points(pending=DELIVERED, expiry=YEAR)))
    till.buy("p", "100.00")
    till.buy("q", "30.00")
    assert [(lot.points, lot.activates_at) for lot in till.wallet().lots] == [(130, SOMEDAY)]
    assert till.wait(days=60).tell("other", "delivered")["postings"] == []
    assert till.tell("wrong", "dispatched", refers_to="p")["kind"] == "earn"
    entry = till.tell("d", "delivered", refers_to="p")
    assert entry["kind"] == "activate"
    assert (till.available, till.wallet().pending) == (100, 30)
    assert till.wallet().lots[0].expires_at == utc("2027-06-01")
    assert till.tell("again", "delivered", refers_to="p")["kind"] == "earn"


def test_refunds_and_activations_of_one_purchase_know_of_each_other() -> None:
    """Case 3.10: what was refunded is not activated, and what was activated is taken from where it is now."""
    till = Till(terms(**points(pending=DELIVERED, expiry=YEAR)))
    till.buy("p", "100.00")
    till.buy("q", "100.00")
    till.refund("r1", "p", "40.00")
    assert till.wallet().pending == 160
    till.tell("d", "delivered", refers_to="p")
    assert (till.available, till.wallet().pending) == (60, 100)
    till.refund("r2", "p")
    assert (till.available, till.wallet().pending) == (0, 100)


def test_inactivity_lets_the_wallet_lapse() -> None:
    """Case 3.17: each activity makes it live twelve months more, to the end of the day."""
    till = Till(terms(**points(expiry={"type": "inactivity", "months": 12})))
    till.now = utc("2028-02-29 10:00")
    till.buy("p", "100.00")
    assert till.wallet().lapses_at == utc("2029-03-01")
    till.now = utc("2029-02-28 23:59:59.999")
    assert till.available == 100
    till.buy("q", "1.00")
    till.now = utc("2030-02-28 23:59:59.999")
    assert till.available == 101
    till.now = utc("2030-03-01")
    assert till.available == 0


def test_a_late_event_does_not_make_a_wallet_lapse_earlier() -> None:
    """Case 3.20."""
    till = Till(terms(**points(expiry={"type": "inactivity", "days": 100})))
    till.wait(days=90).buy("now", "10.00")
    lapses_at = till.wallet().lapses_at
    till.buy("late", "5.00", occurred_at=START.isoformat())
    assert (till.wallet().lapses_at, till.available) == (lapses_at, 15)


def test_a_late_event_of_an_inactive_member_is_born_lapsed() -> None:
    """Case 3.20."""
    till = Till(terms(**points(expiry={"type": "inactivity", "days": 10})))
    till.wait(days=90).buy("late", "5.00", occurred_at=START.isoformat())
    assert (till.available, till.wallet().expired) == (0, 5)


def test_only_what_the_policy_names_is_activity() -> None:
    payment: Json = {"points_payment": {"points": 1, "amount": "1.00"}}
    till = Till(terms(**payment, **points(expiry={"type": "inactivity", "days": 10, "activity": ["spend"]})))
    till.buy("p", "10.00")
    assert till.wallet().lapses_at is None
    till.buy("q", "4.00", payments=[{"method": "points", "amount": "4.00"}])
    assert till.wallet().lapses_at == utc("2026-03-13")


# -- what a wallet holds ----------------------------------------------------------------------------------------------


def test_a_wallet_that_is_full_takes_what_fits() -> None:
    """Case 3.19: pending points count. The cut is in the evidence, and refunds go by what was given."""
    till = Till(terms(**points(max_balance=120, pending={"type": "period", "days": 14})))
    lines = [{"line_id": "1", "amount": "60.00"}, {"line_id": "2", "amount": "40.00"}]
    till.buy("p", "100.00")
    entry = till.buy("q", "100.00", items=lines)
    assert award(entry)["limits"] == ["max_balance:points"]
    assert award(entry)["credits"][0]["points"] == 20
    assert award(entry)["credits"][0]["attribution"] == [12, 8]
    nothing = till.buy("r", "1.00")
    assert (award(nothing)["limits"], nothing["postings"]) == (["max_balance:points"], [])
    till.refund("s", "q", items=[{"line_id": "1"}])
    assert till.wallet().pending == 108


def test_several_wallets_in_one_entry() -> None:
    status = {**BASE, "id": "status", "wallet": "status", "points": 10}
    policies: Json = {
        "wallets": {"points": {"expiry": YEAR}, "status": {"spendable": False, "max_balance": 500}},
    }
    till = Till(terms(BASE, status, **policies))
    entry = till.buy("p", "100.00")
    assert (till.available, till.wallet("status").available) == (100, 500)
    assert [credit["wallet"] for credit in award(entry)["credits"]] == ["points", "status"]
    till.refund("r", "p", "50.00")
    assert (till.available, till.wallet("status").available) == (50, 250)


# -- points that pay --------------------------------------------------------------------------------------------------

PAYMENT: Json = {"points_payment": {"points": 3, "amount": "0.02", "max_share_percent": 50}}


def test_points_pay_and_a_fraction_of_a_point_is_paid_as_a_whole_one() -> None:
    """Case 3.30: half of it is paid with points and earns nothing."""
    till = Till(terms(**PAYMENT))
    till.buy("p", "1000.00")
    entry = till.buy("q", "10.02", payments=[{"method": "points", "amount": "5.01"}])
    assert award(entry)["paid"][0]["points"] == 752  # 501 minor units at 1.5
    assert award(entry)["lines"][0]["basis"] == 501
    assert till.available == 1000 - 752 + 5


def test_points_that_are_not_there_cannot_pay() -> None:
    """Case 3.3."""
    till = Till(terms(**PAYMENT))
    till.buy("p", "10.00")
    with pytest.raises(InsufficientPoints) as refused:
        till.buy("q", "10.02", payments=[{"method": "points", "amount": "5.01"}])
    assert (refused.value.available, refused.value.missing) == (10, 742)
    assert till.available == 10


def test_a_hold_pays_and_the_rest_of_it_returns() -> None:
    """Case 3.4."""
    till = Till(terms(**PAYMENT))
    till.buy("p", "1000.00")
    held = till.append(
        lambda state, sequence, now: Draft(
            "hold",
            now,
            movements.hold(state, "points", 900, sequence=sequence, until=utc("2026-03-03")),
            {},
        )
    )
    pays = {"method": "points", "amount": "5.00", "hold": entry_id(held["_id"])}
    with pytest.raises(HoldTooSmall):
        till.buy("big", "100.00", payments=[{**pays, "amount": "10.00"}])
    entry = till.buy("q", "10.00", payments=[pays])
    assert award(entry)["paid"][0]["hold"] == pays["hold"]
    assert (till.available, till.wallet().held, till.wallet().spent) == (255, 0, 750)
    with pytest.raises(HoldNotOpen):
        till.buy("again", "10.00", payments=[pays])
    with pytest.raises(HoldNotOpen):
        till.buy("else", "10.00", payments=[{**pays, "hold": "ent_00000000g0001"}])


# -- tiers ------------------------------------------------------------------------------------------------------------

SILVER = Scheme(
    1,
    Basis("spend"),
    Window("rolling", days=365),
    (Level("basic", "Basic", 0), Level("silver", "Silver", 10_000, 2000)),
    Downgrade("full"),
    START,
)


def test_the_purchase_that_reaches_a_tier_counts_by_the_one_before() -> None:
    """Case 3.13."""
    till = Till(terms(tiers=SILVER))
    entry = till.buy("p", "100.00")
    assert (award(entry)["tier"], till.available) == ("basic", 100)
    assert [change["to"] for change in entry["evidence"]["tier"]] == ["silver"]
    assert award(till.buy("q", "10.00"))["tier"] == "silver"
    assert till.available == 120


def test_a_refund_takes_the_spend_back_on_its_own_day() -> None:
    """Case 3.13: what was awarded meanwhile stays; the level falls at its review."""
    till = Till(terms(tiers=SILVER))
    till.buy("p", "100.00")
    till.wait(days=1).buy("q", "10.00")
    till.refund("r", "p")
    assert till.available == 20
    assert award(till.wait(days=2).buy("s", "10.00"))["tier"] == "basic"


def test_who_may_not_earn_gets_nothing_and_counts_for_no_tier() -> None:
    till = Till(terms(tiers=SILVER))
    till.member = till.member.__class__(7, "main", ("ext:ada",), "blocked", {}, START, START, 1)
    entry = till.buy("p", "100.00")
    assert (award(entry)["limits"], entry["postings"]) == (["earning_blocked"], [])
    assert "tier" not in entry["evidence"]


# -- out of order -----------------------------------------------------------------------------------------------------


def test_a_delivery_before_its_purchase_waits_for_it() -> None:
    """Case 3.21: their time runs from the purchase, which was later."""
    till = Till(terms(**points(pending=DELIVERED, expiry=YEAR)))
    assert till.tell("d", "delivered", refers_to="p")["evidence"]["parked"] == {"source": "till", "id": "p"}
    entry = till.wait(days=1).buy("p", "100.00")
    assert (till.available, till.wallet().pending) == (100, 0)
    assert entry["evidence"]["activations"][0]["parked"] == 1
    assert "parked" not in till.head.state.facets
    assert till.refund("r", "p")["state"]["wallets"]["points"]["available"] == 0


def test_what_waits_can_be_waited_for() -> None:
    """Case 3.21: a refund of a delivery that waits for its purchase does not make either wait for ever."""
    fee = {"type": "fixed", "id": "fee", "points": 3, "wallet": "points", "events": ["delivered"]}
    till = Till(terms(BASE, fee, **points(pending=DELIVERED)))
    till.refund("r", "d")
    till.tell("d", "delivered", refers_to="p")
    assert [found["id"] for found in till.head.state.facets["parked"]["waiting"]] == ["p"]
    till.buy("p", "100.00")
    assert (till.available, till.wallet().pending, till.wallet().reversed) == (100, 0, 3)
    assert "parked" not in till.head.state.facets
