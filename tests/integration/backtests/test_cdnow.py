"""A real shop's years through the engine and through the back-test, in memory: the sums must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from loyalty.backtests.evaluation import Clock, Evaluator, Person, Plan
from loyalty.backtests.totals import DRAFT, REAL, Totals
from loyalty.ops.demo import Purchase, purchases
from loyalty.points.terms import Terms
from loyalty.rules.facts import MemberFacts
from tests import cdnow

CUSTOMERS = 400
PLAIN: dict[str, Any] = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}


@pytest.fixture(scope="module")
def history() -> list[Purchase]:
    """Everything that the first customers bought."""
    return [purchase for purchase in purchases() if int(purchase.customer) <= CUSTOMERS]


def tried(live: Terms, draft: Terms, history: Sequence[Purchase], clock: Clock = "recorded") -> Totals:
    """What `draft` gives for what `live` recorded."""
    totals = Totals()
    evaluator = Evaluator(Plan(draft, live.tiers, None, cdnow.CLOSED, clock), totals)
    for chain in cdnow.chains(live, history):
        member = cdnow.member_of(live, f"{chain[0]['_id'] >> 24:05d}")
        joined_on = live.calendar.day(cdnow.OPENED)
        facts = MemberFacts(status=member.status, joined_on=joined_on)
        evaluator.member(Person(member.number, facts, joined_on), {"wallets": {}}, chain)
    return totals


def sides(totals: Totals, *key: str) -> tuple[int, int]:
    return totals.sums.get((*key, DRAFT), 0), totals.sums.get((*key, REAL), 0)


def test_what_was_issued_is_there_or_expired(history: list[Purchase]) -> None:
    came = cdnow.replay(cdnow.terms(), history)
    assert came.purchases == len(history)
    assert came.members == sum(came.levels.values())
    assert came.issued["points"] == came.available["points"] + came.pending["points"] + came.expired["points"]
    assert came.expired["points"] > 0
    assert came.cut > 0
    assert came.moves["silver", "base"] > 0


@pytest.mark.parametrize("clock", ["recorded", "occurred"])
def test_the_rules_that_were_live_give_the_same(history: list[Purchase], clock: Clock) -> None:
    live = cdnow.terms()
    totals = tried(live, live, history, clock)
    came = cdnow.replay(live, history)
    assert sides(totals, "issued", "points") == (came.issued["points"], came.issued["points"])
    there = came.available["points"] + came.pending["points"]
    assert sides(totals, "open", "points") == (there, there)
    assert sides(totals, "caps", "base", "cap_per_month", "hits") == (came.cut, came.cut)
    for (before, after), count in came.moves.items():
        assert totals.sums["moves", before, after, DRAFT] == count
    assert {level: totals.sums["levels", level, DRAFT] for level in came.levels} == dict(came.levels)
    assert totals.winners == totals.losers == {}


def test_other_rules_give_what_they_would_have_given(history: list[Purchase]) -> None:
    """The rich program over what the plain one recorded is the rich program."""
    plain, rich = cdnow.terms(rules=PLAIN, tiers=None), cdnow.terms()
    totals = tried(plain, rich, history)
    assert totals.sums["issued", "points", DRAFT] == cdnow.replay(rich, history).issued["points"]
    assert totals.sums["issued", "points", REAL] == sum(purchase.points for purchase in history)
