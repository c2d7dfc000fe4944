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
    """One cap. `key` names its counter; the cap of a single event has none. Above it, less is given, or nothing."""

    reason: str
    key: str | None
    most: int
    rejects: bool


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
    """A rule of any kind, compiled.

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
        multipliers: Sequence[ActiveRule] = (),
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


def candidate_of(
    rule: ActiveRule, share: Share, multipliers: Sequence[ActiveRule], *, tier: int, stacking: Stacking, order: Order
) -> Candidate:
    """What the rule would give by the multipliers that have it as a target; `tier` is that of the member's tier."""
    if not rule.tiered:
        tier = ONE
    numerator, denominator = rule.points * share.count, rule.per
    if share.part is not WHOLE:
        numerator, denominator = numerator * share.part[0], denominator * share.part[1]
    steps = [rounded_quotient(numerator * tier, denominator * ONE, rule.rounding)]
    if multipliers:
        multipliers = [one for one in multipliers if one.where is None or any(share.weights)]
    if not multipliers:
        return Candidate(rule, share, steps)
    if {one.where for one in multipliers} == {None}:
        for factor, scale in _stacks(tier, tuple([one.factor for one in multipliers]), stacking):
            steps.append(rounded_quotient(numerator * factor, denominator * scale, rule.rounding))
        return Candidate(rule, share, steps, multipliers)
    return _by_line(rule, share, steps, multipliers, tier=tier, stacking=stacking, order=order)


def _by_line(
    rule: ActiveRule,
    share: Share,
    steps: list[int],
    multipliers: Sequence[ActiveRule],
    *,
    tier: int,
    stacking: Stacking,
    order: Order,
) -> Candidate:
    """The same where a multiplier is for some lines only: each line has the factors that are for it."""
    numerator, denominator = rule.points * share.count * share.part[0], rule.per * share.part[1]
    everywhere = [True] * len(share.weights)
    columns = [everywhere if tier != ONE else [False] * len(everywhere)]
    factors = [tier]
    weights: Sequence[int] = share.weights
    for one in multipliers:
        columns.append(everywhere if one.where is None else order.column(one.where))
        factors.append(one.factor)
        scale = ONE ** len(factors) if stacking == "multiply" else ONE
        mixes = list(zip(*columns, strict=True))  # by line, which of the factors are for it; of lines there are more
        stacked = {mix: _stacked(list(compress(factors, mix)), scale, stacking) for mix in set(mixes)}
        weights = [weight * stacked[mix] for weight, mix in zip(share.weights, mixes, strict=True)]
        divisor = denominator * sum(share.weights) * scale
        steps.append(rounded_quotient(numerator * sum(weights), divisor, rule.rounding))
    return Candidate(rule, share, steps, multipliers, weights)


@lru_cache(maxsize=1000)
def _stacks(tier: int, factors: Sequence[int], stacking: Stacking) -> tuple[tuple[int, int], ...]:
    """With the tier's, the first of the factors, the first two, and so on: each time all as one, of which so much is 1.

    Kept, because the same ones mostly multiply many rules.
    """
    first = [] if tier == ONE else [tier]
    found = []
    for count in range(1, len(factors) + 1):
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
        campaign = rule.campaign if rule.campaign is not None and rule.campaign.wallet == rule.wallet else None
        if wanted == 0 or not (rule.limits or campaign):
            return wanted, None
        limits = rule.limits if campaign is None else (*rule.limits, *campaign.limits)
        points, reason = wanted, None
        for limit in limits:
            room = self._room(limit, campaign)
            if room is None:
                return 0, "period_closed"
            if wanted > room:
                allowed = 0 if limit.rejects else room
                if allowed < points:
                    points, reason = allowed, limit.reason
        if campaign is not None and campaign.has_budget:
            left = max(0, self._budgets.get(campaign.id, 0) - self.drawn.get(campaign.id, 0))
            if left < points:
                points, reason = left, "budget"
            if points:
                self.drawn[campaign.id] = self.drawn.get(campaign.id, 0) + points
        for limit in limits:
            if limit.key is not None:
                self._tally.add(limit.key, points)
        if campaign is not None:
            self._given[campaign.id] = self._given.get(campaign.id, 0) + points
        return points, reason

    def _room(self, limit: Limit, campaign: ActiveCampaign | None) -> int | None:
        """What is left under the cap; None in a period that is forgotten."""
        if limit.key is None:
            given = self._given.get(campaign.id, 0) if campaign is not None and limit in campaign.limits else 0
            return max(0, limit.most - given)
        counted = self._tally.value(limit.key)
        return None if counted is None else max(0, limit.most - counted)


def rounded_quotient(dividend: int, divisor: int, rounding: Rounding) -> int:
    """dividend / divisor as a whole number, exactly; both are non-negative."""
    if rounding == "floor":
        return dividend // divisor
    whole, rest = divmod(dividend, divisor)
    if rounding == "ceil":
        return whole + (rest > 0)
    return whole + (2 * rest >= divisor)
