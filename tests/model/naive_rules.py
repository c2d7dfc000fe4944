"""What rules give, said a second time and as plainly as possible: fractions, lists, and one rounding at the end.

Rules, conditions and events are read in the form in which a client sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.model.naive import first_of, local_day

Json = dict[str, Any]
Count = Callable[[str], "int | None"]
USUAL_EVENTS = {"points_per_spend": ["purchase"], "points_per_item": ["purchase"], "points_per_visit": ["visit"]}
KEPT_PERIODS = 3


def minor(amount: str | None) -> int | None:
    """ "11.77" is 1177."""
    return None if amount is None else int(Decimal(amount) * 100)


# Conditions


class Person(NamedTuple):
    """The member before the event: the tier, what it multiplies by in thousandths, the day of joining."""

    tier: str | None
    multiplier_milli: int
    joined_on: date
    segments: list[Json]


def holds(condition: Json | None, event: Json, at: datetime, zone: str, count: Count, person: Person) -> bool:
    """Whether the condition holds for the event that happened at `at`."""

    def below(other: Json) -> bool:
        return holds(other, event, at, zone, count, person)

    if condition is None:
        return True
    if "all" in condition:
        return all(below(other) for other in condition["all"])
    if "any" in condition:
        return any(below(other) for other in condition["any"])
    if "none" in condition:
        return not any(below(other) for other in condition["none"])
    if "not" in condition:
        return not below(condition["not"])
    if "lines" in condition:
        return holds_for_lines(condition, event.get("items", []))
    name = condition["field"]
    if name.startswith("counters."):
        value: Any = count(name.removeprefix("counters."))
        money = name.startswith("counters.spend.")
    elif name == "member.segments":
        value, money = [one["id"] for one in person.segments if below(one["when"])], False
    else:
        value, money = event_value(name, event, at, zone, person)
    return compare(value, condition["op"], condition.get("value"), money)


def event_value(name: str, event: Json, at: datetime, zone: str, person: Person) -> tuple[Any, bool]:
    """What the event, the member or the clock says, and whether it is money."""
    day = local_day(zone, at)
    items = event.get("items", [])
    if name in ("event.amount", "event.tax", "event.shipping", "order.amount"):
        return minor(event.get(name.split(".")[1])), True
    if name in ("event.type", "event.source", "event.store", "event.currency"):
        return event.get(name.split(".")[1]), False
    values: Json = {
        "order.quantity": sum(item.get("quantity", 1) for item in items),
        "order.lines": len(items),
        "time.weekday": ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day.weekday()],
        "time.day": day.day,
        "time.month": day.month,
        "time.year": day.year,
        "time.date": day.isoformat(),
        "time.time": at.astimezone(ZoneInfo(zone)).strftime("%H:%M"),
        "member.tier": person.tier,
        "member.days_since_joined": (day - person.joined_on).days,
    }
    return values[name], False


def line_value(name: str, item: Json) -> tuple[Any, bool]:
    """What a line says, and whether it is money."""
    name = name.removeprefix("line.")
    if name in ("amount", "tax"):
        return minor(item.get(name)), True
    if name == "unit_amount":
        return (minor(item["amount"]) or 0) // item.get("quantity", 1), True
    if name == "quantity":
        return item.get("quantity", 1), False
    return item.get(name), False


def line_holds(condition: Json | None, item: Json) -> bool:
    """Whether the condition holds for the line."""
    if condition is None:
        return True
    if "all" in condition:
        return all(line_holds(other, item) for other in condition["all"])
    if "any" in condition:
        return any(line_holds(other, item) for other in condition["any"])
    if "none" in condition:
        return not any(line_holds(other, item) for other in condition["none"])
    if "not" in condition:
        return not line_holds(condition["not"], item)
    value, money = line_value(condition["field"], item)
    return compare(value, condition["op"], condition.get("value"), money)


def holds_for_lines(condition: Json, items: list[Json]) -> bool:
    """`all`, `any` (of so many), `none` of the lines, or the one with the lowest or highest price a piece."""
    which, where = condition["lines"], condition["where"]
    fulfilling = [item for item in items if line_holds(where, item)]
    if which == "all":
        return bool(items) and len(fulfilling) == len(items)
    if which == "any":
        return len(fulfilling) >= condition.get("at_least", 1)
    if which == "none":
        return not fulfilling
    by_price = [(Fraction(minor(item["amount"]) or 0, item.get("quantity", 1)), item) for item in items]
    if not by_price:
        return False
    wanted = min(price for price, _ in by_price) if which == "cheapest" else max(price for price, _ in by_price)
    return line_holds(where, next(item for price, item in by_price if price == wanted))


def compare(value: Any, op: str, operand: Any, money: bool) -> bool:
    """One comparison; with a value that is missing it is false, whatever it is."""
    if op == "exists":
        return (value is not None) == (operand is not False)
    if value is None:
        return False
    if money:
        operand = [minor(one) for one in operand] if isinstance(operand, list) else minor(operand)
    if op == "between":
        return bool(operand[0] <= value <= operand[1])
    return bool(
        {
            "=": lambda: value == operand,
            "!=": lambda: value != operand,
            "<": lambda: value < operand,
            "<=": lambda: value <= operand,
            ">": lambda: value > operand,
            ">=": lambda: value >= operand,
            "in": lambda: value in operand,
            "not_in": lambda: value not in operand,
            "contains": lambda: operand in value,
        }[op]()
    )


# Awards


@dataclass
class Given:
    """Points that one rule gave, and how many of them each line of the event earned (None: no line can be said to).

    Without its caps it would have given `wanted`; what a cap leaves nothing of is given too, as no points.
    """

    rule: Json
    points: int
    by_line: list[int] | None
    wanted: int


@dataclass
class Counters:
    """Everything that was ever counted: (name, when it happened, how much)."""

    zone: str
    counted: list[tuple[str, datetime, int]] = field(default_factory=list)

    def value(self, name: str, unit: str, at: datetime) -> int | None:
        """How much of it there was in the period of `at`; None if three later periods have been counted since."""

        def period(instant: datetime) -> Any:
            return "ever" if unit == "ever" else first_of(unit, local_day(self.zone, instant))

        wanted = period(at)
        found = [(period(then), amount) for what, then, amount in self.counted if what == f"{name}/{unit}" and amount]
        if len({other for other, _ in found if other > wanted}) >= KEPT_PERIODS:
            return None
        return sum(amount for other, amount in found if other == wanted)

    def add(self, name: str, unit: str, at: datetime, amount: int) -> None:
        """Count so much more, unless the period is over for good."""
        if self.value(name, unit, at) is not None:
            self.counted.append((f"{name}/{unit}", at, amount))


def award(
    rules: Json, policies: Json, zone: str, event: Json, at: datetime, counters: Counters, person: Person
) -> list[Given]:
    """What the rules give for the event; the caps count it."""

    def count(name: str) -> int | None:
        what, unit = name.rsplit(".", 1)
        return counters.value(what, unit, at)

    def in_time(what: Json) -> bool:
        starts, ends = what.get("starts_at"), what.get("ends_at")
        return (starts is None or instant_of(starts) <= at) and (ends is None or at < instant_of(ends))

    campaigns = {one["id"]: one for one in rules.get("campaigns", [])}
    applying: list[tuple[Json, int, list[int]]] = []
    for rule in sorted(rules["rules"], key=lambda rule: (-rule.get("priority", 0), rule["id"])):
        events = rule.get("events") or USUAL_EVENTS.get(rule["type"])
        campaign = campaigns.get(rule.get("campaign", ""))
        if events is not None and event["type"] not in events:
            continue
        if not in_time(rule) or not holds(rule.get("when"), event, at, zone, count, person):
            continue
        if campaign and not (in_time(campaign) and holds(campaign.get("when"), event, at, zone, count, person)):
            continue
        is_first = rules.get("groups", {}).get(rule.get("group", "")) == "first"
        if is_first and any(rule["group"] == other.get("group") for other, _, _ in applying):
            continue
        counted = counts(rule, policies, event)
        if counted is None:
            continue
        applying.append((rule, *counted))
        if rule.get("stop"):
            break
    multipliers = [rule for rule, _, _ in applying if rule["type"] == "multiplier"]
    multipliers = [one for one in multipliers if one is best_of(one, multipliers, lambda rule: Decimal(rule["factor"]))]
    candidates = []
    for rule, basis, weights in applying:
        if rule["type"] not in ("multiplier", "benefit"):
            points, weights = value(rule, basis, weights, multipliers, rules, policies, event, person.multiplier_milli)
            candidates.append({**rule, "worth": points, "weights": weights})
    candidates = [one for one in candidates if one is best_of(one, candidates, lambda rule: rule["worth"])]
    given: list[Given] = []
    in_campaign: dict[str, int] = {}
    for rule in candidates:
        campaign = campaigns.get(rule.get("campaign", ""))
        if campaign and campaign.get("wallet", "points") != rule["wallet"]:
            campaign = None
        points = rule["worth"]
        caps = [(f"rule:{rule['id']}", rule.get("caps") or {}, 0)]
        if campaign:
            caps.append((f"campaign:{campaign['id']}", campaign.get("caps") or {}, in_campaign.get(campaign["id"], 0)))
        for name, limits, given_now in caps:
            points = min(points, cut(rule["worth"], limits, name, counters, at, given_now))
        if points:
            for name, limits, _ in caps:
                for unit in ("day", "week", "month", "year", "member"):
                    if limits.get(f"per_{unit}"):
                        counters.add(name, "ever" if unit == "member" else unit, at, points)
            if campaign:
                in_campaign[campaign["id"]] = in_campaign.get(campaign["id"], 0) + points
        given.append(Given(rule, points, spread(points, rule["weights"]), rule["worth"]))
    return given


def counts(rule: Json, policies: Json, event: Json) -> tuple[int, list[int]] | None:
    """What the rule counts, in all and by line; None if there is nothing of it (or less than its minimum)."""
    items = event.get("items", [])
    if rule["type"] == "points_per_item":
        pieces = [item.get("quantity", 1) if line_holds(rule.get("where"), item) else 0 for item in items]
        return (sum(pieces), pieces) if sum(pieces) else None
    if rule["type"] == "multiplier" and rule.get("where"):
        return (1, []) if any(line_holds(rule["where"], item) for item in items) else None
    if rule["type"] != "points_per_spend":
        return 1, []
    amount = minor(event.get("amount"))
    if amount is None:
        return None
    basis = rule.get("basis") or {}
    taxes = [minor(item.get("tax")) or 0 for item in items]
    lines = [minor(item["amount"]) or 0 for item in items]
    counted = amount
    if basis.get("exclude_tax"):
        lines = [max(0, line - tax) for line, tax in zip(lines, taxes, strict=True)]
        whole_tax = minor(event.get("tax"))
        counted -= sum(taxes) if whole_tax is None else whole_tax
    if basis.get("exclude_shipping"):
        counted -= minor(event.get("shipping")) or 0
    if basis.get("exclude"):
        for place, item in enumerate(items):
            if line_holds(basis["exclude"], item):
                counted -= lines[place]
                lines[place] = 0
    if basis.get("only"):
        lines = [line if line_holds(basis["only"], item) else 0 for line, item in zip(lines, items, strict=True)]
        counted = sum(lines)
    counted = max(0, min(counted, amount))
    unearned = unearned_part(policies, event, basis.get("exclude_payments", []))
    counted = int(counted * (1 - unearned))
    return (counted, lines) if counted >= (minor(rule.get("minimum")) or 0) else None


def unearned_part(policies: Json, event: Json, also: list[str]) -> Fraction:
    """The part of the amount that was paid by means that earn nothing."""
    methods = [*policies.get("unearning_payment_methods", []), *also]
    if not policies.get("earn_on_points_paid", False):
        methods.append("points")
    amount = minor(event.get("amount")) or 0
    paid = sum(minor(one["amount"]) or 0 for one in event.get("payments", []) if one["method"] in methods)
    return min(Fraction(1), Fraction(paid, amount)) if amount else Fraction(0)


def value(
    rule: Json,
    basis: int,
    lines: list[int],
    multipliers: list[Json],
    rules: Json,
    policies: Json,
    event: Json,
    tier: int,
) -> tuple[int, list[int]]:
    """The points of the rule with all its multipliers, and how much of them comes from each line."""
    points = Fraction(rule["points"] * basis)
    if rule["type"] == "points_per_spend":
        points /= minor(rule["per"]) or 1
    if rule["type"] == "points_per_item":
        points *= 1 - unearned_part(policies, event, [])
    factors: list[tuple[Fraction, Json | None]] = []
    if rule.get("tier_multiplier", True) and tier != 1000:
        factors.append((Fraction(tier, 1000), None))
    for one in multipliers:
        mine = one.get("applies_to", "all") == "all" and one.get("wallet", "points") == rule["wallet"]
        mine = mine or rule["id"] in one.get("applies_to", "all")
        if mine and (not one.get("where") or sum(lines)):
            factors.append((Fraction(Decimal(one["factor"])), one.get("where")))
    stacking = rules.get("stacking", "multiply")
    if any(where for _, where in factors):
        parts = []
        for item, line in zip(event.get("items", []), lines, strict=True):
            own = [factor for factor, where in factors if line_holds(where, item)]
            parts.append(line * stacked(own, stacking))
        points *= sum(parts, Fraction(0)) / sum(lines)
        scale = 1000 ** len(factors)
        return rounded(points, rule.get("rounding", "floor")), [int(part * scale) for part in parts]
    points *= stacked([factor for factor, _ in factors], stacking)
    return rounded(points, rule.get("rounding", "floor")), lines


def stacked(factors: list[Fraction], stacking: str) -> Fraction:
    """Several factors as one."""
    if stacking == "best":
        return max(factors, default=Fraction(1))
    if stacking == "add":
        return max(Fraction(0), 1 + sum((factor - 1 for factor in factors), Fraction(0)))
    product = Fraction(1)
    for factor in factors:
        product *= factor
    return product


def rounded(points: Fraction, rounding: str) -> int:
    """The one rounding of an award."""
    if rounding == "ceil":
        return -(-points.numerator // points.denominator)
    if rounding == "half_up":
        return int(points + Fraction(1, 2))
    return int(points)


def best_of(one: Json, others: list[Json], worth: Callable[[Json], Any]) -> Json:
    """The best rule of the group that `one` is in, the first of equals; itself if it is in none."""
    if not one.get("group"):
        return one
    group = [other for other in others if other.get("group") == one["group"]]
    return next(other for other in group if worth(other) == max(worth(each) for each in group))


def cut(wanted: int, limits: Json, name: str, counters: Counters, at: datetime, given_now: int) -> int:
    """How many of the wanted points the caps let through."""
    allowed = wanted
    for unit in ("event", "day", "week", "month", "year", "member"):
        most = limits.get(f"per_{unit}")
        if not most:
            continue
        if unit == "event":
            room, over = max(0, most - given_now), limits.get("over") or "reject"
        else:
            counted = counters.value(name, "ever" if unit == "member" else unit, at)
            if counted is None:
                return 0
            room, over = max(0, most - counted), limits.get("over") or "reduce"
        if wanted > room:
            allowed = min(allowed, room if over == "reduce" else 0)
    return allowed


def spread(points: int, weights: list[int]) -> list[int] | None:
    """Points by line, in proportion; what is rounded down is made up for by the lines after."""
    if not sum(weights):
        return None
    reached = [points * sum(weights[: place + 1]) // sum(weights) for place in range(len(weights))]
    return [now - before for now, before in zip(reached, [0, *reached], strict=False)]


def instant_of(text: str) -> datetime:
    """An RFC 3339 instant."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
