"""Refunds: whatever is taken back, in whatever parts, ends at exactly what was given."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.events.refunds import Exceeds, Purchase, Wanted, advance
from loyalty.ledger.state import Document
from tests.unit.events.purchases import BASE, START, Till, points, terms

Json = dict[str, Any]


def taken(entry: Document) -> int:
    return sum(credit["points"] for credit in entry["evidence"]["refund"]["credits"])


def told(entry: Document, name: str) -> int:
    return sum(credit.get(name, 0) for credit in entry["evidence"]["refund"]["credits"])


# -- how much ---------------------------------------------------------------------------------------------------------


def test_three_parts_take_what_the_whole_gave() -> None:
    """Case 3.9: 617 points go back as 249 + 250 + 118, the last part taking what rounding left."""
    till = Till(terms())
    till.buy("p", "617.90")
    parts = [taken(till.refund(f"r{number}", "p", amount)) for number, amount in enumerate(("250.00", "250.00"))]
    parts.append(taken(till.refund("r9", "p")))
    assert parts == [249, 250, 118]
    assert till.available == 0


def test_half_the_amount_takes_half_the_points() -> None:
    """Case 3.9: of 40 that gave 70 points, 20 are refunded."""
    till = Till(terms({**BASE, "points": 7, "per": "4.00"}))
    assert till.buy("p", "40.00")["postings"][0]["points"] == 70
    assert taken(till.refund("r", "p", "20.00")) == 35


def test_a_line_takes_what_it_earned() -> None:
    """Case 3.9: of two lines only the music earned; returning the book takes nothing back."""
    only = {"field": "category", "op": "=", "value": "music"}
    till = Till(terms({**BASE, "basis": {"only": only}}))
    lines = [
        {"line_id": "cd", "category": "music", "quantity": 3, "amount": "30.00"},
        {"line_id": "book", "category": "books", "amount": "20.00"},
    ]
    till.buy("p", "50.00", items=lines)
    assert taken(till.refund("r1", "p", items=[{"line_id": "book"}])) == 0
    assert taken(till.refund("r2", "p", items=[{"line_id": "cd"}])) == 10
    assert taken(till.refund("r3", "p", items=[{"line_id": "cd", "quantity": 2}])) == 20
    assert till.bought("p").progress.complete


def test_lines_and_amounts_mix() -> None:
    """Case 3.9."""
    till = Till(terms())
    till.buy("p", "100.00", items=[{"line_id": "1", "quantity": 2, "amount": "60.00"}])
    # The points are those of the one line that is known: the other 40 dollars have none of their own.
    assert taken(till.refund("r1", "p", items=[{"line_id": "1"}])) == 50
    assert taken(till.refund("r2", "p", "35.00")) == 25
    assert taken(till.refund("r3", "p")) == 25


amounts = st.integers(1, 5_000)
purchases = st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 5)), max_size=4)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """A purchase, and the wishes to refund parts of it; some are more than is left."""
    drawn = draw(purchases)
    lines = [
        {"line_id": str(number), "quantity": quantity, "amount": f"{amount / 100:.2f}"}
        for number, (amount, quantity) in enumerate(drawn)
    ]
    listed = sum(amount for amount, _ in drawn)
    amount = draw(st.one_of(amounts, st.just(listed), st.just(listed + 499)))
    wishes: list[Json] = draw(
        st.lists(
            st.one_of(
                st.integers(1, 3_000).map(lambda minor: {"amount": f"{minor / 100:.2f}"}),
                st.tuples(st.integers(0, 3), st.integers(1, 3)).map(
                    lambda line: {"items": [{"line_id": str(line[0]), "quantity": line[1]}]}
                ),
            ),
            max_size=8,
        )
    )
    return {"amount": f"{amount / 100:.2f}", "items": lines}, wishes


@given(histories(), st.sampled_from(["stop_at_zero", "pending_only", "negative"]), st.integers(1, 300), st.booleans())
def test_any_split_reverses_exactly_the_award(
    history: tuple[Json, list[Json]], policy: str, per_dollar: int, spends: bool
) -> None:
    """Case 3.9: in any parts, by line, by amount or both, what is taken, missing and lapsed makes up the award."""
    purchase, wishes = history
    rules = (
        {**BASE, "points": per_dollar},
        {"type": "fixed", "id": "bonus", "points": 13, "wallet": "points", "events": ["purchase"]},
    )
    till = Till(terms(*rules, **points(overspent_refund=policy)))
    awarded = sum(posting["points"] for posting in till.buy("p", **purchase)["postings"])
    if spends:
        till.spend(awarded * 2 // 3)
    total = gone = 0
    for number, wish in enumerate(wishes):
        try:
            entry = till.refund(f"r{number}", "p", **wish)
        except Exceeds:
            continue
        total += taken(entry)
        gone += told(entry, "shortfall") + told(entry, "lapsed")
    if fits(till, {}):
        last = till.refund("last", "p")
        total += taken(last)
        gone += told(last, "shortfall") + told(last, "lapsed")
    assert total == awarded
    assert till.wallet().reversed == awarded - gone
    with pytest.raises(Exceeds):
        till.refund("more", "p")


@given(histories())
def test_the_order_of_refunds_does_not_matter(history: tuple[Json, list[Json]]) -> None:
    """Case 3.9: what all refunds so far take together depends on what was refunded, not on the order."""
    purchase, wishes = history
    ends = []
    for order in (wishes, wishes[::-1]):
        till = Till(terms({**BASE, "points": 7}))
        till.buy("p", **purchase)
        for number, wish in enumerate(order):
            if fits(till, wish):
                till.refund(f"r{number}", "p", **wish)
        ends.append(till)
    one, other = (till.bought("p").progress for till in ends)
    if (one.amount, one.quantities, one.complete) == (other.amount, other.quantities, other.complete):
        assert one.credits == other.credits
        assert ends[0].available == ends[1].available


def fits(till: Till, wish: Json) -> bool:
    purchase = till.bought("p")
    items = [(item["line_id"], item["quantity"]) for item in wish.get("items", ())]
    amount = round(float(wish["amount"]) * 100) if "amount" in wish else None
    try:
        advance(purchase, purchase.progress, Wanted(amount, tuple(items) or None))
    except Exceeds:
        return False
    return True


def test_more_than_was_bought_is_refused_and_says_what_is_left() -> None:
    till = Till(terms())
    till.buy("p", "50.00", items=[{"line_id": "1", "quantity": 3, "amount": "30.00"}])
    till.refund("r1", "p", items=[{"line_id": "1"}])
    till.refund("r2", "p", "15.00")
    with pytest.raises(Exceeds) as refused:
        till.refund("r3", "p", "25.01")
    assert (refused.value.amount, refused.value.items) == (2500, (("1", 2),))
    with pytest.raises(Exceeds):
        till.refund("r4", "p", items=[{"line_id": "1", "quantity": 3}])
    with pytest.raises(Exceeds):
        till.refund("r5", "p", items=[{"line_id": "other"}])
    till.refund("r6", "p", "25.00")


def test_lines_that_cost_more_than_was_paid_count_in_part() -> None:
    """A voucher of 20 on lines of 120: a line of 60 is half of what was paid."""
    till = Till(terms())
    lines = [{"line_id": "a", "amount": "60.00"}, {"line_id": "b", "amount": "60.00"}]
    till.buy("p", "100.00", items=lines)
    assert taken(till.refund("r1", "p", items=[{"line_id": "a"}])) == 50
    assert till.bought("p").left(till.bought("p").progress) == 5000
    assert taken(till.refund("r2", "p", items=[{"line_id": "b"}])) == 50


def test_a_visit_can_be_taken_back_as_a_whole() -> None:
    till = Till(terms({"type": "points_per_visit", "id": "visit", "points": 5, "wallet": "points"}))
    till.tell("v", "visit")
    with pytest.raises(Exceeds):
        till.refund("r1", "v", "1.00")
    assert taken(till.refund("r2", "v")) == 5


def test_a_purchase_of_an_earlier_release_can_be_refunded() -> None:
    """Case 3.12: its entry names no credits; what its lines gave is taken back."""
    entry = {
        "_id": 7 << 24 | 1,
        "occurred_at": START,
        "evidence": {
            "event": {"source": "till", "id": "p", "type": "purchase", "amount": 1000, "currency": "USD"},
            "award": {
                "version": 1,
                "currency": "USD",
                "lines": [
                    {"rule": "base", "wallet": "points", "points": 10, "basis": 1000},
                    {"rule": "big", "wallet": "points", "points": 0, "basis": 1000, "reason": "below_minimum"},
                ],
            },
        },
    }
    purchase = Purchase.of(entry)
    assert [credit.points for credit in purchase.credits] == [10]
    assert advance(purchase, purchase.progress, Wanted(amount=333)).credits == (3,)


def test_the_rules_of_the_purchase_decide() -> None:
    """Case 3.12: rules that were changed meanwhile do not matter."""
    till = Till(terms())
    till.buy("p", "100.00")
    till.terms = terms({**BASE, "points": 9}, **points(pending={"type": "manual"}))
    assert taken(till.refund("r", "p", "50.00")) == 50
    assert till.available == 50


# -- from where -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "available", "shortfall"), [("stop_at_zero", 0, 60), ("pending_only", 40, 100), ("negative", -60, 0)]
)
def test_points_that_were_spent(policy: str, available: int, shortfall: int) -> None:
    """Case 3.10: of 100 points 60 are spent when all are to go back; each policy has its own answer."""
    till = Till(terms(**points(overspent_refund=policy)))
    till.buy("p", "100.00")
    till.spend(60)
    entry = till.refund("r", "p")
    assert (till.available, told(entry, "shortfall")) == (available, shortfall)
    till.buy("next", "100.00")
    assert till.available == available + 100


def test_pending_points_go_first_and_then_those_of_the_purchase() -> None:
    """Case 3.10: what still waits, then the lot of this purchase, then the oldest expiry."""
    pending = {"type": "period", "days": 14}
    till = Till(terms(**points(pending=pending, expiry={"type": "rolling", "months": 12})))
    till.buy("old", "30.00")
    till.wait(days=40).buy("p", "100.00")
    till.refund("r1", "p", "10.00")
    assert (till.available, till.wallet().pending) == (30, 90)
    till.wait(days=20)
    till.spend(60)  # all of the old ones, and 30 of these
    till.buy("new", "50.00")
    entry = till.refund("r2", "p")
    assert (till.available, till.wallet().pending, told(entry, "shortfall")) == (0, 50, 30)


def test_points_of_the_award_that_expired_are_not_taken_from_others() -> None:
    """Case 3.10: they are gone already, and were worth nothing to the member."""
    till = Till(terms(**points(expiry={"type": "rolling", "days": 10})))
    till.buy("p", "100.00")
    till.wait(days=20).buy("other", "70.00")
    entry = till.refund("r", "p")
    assert (told(entry, "lapsed"), told(entry, "shortfall"), till.available) == (100, 0, 70)


# -- points that paid -------------------------------------------------------------------------------------------------

PAYMENT: Json = {"points_payment": {"points": 100, "amount": "1.00"}}


def paying(amount: str, **more: Any) -> Json:
    return {"payments": [{"method": "points", "amount": amount, **more}]}


def test_points_that_paid_come_back_with_their_share_and_their_expiry() -> None:
    """Case 3.11: a quarter was paid with points, so a quarter of each refund is; last used, first back."""
    till = Till(terms({**BASE, "points": 100}, **PAYMENT, **points(expiry={"type": "rolling", "months": 12})))
    till.buy("first", "4.00")
    till.wait(days=10).buy("second", "8.00")
    before = [(lot.expires_at, lot.points) for lot in till.wallet().lots]
    entry = till.buy("p", "40.00", **paying("10.00"))
    (paid,) = entry["evidence"]["award"]["paid"]
    assert [part["points"] for part in paid["parts"]] == [400, 600]
    assert till.available == 1200 - 1000 + 3000  # case 3.30: the part that points paid earns none
    refund = till.refund("r1", "p", "20.00")
    assert refund["evidence"]["refund"]["restored"] == [{"wallet": "points", "points": 500}]
    assert before[0][0] not in [lot.expires_at for lot in till.wallet().lots]  # the 600 of the later lot come first
    till.refund("r2", "p")
    assert [(lot.expires_at, lot.points) for lot in till.wallet().lots] == before


def test_points_that_paid_and_have_expired() -> None:
    """Case 3.11: strictly they come back and are gone; with days of grace they are good for so long."""
    for grace, available in ((0, 0), (30, 500)):
        expiry = {"type": "rolling", "days": 30}
        till = Till(terms({**BASE, "points": 100}, **PAYMENT, **points(expiry=expiry, restore_grace_days=grace)))
        till.buy("first", "5.00")
        till.buy("p", "5.00", **paying("5.00"))
        till.wait(days=60).refund("r", "p")
        assert till.available == available
        assert till.wait(days=31).available == 0


def test_what_points_paid_earns_if_the_program_says_so() -> None:
    """Case 3.30."""
    for earns, points_now in ((False, 3000), (True, 4000)):
        till = Till(terms({**BASE, "points": 100}, **PAYMENT, earn_on_points_paid=earns))
        till.buy("first", "10.00")
        till.buy("p", "40.00", **paying("10.00"))
        assert till.available == points_now


def test_a_gift_card_is_money_unless_the_program_says_otherwise() -> None:
    """Case 3.11."""
    for excluded, available in (([], 40), (["gift_card"], 30)):
        till = Till(terms(unearning_payment_methods=excluded))
        till.buy("p", "40.00", payments=[{"method": "gift_card", "amount": "10.00"}])
        assert till.available == available


# -- refunds that come first ------------------------------------------------------------------------------------------


def test_a_refund_that_comes_before_its_purchase_waits_for_it() -> None:
    """Case 3.21: parked, and applied in the purchase's own entry; what follows builds on it."""
    till = Till(terms())
    parked = till.refund("r1", "p", "40.00")
    assert (parked["kind"], parked["postings"]) == ("park", [])
    till.buy("other", "5.00")
    entry = till.buy("p", "100.00")
    assert till.available == 5 + 60
    assert entry["evidence"]["refunds"][0]["parked"] == 1
    assert "parked" not in till.head.state.facets
    assert taken(till.refund("r2", "p")) == 60


def test_parked_refunds_take_at_most_what_there_is() -> None:
    """Case 3.21: the purchase has happened and cannot be refused for them."""
    till = Till(terms())
    till.refund("r1", "p", "80.00")
    till.refund("r2", "p", "80.00")
    till.refund("r3", "p")
    till.refund("r4", "q", "1.00")
    till.buy("p", "100.00")
    assert till.available == 0
    assert [found["id"] for found in till.head.state.facets["parked"]["waiting"]] == ["q"]
    assert till.bought("p").progress.complete


def test_the_order_of_purchase_and_refund_does_not_matter() -> None:
    """Case 3.21."""
    ends = []
    for order in (("p", "r"), ("r", "p")):
        till = Till(terms())
        for name in order:
            if name == "p":
                till.buy("p", "70.00")
            else:
                till.refund("r", "p", "30.00")
        ends.append((till.available, till.wallet().reversed))
    assert ends[0] == ends[1] == (40, 30)


def test_a_refund_told_late_counts_when_it_is_told() -> None:
    """Case 3.20: the server assigns the time of the ledger."""
    till = Till(terms(**points(expiry={"type": "rolling", "days": 10})))
    till.buy("p", "100.00")
    entry = till.wait(days=20).refund("r", "p", occurred_at=(START + timedelta(days=1)).isoformat())
    assert entry["recorded_at"] == START + timedelta(days=20)
    assert entry["occurred_at"] == datetime(2026, 3, 3, 12, tzinfo=timezone.utc)
    assert told(entry, "lapsed") == 100
