"""Awards: pure functions from facts and a version of the rules to points. Live, dry run and back-test share them.

An award goes through the rules once, from the highest priority to the lowest, and finds those that apply. What each one
gives is `points * what it counts * multipliers / per`, in whole numbers, rounded once at the end. Then groups keep one
rule each, and caps cut what is above them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final

from loyalty.infra.money import to_minor
from loyalty.programs.calendar import Calendar
from loyalty.programs.policies import DEFAULTS, EventPending, Policies
from loyalty.rules.award import (
    ONE,
    UNMULTIPLIED,
    ActiveCampaign,
    ActiveRule,
    Award,
    Candidate,
    Credit,
    Limit,
    Limits,
    Multiplied,
    RuleLine,
    Stacking,
    best_of_groups,
    by_target,
    candidate_of,
)
from loyalty.rules.caps import Facet, Tally, counter_key
from loyalty.rules.conditions import Condition, Predicate, compile_condition, counters_of
from loyalty.rules.facts import Facts
from loyalty.rules.model import (
    Basis,
    Benefit,
    Budget,
    Campaign,
    Caps,
    Earning,
    Multiplier,
    PointsPerItem,
    PointsPerSpend,
    PointsPerVisit,
    Rule,
    RuleSet,
)
from loyalty.rules.shares import ONCE, AmountMeasure, Measure, Order, PieceMeasure, Share, Test, test_of

__all__ = ["Award", "CompiledRules", "Credit", "RuleLine", "compile_rules"]

UTC: Final = Calendar.of("UTC")
POINTS_PAYMENT: Final = "points"
"""The means of payment that is points."""

_MOST_COMBINATIONS: Final = 256
"""Of multipliers that apply together."""

_EVENTS: Final[Mapping[type[Any], frozenset[str]]] = {
    PointsPerSpend: frozenset({"purchase"}),
    PointsPerItem: frozenset({"purchase"}),
    PointsPerVisit: frozenset({"visit"}),
}
_PERIODS: Final = (
    ("per_day", "day"),
    ("per_week", "week"),
    ("per_month", "month"),
    ("per_year", "year"),
    ("per_member", "ever"),
)


class CompiledRules:
    """A published version, ready to award. `awaits` are the types of event that points of its rules wait for.

    `budgets` are the points that campaigns may give to all members together, for those that have such a limit;
    `segments` say of the facts of an event whether its member is in them.
    """

    __slots__ = (
        "_any",
        "_by_target",
        "_by_type",
        "_counted",
        "_kept",
        "_measures",
        "_stacking",
        "_tests",
        "awaits",
        "budgets",
        "segments",
        "version",
    )

    def __init__(
        self,
        version: int,
        rules: Sequence[ActiveRule],
        *,
        stacking: Stacking,
        tests: Sequence[Test],
        measures: Sequence[Measure],
        counted: Iterable[str],
        budgets: Mapping[str, int],
        segments: Mapping[str, Predicate],
    ) -> None:
        self.version = version
        self.budgets = budgets
        self.segments = segments
        self._stacking: Stacking = stacking
        self._by_target = lru_cache(maxsize=_MOST_COMBINATIONS)(by_target)  # mostly the same few multipliers apply
        self._tests = tests
        self._measures = measures
        self._counted = tuple([(counter_key(name), name.split(".")) for name in sorted(counted)])
        self._kept = frozenset([*[key for key, _ in self._counted], *_cap_keys(rules)])
        self._by_type = {
            event: _listening(rules, event) for event in {event for rule in rules for event in rule.events or ()}
        }
        self._any = _listening(rules, None)
        self.awaits = frozenset([rule.pending.event_type for rule in rules if isinstance(rule.pending, EventPending)])

    def award(
        self,
        facts: Facts,
        *,
        counters: Facet,
        multiplier_milli: int = ONE,
        budgets: Mapping[str, int] | None = None,
    ) -> Award:
        """What the event gives a member whose facet is `counters` and whose tier multiplies by `multiplier_milli`.

        `budgets` says how many points the campaigns may still give that have a budget; one that is missing gives none.
        """
        tally = Tally(counters, facts.calendar.day(facts.occurred_at))
        rules = self._by_type.get(facts.type, self._any)
        if not rules:
            self._count(tally, facts, ())
            return Award(counters=tally.facet(self._kept), limits=("no_rule_for_this_type",))
        order = Order(facts, self._tests, self._measures)
        applying, passed = _applying(rules, order)
        candidates, multipliers = self._choose(applying, multiplier_milli, order)
        limits = Limits(tally, {} if budgets is None else budgets)
        lines: list[RuleLine] = []
        credits: list[Credit] = []
        benefits: list[str] = []
        stepped: dict[tuple[ActiveRule, ...], list[list[int]]] = {}  # by the multipliers that made the steps
        places: dict[str, int] = {}  # of the lines of multipliers, which come when their differences are known
        for (rule, share), candidate in zip(applying, candidates, strict=True):
            if candidate is not None:
                steps = candidate.steps
                points, cut = limits.admit(rule, steps[-1]) if rule.limits or rule.campaign else (steps[-1], None)
                if cut is None:
                    lines.append(rule.line(steps[0], share))
                else:  # what is left goes to the rule first, then to its multipliers in their order
                    lines.append(rule.line(min(steps[0], points), share, cut, steps[-1]))
                    steps = [min(step, points) for step in steps]
                if candidate.multipliers:
                    stepped.setdefault(candidate.multipliers, []).append(steps)
                if points:
                    credits.append(candidate.credit(points))
            elif rule.kind == "points":
                lines.append(rule.line(0, share, "below_minimum" if share.count < rule.minimum else "group"))
            elif rule.kind == "benefit":
                benefits.append(rule.benefit)
            else:
                places[rule.id] = len(lines)
        differences = _differences(stepped)
        for multiplier in reversed(multipliers):
            place = places.pop(multiplier.id)
            if multiplier.id in differences:
                lines.insert(place, RuleLine(multiplier.id, multiplier.wallet, differences[multiplier.id], 0))
            else:
                passed.append((multiplier.id, "nothing_to_multiply"))
        passed += [(loser, "group") for loser in places]
        self._count(tally, facts, credits)
        return Award(
            lines=tuple(lines),
            credits=tuple(credits),
            benefits=tuple(benefits),
            counters=tally.facet(self._kept),
            passed=tuple(passed),
            drawn=tuple(limits.drawn.items()),
        )

    def _choose(
        self, applying: Sequence[tuple[ActiveRule, Share]], tier: int, order: Order
    ) -> tuple[list[Candidate | None], list[ActiveRule]]:
        """What each of the rules would give, None where it gives nothing, and the multipliers that count: of each group
        one."""
        multipliers = [rule for rule, _ in applying if rule.kind == "multiplier"]
        multiplied: Mapping[str, Multiplied] = {}
        if multipliers:
            multipliers = best_of_groups(multipliers, attrgetter("group"), attrgetter("factor"))
            multiplied = self._by_target(tuple(multipliers))
        stacking = self._stacking
        candidates = [
            candidate_of(rule, share, multiplied.get(rule.id, UNMULTIPLIED), tier, stacking, order)
            if rule.kind == "points" and share.count >= rule.minimum
            else None
            for rule, share in applying
        ]
        grouped = [one for one in candidates if one is not None and one.rule.group is not None]
        if grouped:
            losers = {*grouped} - {*best_of_groups(grouped, attrgetter("rule.group"), lambda one: one.steps[-1])}
            candidates = [None if one in losers else one for one in candidates]
        return candidates, multipliers

    def _count(self, tally: Tally, facts: Facts, credits: Iterable[Credit]) -> None:
        """Counts the event for the conditions that look at what the member had before."""
        for key, (what, wallet, *_) in self._counted:
            if what == "points":
                tally.add(key, sum([credit.points for credit in credits if credit.wallet == wallet]))
            elif what == "visits":
                tally.add(key, facts.type == "visit")
            elif facts.type == "purchase":
                tally.add(key, 1 if what == "purchases" else facts.amount or 0)


def _listening(rules: Iterable[ActiveRule], event: str | None) -> tuple[ActiveRule, ...]:
    """The rules that look at events of a type, None for one that no rule names; none if nothing can come of them."""
    found = [rule for rule in rules if rule.events is None or event in rule.events]
    return tuple(found) if any(rule.kind != "multiplier" for rule in found) else ()


def _applying(
    rules: Iterable[ActiveRule], order: Order
) -> tuple[list[tuple[ActiveRule, Share]], list[tuple[str, str]]]:
    """The rules that apply, each with what it counts, and of the others why they do not."""
    facts = order.facts
    at = facts.occurred_at
    found: list[tuple[ActiveRule, Share]] = []
    passed: list[tuple[str, str]] = []
    taken: set[str] = set()
    running: dict[str, bool] = {}
    stopped = False
    for rule in rules:
        campaign = rule.campaign
        if stopped:
            reason = "stopped"
        elif (rule.starts_at is not None and at < rule.starts_at) or (rule.ends_at is not None and at >= rule.ends_at):
            reason = "not_scheduled"
        elif campaign is not None and not _runs(campaign, facts, running):
            reason = "campaign_not_running"
        elif rule.when is not None and not rule.when(facts):
            reason = "condition"
        elif rule.group is not None and rule.first_of_group and rule.group in taken:
            reason = "group"
        else:
            share = order.share(rule.measure) if rule.measure is not None else _event_once(rule, order)
            if share is not None:
                found.append((rule, share))
                if share.count >= rule.minimum:
                    stopped = rule.stop
                    if rule.group is not None:
                        taken.add(rule.group)
                continue
            reason = "nothing_to_count"
        passed.append((rule.id, reason))
    return found, passed


def _runs(campaign: ActiveCampaign, facts: Facts, known: dict[str, bool]) -> bool:
    runs = known.get(campaign.id)
    if runs is None:
        runs = known[campaign.id] = campaign.runs(facts)
    return runs


def _differences(stepped: Mapping[tuple[ActiveRule, ...], Sequence[Sequence[int]]]) -> dict[str, int]:
    """How many points each multiplier added, of the steps of all rules that it multiplied."""
    found: dict[str, int] = {}
    for multipliers, steps in stepped.items():
        sums = [sum(column) for column in zip(*steps, strict=True)]
        for multiplier, (before, after) in zip(multipliers, pairwise(sums), strict=True):
            found[multiplier.id] = found.get(multiplier.id, 0) + after - before
    return found


def _event_once(rule: ActiveRule, order: Order) -> Share | None:
    """What a rule counts that measures nothing; None where it is for lines that the order does not have."""
    if rule.where is not None and not any(order.column(rule.where)):
        return None
    return ONCE


def compile_rules(
    rule_set: RuleSet,
    version: int,
    currency: str,
    *,
    calendar: Calendar = UTC,
    policies: Policies = DEFAULTS,
) -> CompiledRules:
    """The version in the program's currency, zone and policies; it must have passed `defects`."""
    compiler = _Compiler(rule_set, currency, calendar, policies)
    rules = sorted(rule_set.rules, key=lambda rule: (-rule.priority, rule.id))
    return CompiledRules(
        version,
        [compiler.rule(rule) for rule in rules],
        stacking=rule_set.stacking,
        tests=compiler.tests,
        measures=compiler.measures,
        counted=compiler.counted,
        budgets={
            campaign.id: _points_of(campaign.budget, currency, policies)
            for campaign in rule_set.campaigns
            if campaign.budget is not None
        },
        segments={segment.id: compile_condition(segment.when, calendar, currency) for segment in rule_set.segments},
    )


def _points_of(budget: Budget, currency: str, policies: Policies) -> int:
    """The points that a budget allows; none, where an amount limits it and what points are worth is no longer said."""
    limits = [] if budget.points is None else [budget.points]
    if budget.amount is not None:
        worth = policies.points_payment
        limits.append(
            0 if worth is None else to_minor(budget.amount, currency) * worth.points // to_minor(worth.amount, currency)
        )
    return min(limits)


class _Compiler:
    """One rule set on its way: what several rules look at is compiled once, into the pools `tests` and `measures`."""

    def __init__(self, rule_set: RuleSet, currency: str, calendar: Calendar, policies: Policies) -> None:
        self.tests: list[Test] = []
        self.measures: list[Measure] = []
        self.counted: set[str] = set()
        self._rule_set = rule_set
        self._currency = currency
        self._calendar = calendar
        self._unearning = frozenset(policies.unearning_payment_methods) | (
            frozenset() if policies.earn_on_points_paid else {POINTS_PAYMENT}
        )
        self._columns: dict[str, int] = {}
        self._campaigns = {one.id: self._campaign(one) for one in rule_set.campaigns}

    def rule(self, rule: Rule) -> ActiveRule:
        """The rule as it is when an event comes."""
        common: dict[str, Any] = {
            "id": rule.id,
            "events": frozenset(rule.events) if rule.events is not None else _EVENTS.get(type(rule)),
            "starts_at": rule.starts_at,
            "ends_at": rule.ends_at,
            "when": self._when(rule.when),
            "campaign": None if rule.campaign is None else self._campaigns[rule.campaign],
            "group": rule.group,
            "first_of_group": isinstance(rule, Benefit) or self._rule_set.groups.get(rule.group or "") == "first",
            "stop": rule.stop,
        }
        if isinstance(rule, Benefit):
            return ActiveRule(kind="benefit", wallet="", benefit=rule.benefit, **common)
        if isinstance(rule, Multiplier):
            return ActiveRule(
                kind="multiplier",
                wallet=rule.wallet,
                factor=_thousandths(rule.factor),
                targets=frozenset(self._targets(rule)),
                where=self._column(rule.where),
                **common,
            )
        common |= {
            "points": rule.points,
            "tiered": rule.tier_multiplier,
            "limits": (*_limits(rule.caps, f"rule:{rule.id}", ""), *self._shared_limits(rule.campaign, rule.wallet)),
            "pending": rule.pending,
            "expiry": rule.expiry,
        }
        if isinstance(rule, PointsPerSpend):
            common |= {
                "per": to_minor(rule.per, self._currency),
                "minimum": to_minor(rule.minimum, self._currency),
                "rounding": rule.rounding,
                "measure": self._measure(self._amount_measure(rule.basis)),
            }
        elif isinstance(rule, PointsPerItem):
            measure = PieceMeasure(self._column(rule.where), self._unearning)
            common |= {"rounding": rule.rounding, "measure": self._measure(measure), "pieces": True}
        return ActiveRule(kind="points", wallet=rule.wallet, **common)

    def _campaign(self, campaign: Campaign) -> ActiveCampaign:
        return ActiveCampaign(
            id=campaign.id,
            wallet=campaign.wallet,
            starts_at=campaign.starts_at,
            ends_at=campaign.ends_at,
            when=self._when(campaign.when),
            limits=_limits(campaign.caps, f"campaign:{campaign.id}", "campaign_", campaign.id),
            has_budget=campaign.budget is not None,
        )

    def _shared_limits(self, campaign: str | None, wallet: str) -> tuple[Limit, ...]:
        """Those that a rule in the campaign shares with others, if the campaign counts its wallet."""
        if campaign is None or self._campaigns[campaign].wallet != wallet:
            return ()
        return self._campaigns[campaign].limits

    def _when(self, condition: Condition | None) -> Callable[[Facts], bool] | None:
        if condition is None:
            return None
        self.counted |= counters_of(condition)
        return compile_condition(condition, self._calendar, self._currency)

    def _targets(self, multiplier: Multiplier) -> Iterable[str]:
        if multiplier.applies_to != "all":
            return multiplier.applies_to
        return [
            rule.id for rule in self._rule_set.rules if isinstance(rule, Earning) and rule.wallet == multiplier.wallet
        ]

    def _amount_measure(self, basis: Basis | None) -> AmountMeasure:
        basis = basis or Basis()
        return AmountMeasure(
            basis.exclude_tax,
            basis.exclude_shipping,
            self._column(basis.only),
            self._column(basis.exclude),
            self._unearning | set(basis.exclude_payments),
        )

    def _column(self, condition: Condition | None) -> int | None:
        if condition is None:
            return None
        written = condition.model_dump_json()
        if written not in self._columns:
            self._columns[written] = len(self.tests)
            self.tests.append(test_of(condition, self._currency))
        return self._columns[written]

    def _measure(self, measure: Measure) -> int:
        if measure not in self.measures:
            self.measures.append(measure)
        return self.measures.index(measure)


def _limits(caps: Caps | None, key: str, prefix: str, campaign: str | None = None) -> tuple[Limit, ...]:
    if caps is None:
        return ()
    found = []
    if caps.per_event is not None:
        found.append(Limit(f"{prefix}cap_per_event", None, caps.per_event, caps.over != "reduce", campaign))
    for name, unit in _PERIODS:
        most = getattr(caps, name)
        if most is not None:
            found.append(Limit(f"{prefix}cap_{name}", f"{key}:{unit}", most, caps.over == "reject", campaign))
    return tuple(found)


def _cap_keys(rules: Iterable[ActiveRule]) -> set[str]:
    limits = [limit for rule in rules for limit in (*rule.limits, *(rule.campaign.limits if rule.campaign else ()))]
    return {limit.key for limit in limits if limit.key is not None}


def _thousandths(factor: str) -> int:
    whole, _, fraction = factor.partition(".")
    return int(whole + fraction.ljust(3, "0"))
