"""What an award is made of: rules as they are when an event comes, and the arithmetic of what each one gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import compress
from math import prod
from typing import Any, Final, Literal, NamedTuple, TypeVar

from loyalty.programs.policies import LotExpiryPolicy, PendingPolicy
from loyalty.rules.caps import Tally
from loyalty.rules.facts import Facts
from loyalty.rules.model import Rounding
from loyalty.rules.shares import WHOLE, Order, Share, spread

ONE: Final = 1000
"""A multiplier of 1: multipliers are whole thousandths."""

Stacking = Literal["multiply", "add", "best"]
T = TypeVar("T")


class RuleLine(NamedTuple):
    """What one rule gave; of a multiplier, the difference that it made.

    `basis` is the amount that it looked at, in minor units, and `quantity` the pieces. `reason` says why it gave
    nothing, or less than the `wanted` points.
    """

    rule: str
    wallet: str
    points: int
    basis: int
    reason: str | None = None
    quantity: int | None = None
    wanted: int | None = None

    def document(self) -> dict[str, Any]:
        """The form in the evidence of an entry."""
        document: dict[str, Any] = {
            "rule": self.rule,
            "wallet": self.wallet,
            "points": self.points,
            "basis": self.basis,
        }
        if self.reason is not None:
            document["reason"] = self.reason
        if self.quantity is not None:
            document["quantity"] = self.quantity
        if self.wanted is not None:
            document["wanted"] = self.wanted
        return document


class Credit(NamedTuple):
    """Points for a wallet. `attribution` is by line of the event, where a line can be said to have earned them."""

    rule: str
    wallet: str
    points: int
    attribution: tuple[int, ...] | None
    pending: PendingPolicy | None = None
    expiry: LotExpiryPolicy | None = None


class Award(NamedTuple):
    """What the rules give for one event.

    The points of `lines` sum to those of `credits`. `counters` is the facet afterwards, None when it stays as it is.
    `limits` says why nothing could be given at all, `passed` of each rule why it is not among the lines, and `drawn`
    how many points count against the budget of a campaign.
    """

    lines: tuple[RuleLine, ...] = ()
    credits: tuple[Credit, ...] = ()
    benefits: tuple[str, ...] = ()
    counters: dict[str, Any] | None = None
    limits: tuple[str, ...] = ()
    passed: tuple[tuple[str, str], ...] = ()
    drawn: tuple[tuple[str, int], ...] = ()


class Limit(NamedTuple):
    """One cap. `key` names its counter; the cap of a single event has none. Above it, less is given, or nothing.

    `campaign` is the one whose rules share it.
    """

    reason: str
    key: str | None
    most: int
    rejects: bool
    campaign: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ActiveCampaign:
    """A campaign, compiled. Its limits count points of `wallet` alone."""

    id: str
    wallet: str
    starts_at: datetime | None
    ends_at: datetime | None
    when: Callable[[Facts], bool] | None
    limits: tuple[Limit, ...]
    has_budget: bool

    def runs(self, facts: Facts) -> bool:
        """Whether its rules apply to the event."""
        at = facts.occurred_at
        return (
            (self.starts_at is None or self.starts_at <= at)
            and (self.ends_at is None or at < self.ends_at)
            and (self.when is None or self.when(facts))
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActiveRule:
    """A rule of any kind, compiled. `limits` are its own and those that it shares with others of its campaign.

    Of one that gives points, `measure` is what it counts (a place in the pool of measures; None: the event, once), and
    `pieces` whether that is pieces rather than an amount. Of a multiplier, `targets` are the rules that it multiplies
    and `where` is the column of the lines whose part it does.
    """

    id: str
    kind: Literal["points", "multiplier", "benefit"]
    wallet: str
    events: frozenset[str] | None
    starts_at: datetime | None
    ends_at: datetime | None
    when: Callable[[Facts], bool] | None
    campaign: ActiveCampaign | None
    group: str | None
    first_of_group: bool
    stop: bool
    points: int = 0
    per: int = 1
    minimum: int = 0
    rounding: Rounding = "floor"
    measure: int | None = None
    pieces: bool = False
    tiered: bool = False
    limits: tuple[Limit, ...] = ()
    pending: PendingPolicy | None = None
    expiry: LotExpiryPolicy | None = None
    factor: int = ONE
    targets: frozenset[str] = frozenset()
    where: int | None = None
    benefit: str = ""

    def line(self, points: int, share: Share, reason: str | None = None, wanted: int | None = None) -> RuleLine:
        """The line that says what it gave."""
        if self.pieces:
            return RuleLine(self.id, self.wallet, points, 0, reason, share.count, wanted)
        return RuleLine(self.id, self.wallet, points, 0 if self.measure is None else share.count, reason, None, wanted)


class Candidate:
    """A rule that applies and gives points, with what that would be before groups and caps.

    `steps[0]` is without multipliers but that of the tier, the others are after each of `multipliers`. `weights` is by
    line how much of it comes from there, where multipliers of some lines have changed that.
    """

    __slots__ = ("multipliers", "rule", "share", "steps", "weights")

    def __init__(
        self,
        rule: ActiveRule,
        share: Share,
        steps: list[int],
        multipliers: tuple[ActiveRule, ...] = (),
        weights: Sequence[int] | None = None,
    ) -> None:
        self.rule = rule
        self.share = share
        self.steps = steps
        self.multipliers = multipliers
        self.weights = weights

    def credit(self, points: int) -> Credit:
        """So many of its points."""
        weights = self.weights
        parts = self.share.attribute(points) if weights is None else spread(points, weights)
        rule = self.rule
        return Credit(rule.id, rule.wallet, points, parts, rule.pending, rule.expiry)


class Multiplied(NamedTuple):
    """The multipliers that have a rule as their target, in their order; `by_line` where one is for some lines only."""

    rules: tuple[ActiveRule, ...]
    factors: tuple[int, ...]
    by_line: bool

    @staticmethod
    def by(rules: Sequence[ActiveRule]) -> Multiplied:
        """By these multipliers."""
        by_line = any(one.where is not None for one in rules)
        return Multiplied(tuple(rules), tuple([one.factor for one in rules]), by_line)


UNMULTIPLIED: Final = Multiplied((), (), by_line=False)


def by_target(multipliers: Sequence[ActiveRule]) -> Mapping[str, Multiplied]:
    """What multiplies each rule that any of the multipliers has as a target."""
    found: dict[str, list[ActiveRule]] = {}
    for one in multipliers:
        for target in one.targets:
            found.setdefault(target, []).append(one)
    return {target: Multiplied.by(rules) for target, rules in found.items()}


def candidate_of(
    rule: ActiveRule, share: Share, multiplied: Multiplied, tier: int, stacking: Stacking, order: Order
) -> Candidate:
    """What the rule would give by the multipliers that have it as a target; `tier` is that of the member's tier."""
    if not rule.tiered:
        tier = ONE
    numerator, denominator = rule.points * share.count, rule.per
    if share.part is not WHOLE:
        numerator, denominator = numerator * share.part[0], denominator * share.part[1]
    if multiplied.by_line:
        if any(share.weights):
            return _by_line(rule, share, multiplied, tier, stacking, order)
        multiplied = Multiplied.by([one for one in multiplied.rules if one.where is None])
    if not multiplied.rules:
        return Candidate(rule, share, [rounded_quotient(numerator * tier, denominator * ONE, rule.rounding)])
    stacks = _stacks(tier, multiplied.factors, stacking)
    if rule.rounding == "floor":  # of nearly all rules, and several times faster without a call for each step
        steps = [numerator * factor // (denominator * scale) for factor, scale in stacks]
    else:
        steps = [rounded_quotient(numerator * factor, denominator * scale, rule.rounding) for factor, scale in stacks]
    return Candidate(rule, share, steps, multiplied.rules)


def _by_line(
    rule: ActiveRule, share: Share, multiplied: Multiplied, tier: int, stacking: Stacking, order: Order
) -> Candidate:
    """The same where a multiplier is for some lines only: each line has the factors that are for it."""
    numerator, denominator = rule.points * share.count * share.part[0], rule.per * share.part[1]
    steps = [rounded_quotient(numerator * tier, denominator * ONE, rule.rounding)]
    everywhere = [True] * len(share.weights)
    whole = sum(share.weights)
    columns = [everywhere if tier != ONE else [False] * len(everywhere)]
    weights: Sequence[int] = share.weights
    for count, one in enumerate(multiplied.rules, start=1):
        columns.append(everywhere if one.where is None else order.column(one.where))
        factors = (tier, *multiplied.factors[:count])
        scale = ONE ** len(factors) if stacking == "multiply" else ONE
        weights = [
            weight and weight * _mixed(factors, mix, scale, stacking)
            for weight, mix in zip(share.weights, zip(*columns, strict=True), strict=True)
        ]
        steps.append(rounded_quotient(numerator * sum(weights), denominator * whole * scale, rule.rounding))
    return Candidate(rule, share, steps, multiplied.rules, weights)


@lru_cache(maxsize=1000)
def _mixed(factors: Sequence[int], mix: Sequence[bool], scale: int, stacking: Stacking) -> int:
    """Those of the factors that are for a line, as one; of lines there are more than of mixes."""
    return _stacked(list(compress(factors, mix)), scale, stacking)


@lru_cache(maxsize=1000)
def _stacks(tier: int, factors: Sequence[int], stacking: Stacking) -> tuple[tuple[int, int], ...]:
    """The tier's alone, then with the first of the factors, the first two …: all as one, of which so much is 1.

    Kept, because the same ones mostly multiply many rules.
    """
    first = [] if tier == ONE else [tier]
    found = []
    for count in range(len(factors) + 1):
        own = [*first, *factors[:count]]
        scale = ONE ** len(own) if stacking == "multiply" else ONE
        found.append((_stacked(own, scale, stacking), scale))
    return tuple(found)


def _stacked(factors: Sequence[int], scale: int, stacking: Stacking) -> int:
    """All factors as one, of which `scale` is 1."""
    if stacking == "multiply":
        return prod(factors) * (scale // ONE ** len(factors))
    if stacking == "add":
        return max(0, ONE + sum(factors) - ONE * len(factors))
    return max(factors, default=ONE)


def best_of_groups(candidates: Sequence[T], group: Callable[[T], str | None], worth: Callable[[T], int]) -> list[T]:
    """All that are in no group, and of each group the one that is worth most; of equals the first."""
    if len(candidates) < 2:
        return list(candidates)
    names = list(map(group, candidates))
    if names.count(None) == len(names):
        return list(candidates)
    best: dict[str, T] = {}
    for one, name in zip(candidates, names, strict=True):
        if name is not None and (name not in best or worth(one) > worth(best[name])):
            best[name] = one
    return [one for one, name in zip(candidates, names, strict=True) if name is None or best[name] is one]


class Limits:
    """The caps and budgets while the rules of one event go through them, in order."""

    __slots__ = ("_budgets", "_given", "_tally", "drawn")

    def __init__(self, tally: Tally, budgets: Mapping[str, int]) -> None:
        self._tally = tally
        self._budgets = budgets
        self._given: dict[str, int] = {}
        self.drawn: dict[str, int] = {}

    def admit(self, rule: ActiveRule, wanted: int) -> tuple[int, str | None]:
        """How many of the wanted points may be given, which count from now on, and what cut the rest."""
        if wanted == 0:
            return 0, None
        points, reason = wanted, None
        for limit in rule.limits:
            if limit.key is None:
                counted = 0 if limit.campaign is None else self._given.get(limit.campaign, 0)
            else:
                known = self._tally.value(limit.key)
                if known is None:
                    return 0, "period_closed"
                counted = known
            room = limit.most - counted
            if wanted > room:
                allowed = 0 if limit.rejects or room < 0 else room
                if allowed < points:
                    points, reason = allowed, limit.reason
        campaign = rule.campaign
        if campaign is not None and campaign.wallet == rule.wallet:
            if campaign.has_budget:
                left = max(0, self._budgets.get(campaign.id, 0) - self.drawn.get(campaign.id, 0))
                if left < points:
                    points, reason = left, "budget"
                if points:
                    self.drawn[campaign.id] = self.drawn.get(campaign.id, 0) + points
            self._given[campaign.id] = self._given.get(campaign.id, 0) + points
        for limit in rule.limits:
            if limit.key is not None:
                self._tally.add(limit.key, points)
        return points, reason


def rounded_quotient(dividend: int, divisor: int, rounding: Rounding) -> int:
    """dividend / divisor as a whole number, exactly; both are non-negative."""
    if rounding == "floor":
        return dividend // divisor
    whole, rest = divmod(dividend, divisor)
    if rounding == "ceil":
        return whole + (rest > 0)
    return whole + (2 * rest >= divisor)
