"""Caps and counters: what a period leaves, what is refused, what is remembered, and in whose days."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.programs.calendar import Calendar
from loyalty.rules.award import Award
from loyalty.rules.caps import EVER, KEPT, Tally, period_of, reader, value_at
from loyalty.rules.engine import CompiledRules, compile_rules
from loyalty.rules.facts import Facts
from loyalty.rules.model import RuleSet

BERLIN = Calendar.of("Europe/Berlin")
NOON = datetime(2026, 3, 4, 11, tzinfo=timezone.utc)
BASE = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}


def compiled(*rules: dict[str, Any], **more: Any) -> CompiledRules:
    return compile_rules(RuleSet.model_validate({"rules": list(rules), **more}), 1, "USD", calendar=BERLIN)


class Member:
    """Remembers the counters from one event to the next, as the chain does."""

    def __init__(self, version: CompiledRules) -> None:
        self.version = version
        self.facet: dict[str, Any] = {}

    def buys(self, amount: int, at: datetime = NOON, *, type: str = "purchase", **more: Any) -> Award:
        counters = reader(self.facet, BERLIN.day(at))
        facts = Facts(type, "till", at, BERLIN, amount=amount * 100, currency="USD", counters=counters)
        award = self.version.award(facts, counters=self.facet, **more)
        if award.counters is not None:
            self.facet = award.counters
        return award

    def earns(self, amount: int, at: datetime = NOON, **more: Any) -> int:
        return sum(credit.points for credit in self.buys(amount, at, **more).credits)


def capped(**caps: Any) -> Member:
    return Member(compiled({**BASE, "caps": caps}))


class TestCaps:
    """Case 3.24: a cap of a period reduces, the cap of an event refuses, and the attempt is recorded."""

    def test_case_3_24_a_period_gives_what_is_left(self) -> None:
        member = capped(per_day=100)
        assert [member.earns(amount) for amount in (60, 60, 60)] == [60, 40, 0]
        (line,) = member.buys(7).lines
        assert line.document() == {
            "rule": "base", "wallet": "points", "points": 0, "basis": 700, "reason": "cap_per_day", "wanted": 7,
        }  # by hand: a line holds what belongs together  # fmt: skip
        assert member.earns(60, NOON + timedelta(days=1)) == 60

    def test_case_3_24_an_event_above_its_cap_gets_nothing(self) -> None:
        member = capped(per_event=50)
        assert [member.earns(amount) for amount in (50, 51)] == [50, 0]
        (line,) = member.buys(51).lines
        assert (line.reason, line.wanted) == ("cap_per_event", 51)
        assert member.facet == {}

    def test_the_other_way_round_where_the_program_says_so(self) -> None:
        assert capped(per_event=50, over="reduce").earns(51) == 50
        member = capped(per_day=100, over="reject")
        assert [member.earns(amount) for amount in (60, 60, 40, 1)] == [60, 0, 40, 0]

    @pytest.mark.parametrize(
        ("cap", "inside", "outside"),
        [
            ("per_day", "2026-03-04T22:59:59Z", "2026-03-04T23:00:00Z"),
            ("per_week", "2026-03-08T22:59:59Z", "2026-03-08T23:00:00Z"),
            ("per_month", "2026-03-31T21:59:59Z", "2026-03-31T22:00:00Z"),  # clocks were set forward meanwhile
            ("per_year", "2026-12-31T22:59:59Z", "2026-12-31T23:00:00Z"),
        ],
    )
    def test_periods_are_those_of_the_program(self, cap: str, inside: str, outside: str) -> None:
        member = capped(**{cap: 10})
        assert member.earns(10) == 10
        assert member.earns(10, datetime.fromisoformat(inside.replace("Z", "+00:00"))) == 0
        assert member.earns(10, datetime.fromisoformat(outside.replace("Z", "+00:00"))) == 10

    def test_once_in_a_life(self) -> None:
        member = Member(
            compiled({"type": "fixed", "id": "hello", "points": 50, "events": ["purchase"], "caps": {"per_member": 50}})
        )
        assert [member.earns(1), member.earns(1, NOON + timedelta(days=9000))] == [50, 0]
        # Also when the rule was away for a time.
        member.version = compiled({**BASE, "caps": {"per_day": 10}})
        member.earns(1)
        assert member.facet == {"rule:hello:ever": {"ever": 50}, "rule:base:day": {"2026-03-04": 1}}

    def test_the_tightest_cap_counts_and_is_named(self) -> None:
        member = capped(per_day=30, per_month=40, per_member=1000)
        assert member.earns(50) == 30
        (line,) = member.buys(50, NOON + timedelta(days=1)).lines
        assert (line.points, line.reason) == (10, "cap_per_month")

    def test_multipliers_count_before_caps(self) -> None:
        member = Member(compiled({**BASE, "caps": {"per_day": 15}}, {"type": "multiplier", "id": "x", "factor": "2"}))
        given = member.buys(10)
        assert {line.rule: line.points for line in given.lines} == {"base": 10, "x": 5}
        assert [credit.points for credit in given.credits] == [15]

    def test_a_late_event_counts_in_its_own_period(self) -> None:
        member = capped(per_day=10)
        assert [member.earns(6, NOON + timedelta(days=day)) for day in (0, 1, 0, 1, 2)] == [6, 6, 4, 4, 6]

    def test_of_a_forgotten_period_nothing_is_given(self) -> None:
        member = capped(per_day=10)
        assert [member.earns(6, NOON + timedelta(days=day)) for day in (1, 2, 3)] == [6, 6, 6]
        (line,) = member.buys(6, NOON).lines
        assert (line.points, line.reason) == (0, "period_closed")

    def test_a_dry_run_consumes_nothing(self) -> None:
        """Case 3.24: deciding is not counting, so neither a replay nor a rehearsal consumes a cap."""
        member = capped(per_day=10)
        facts = Facts("purchase", "till", NOON, BERLIN, amount=600)
        first = member.version.award(facts, counters=member.facet)
        assert member.version.award(facts, counters=member.facet) == first
        assert member.facet == {}


class TestCampaigns:
    def test_its_caps_hold_for_its_rules_together(self) -> None:
        campaign = {"id": "spring", "caps": {"per_month": 25}}
        rules = [{**BASE, "id": name, "campaign": "spring"} for name in ("a", "b")]
        given = Member(compiled(*rules, BASE, campaigns=[campaign])).buys(20)
        assert [(line.rule, line.points, line.reason) for line in given.lines] == [
            ("a", 20, None), ("b", 5, "campaign_cap_per_month"), ("base", 20, None),
        ]  # by hand: a line holds what belongs together  # fmt: skip

    def test_its_cap_of_an_event_too(self) -> None:
        campaign = {"id": "spring", "caps": {"per_event": 30}}
        rules = [{**BASE, "id": name, "campaign": "spring"} for name in ("a", "b")]
        given = Member(compiled(*rules, campaigns=[campaign])).buys(20)
        assert [(line.points, line.reason) for line in given.lines] == [(20, None), (0, "campaign_cap_per_event")]
        assert Member(compiled(*rules, campaigns=[campaign])).earns(15) == 30

    def test_it_counts_one_wallet(self) -> None:
        campaign = {"id": "spring", "caps": {"per_day": 5}}
        rules = [{**BASE, "campaign": "spring"}, {**BASE, "id": "s", "wallet": "status", "campaign": "spring"}]
        given = Member(compiled(*rules, campaigns=[campaign])).buys(20)
        assert [(line.wallet, line.points) for line in given.lines] == [("points", 5), ("status", 20)]


class TestBudgets:
    def test_no_more_than_the_campaign_has_left(self) -> None:
        campaign = {"id": "spring", "budget": {"points": 1000}}
        member = Member(compiled({**BASE, "campaign": "spring"}, {**BASE, "id": "c"}, campaigns=[campaign]))
        given = member.buys(20, budgets={"spring": 15})
        assert [(line.rule, line.points, line.reason) for line in given.lines] == [
            ("base", 15, "budget"), ("c", 20, None),
        ]  # by hand: a line holds what belongs together  # fmt: skip
        assert given.drawn == (("spring", 15),)

    def test_its_rules_draw_from_it_together(self) -> None:
        campaign = {"id": "spring", "budget": {"points": 1000}}
        rules = [{**BASE, "id": name, "campaign": "spring"} for name in ("a", "b")]
        given = Member(compiled(*rules, campaigns=[campaign])).buys(20, budgets={"spring": 30})
        assert ([line.points for line in given.lines], given.drawn) == ([20, 10], (("spring", 30),))

    def test_what_nobody_has_reserved_is_not_given(self) -> None:
        campaign = {"id": "spring", "budget": {"points": 1000}}
        given = Member(compiled({**BASE, "campaign": "spring"}, campaigns=[campaign])).buys(20)
        assert [(line.points, line.reason) for line in given.lines] == [(0, "budget")]
        assert given.drawn == ()


class TestCounters:
    def test_conditions_see_what_was_before_the_event(self) -> None:
        first = {"field": "counters.purchases.month", "op": "=", "value": 0}
        member = Member(compiled(BASE, {"type": "multiplier", "id": "first", "factor": "2", "when": first}))
        assert [member.earns(10, NOON + timedelta(days=day)) for day in (0, 1, 40, 41)] == [20, 10, 20, 10]

    def test_what_is_counted(self) -> None:
        seen = {
            "all": [
                {"field": f"counters.{name}", "op": ">=", "value": value}
                for name, value in (
                    ("purchases.ever", 0), ("spend.week", "0"), ("visits.day", 0), ("points.points.quarter", 0)
                )
            ]
        }  # by hand: a line holds what belongs together  # fmt: skip
        member = Member(compiled({**BASE, "when": seen}))
        member.buys(10)
        member.buys(0, type="visit")
        member.buys(5, type="birthday")
        assert member.facet == {
            "purchases:ever": {"ever": 1},
            "spend:week": {"2026-03-02": 1000},
            "visits:day": {"2026-03-04": 1},
            "points:points:quarter": {"2026-01-01": 10},
        }

    def test_a_counter_that_nobody_uses_any_more_is_dropped(self) -> None:
        member = capped(per_day=10, per_week=20)
        member.buys(5)
        member.version = compiled({**BASE, "caps": {"per_day": 10}})
        member.buys(1)
        assert member.facet == {"rule:base:day": {"2026-03-04": 6}}

    def test_nothing_counted_changes_nothing(self) -> None:
        assert Member(compiled(BASE)).buys(5).counters is None
        assert capped(per_day=10).buys(0).counters is None

    def test_only_the_latest_periods_are_kept(self) -> None:
        member = capped(per_day=10)
        for day in range(10):
            member.earns(1, NOON + timedelta(days=day))
        assert member.facet == {"rule:base:day": {f"2026-03-{day}": 1 for day in (11, 12, 13)}}

    @given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=20))
    def test_a_period_is_counted_exactly_or_known_to_be_forgotten(self, events: list[tuple[int, int]]) -> None:
        facet: dict[str, Any] = {}
        counted: dict[str, int] = defaultdict(int)
        for day, amount in events:
            at = NOON + timedelta(days=day)
            period = period_of("x:day", BERLIN.day(at))
            known = value_at(facet, "x:day", period)
            later = sorted(name for name in counted if name > period)
            assert known == (None if len(later) >= KEPT else counted.get(period, 0))
            tally = Tally(facet, BERLIN.day(at))
            tally.add("x:day", amount)
            if known is not None:
                counted[period] += amount
            facet = tally.facet({"x:day"}) or facet
            assert len(facet["x:day"]) <= KEPT


EVENTS = st.lists(
    st.tuples(st.integers(0, 24 * 40), st.integers(0, 300), st.sampled_from(["purchase", "visit"])), max_size=30
)
CAPS = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(1, 400)
        for name in ("per_event", "per_day", "per_week", "per_month", "per_year", "per_member")
    }
    | {"over": st.sampled_from(["reduce", "reject"])},
)  # by hand: a line holds what belongs together  # fmt: skip


class TestInvariants:
    @given(EVENTS, CAPS, CAPS, st.integers(1, 3000))
    def test_case_3_24_a_cap_is_never_exceeded(
        self, events: list[tuple[int, int, str]], caps: dict[str, Any], shared: dict[str, Any], tier: int
    ) -> None:
        """Case 3.24: whatever comes in whatever order, and whatever multiplies it."""
        rules = [
            {**BASE, "caps": caps, "campaign": "c"},
            {"type": "points_per_visit", "id": "visit", "points": 40, "events": ["visit", "purchase"], "campaign": "c"},
        ]
        member = Member(compiled(*rules, campaigns=[{"id": "c", "caps": shared}]))
        units = {"per_day": "day", "per_week": "week", "per_month": "month", "per_year": "year", "per_member": EVER}
        given: dict[tuple[str, str], int] = defaultdict(int)
        for hour, amount, kind in events:
            at = NOON + timedelta(hours=hour)
            award = member.buys(amount, at, type=kind, multiplier_milli=tier)
            mine = sum(credit.points for credit in award.credits if credit.rule == "base")
            assert mine <= caps.get("per_event", mine)
            total = sum(credit.points for credit in award.credits)
            assert total <= shared.get("per_event", total)
            for name, unit in units.items():
                for whose, limits, points in (("base", caps, mine), ("c", shared, total)):
                    key = (f"{whose} {name}", period_of(f":{unit}", BERLIN.day(at)))
                    given[key] += points
                    assert given[key] <= limits.get(name, given[key])
