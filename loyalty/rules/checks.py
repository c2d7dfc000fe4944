"""What can be wrong with rules although each of their fields is right: found before they are saved, all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from loyalty.infra.http import body as bodies
from loyalty.infra.money import MoneyError, exponent, to_minor
from loyalty.infra.suggestions import suggestion
from loyalty.programs.policies import Policies
from loyalty.rules.conditions import Condition, Known, check
from loyalty.rules.expressions import render
from loyalty.rules.facts import Scope
from loyalty.rules.model import (
    Benefit,
    Budget,
    Campaign,
    Earning,
    FixedPoints,
    Multiplier,
    PointsPerSpend,
    Proposal,
    Rule,
    RuleSet,
    Segment,
)

Defect = dict[str, str]


def defects(
    rule_set: RuleSet, currency: str, policies: Policies | None = None, levels: Collection[str] | None = None
) -> list[Defect]:
    """Everything that is wrong with the rules for a program in `currency`, as `{pointer, code, detail}`.

    `policies` are those of the program, `levels` the ids of its tiers; None leaves unchecked what depends on them.
    """
    wallets = None if policies is None else policies.wallets
    found: list[Defect] = []
    for kind, members in (
        ("rules", rule_set.rules),
        ("campaigns", rule_set.campaigns),
        ("segments", rule_set.segments),
    ):
        for index, member in enumerate(members):
            pointer = f"/{kind}/{index}"
            if member.id in {other.id for other in members[:index]}:
                detail = f"Another one of the {kind} is called {member.id}."
                found.append(_defect(f"{pointer}/id", "duplicate", detail))
            if not isinstance(member, Segment):
                found += _schedule(pointer, member.starts_at, member.ends_at)
            wallet = getattr(member, "wallet", None)
            if wallet is not None and wallets is not None and wallet not in wallets:
                detail = f"The program has no wallet {wallet!r}.{suggestion(wallet, wallets)}"
                found.append(_defect(f"{pointer}/wallet", "unknown_wallet", detail))
    for index, rule in enumerate(rule_set.rules):
        found += _of_rule(rule, f"/rules/{index}", rule_set, currency)
    for index, campaign in enumerate(rule_set.campaigns):
        if campaign.budget is not None:
            found += _of_budget(campaign.budget, f"/campaigns/{index}/budget", currency, policies)
    known = Known(currency, wallets, [segment.id for segment in rule_set.segments], levels)
    for pointer, over, condition in conditions(rule_set):
        for defect in check(condition, over, known):
            found.append({**defect, "pointer": pointer + defect["pointer"]})
    return [*found, *_of_groups(rule_set)]


def _of_budget(budget: Budget, pointer: str, currency: str, policies: Policies | None) -> Iterator[Defect]:
    if budget.points is None and budget.amount is None:
        yield _defect(pointer, "invalid_value", "Give points, an amount, or both.")
    if budget.amount is not None:
        try:
            to_minor(budget.amount, currency)
        except MoneyError as error:
            yield _defect(f"{pointer}/amount", "invalid_value", f"{error}.")
        if policies is not None and policies.points_payment is None:
            detail = "What points are worth is not known: set the policy `points_payment`, or limit the points."
            yield _defect(f"{pointer}/amount", "no_worth", detail)


def inspect(
    raw: bytes, currency: str, policies: Policies, levels: Collection[str] | None
) -> tuple[RuleSet | None, list[Defect]]:
    """The rules in a body of JSON, and everything that is wrong with them: of their form and of their meaning, at once.

    Where some have a wrong form, the others are checked each for itself: what they say of others cannot be known.
    MalformedJson when it is no JSON.
    """
    value = bodies.parse_json(raw)
    try:
        rule_set = _PROPOSAL.validate_json(raw)
    except ValidationError as error:
        found = bodies.defects(error, value, model=Proposal)
        for kind, reader in (("rules", _RULE), ("campaigns", _CAMPAIGN), ("segments", _SEGMENT)):
            members = value.get(kind) if isinstance(value, dict) else None
            for index, member in enumerate(members if isinstance(members, list) else []):
                try:
                    alone = reader.validate_json(bodies.canonical(member))
                except ValidationError:
                    continue
                only = RuleSet.model_construct(**{"rules": [], kind: [alone]})  # type: ignore[arg-type]
                found += [
                    {**defect, "pointer": defect["pointer"].replace(f"/{kind}/0", f"/{kind}/{index}", 1)}
                    for defect in defects(only, currency, policies, levels)
                    if defect["code"] not in _OF_OTHERS
                ]
        return None, found
    return rule_set, defects(rule_set, currency, policies, levels)


_PROPOSAL: Final = TypeAdapter(Proposal)
_RULE: Final[TypeAdapter[Any]] = TypeAdapter(Rule)
_CAMPAIGN: Final = TypeAdapter(Campaign)
_SEGMENT: Final = TypeAdapter(Segment)
_OF_OTHERS: Final = frozenset({"unknown_campaign", "unknown_rule", "unknown_segment"})


def texts(rule_set: RuleSet) -> dict[str, str]:
    """The text of each condition, by its place."""
    return {pointer: render(condition, over) for pointer, over, condition in conditions(rule_set)}


def conditions(rule_set: RuleSet) -> Iterator[tuple[str, Scope, Condition]]:
    """Every condition of the rules: its place, what it is about, and itself."""
    for index, rule in enumerate(rule_set.rules):
        if rule.when is not None:
            yield f"/rules/{index}/when", "event", rule.when
        where = getattr(rule, "where", None)
        if where is not None:
            yield f"/rules/{index}/where", "line", where
        for name in ("only", "exclude"):
            condition = getattr(getattr(rule, "basis", None), name, None)
            if condition is not None:
                yield f"/rules/{index}/basis/{name}", "line", condition
    for index, campaign in enumerate(rule_set.campaigns):
        if campaign.when is not None:
            yield f"/campaigns/{index}/when", "event", campaign.when
    for index, segment in enumerate(rule_set.segments):
        yield f"/segments/{index}/when", "member", segment.when


def _of_rule(rule: Rule, pointer: str, rule_set: RuleSet, currency: str) -> Iterator[Defect]:
    campaigns = [campaign.id for campaign in rule_set.campaigns]
    if rule.campaign is not None and rule.campaign not in campaigns:
        detail = f"There is no campaign {rule.campaign!r} in `campaigns`.{suggestion(rule.campaign, campaigns)}"
        yield _defect(f"{pointer}/campaign", "unknown_campaign", detail)
    if isinstance(rule, PointsPerSpend):
        yield from _amount(f"{pointer}/per", rule.per, currency, above_zero=True)
        yield from _amount(f"{pointer}/minimum", rule.minimum, currency, above_zero=False)
    elif isinstance(rule, FixedPoints | Benefit) and rule.when is None and rule.events is None:
        detail = 'Say for which events: give `events`, such as ["purchase"], or a condition in `when`.'
        yield _defect(f"{pointer}/when", "missing", detail)
    elif isinstance(rule, Multiplier) and rule.applies_to != "all":
        targets = {other.id: other for other in rule_set.rules}
        for place, name in enumerate(rule.applies_to):
            target = targets.get(name)
            if not isinstance(target, Earning) or target.wallet != rule.wallet:
                known = [one.id for one in rule_set.rules if isinstance(one, Earning) and one.wallet == rule.wallet]
                detail = f"No rule {name!r} gives points of the wallet {rule.wallet}.{suggestion(name, known)}"
                yield _defect(f"{pointer}/applies_to/{place}", "unknown_rule", detail)


def _amount(pointer: str, text: str, currency: str, *, above_zero: bool) -> Iterator[Defect]:
    try:
        value = to_minor(text, currency)
    except MoneyError as error:
        yield _defect(pointer, "invalid_value", f"{error}.")
        return
    if above_zero and value == 0:
        smallest = f"1 minor unit ({exponent(currency)} decimals)"
        yield _defect(pointer, "invalid_value", f"Points per nothing: give at least {smallest}.")


def _schedule(pointer: str, start: datetime | None, end: datetime | None) -> Iterator[Defect]:
    if start is not None and end is not None and start >= end:
        yield _defect(f"{pointer}/ends_at", "invalid_value", "The end must be after the start.")


def _of_groups(rule_set: RuleSet) -> Iterator[Defect]:
    """Of a group one rule gives, so its rules must be comparable: of one kind, and of one wallet."""
    firsts: dict[str, tuple[str, str | None]] = {}
    for index, rule in enumerate(rule_set.rules):
        if rule.group is None:
            continue
        kind = "points" if isinstance(rule, Earning) else rule.type
        same = firsts.setdefault(rule.group, (kind, getattr(rule, "wallet", None)))
        if same != (kind, getattr(rule, "wallet", None)):
            detail = f"The rules of the group {rule.group} must be of one kind, and of one wallet."
            yield _defect(f"/rules/{index}/group", "mixed_group", detail)
    for name in rule_set.groups:
        if name not in firsts:
            yield _defect(
                f"/groups/{name}", "unknown_group", f"No rule is in the group {name}.{suggestion(name, firsts)}"
            )


def _defect(pointer: str, code: str, detail: str) -> Defect:
    return {"pointer": pointer, "code": code, "detail": detail}
