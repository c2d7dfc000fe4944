"""Random programs and events, in the form in which a client sends them. Values are few, so that they meet."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st

Json = dict[str, Any]

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Africa/Cairo", "America/Havana"),
    *("Australia/Lord_Howe", "America/Santiago", "Asia/Beirut", "Pacific/Chatham"),
)
# Just before leap days, changes of the clock and turns of the year, in one zone or the other.
STARTS = (
    *("2028-02-27T22:30:00Z", "2027-03-26T12:00:00Z", "2027-10-29T23:00:00Z", "2027-12-29T05:00:00Z"),
    *("2027-03-12T20:00:00Z", "2027-11-05T04:15:00Z", "2027-04-02T10:00:00Z", "2026-01-30T09:00:00Z"),
)
WALLETS = ("points", "status")
CATEGORIES = ("books", "music", "wine")


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """Any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


pendings = st.one_of(
    st.just({"type": "none"}),
    st.fixed_dictionaries({"type": st.just("period"), "days": st.sampled_from([1, 2, 14])}),
    st.fixed_dictionaries({"type": st.just("date"), "date": st.sampled_from(["2027-04-01", "2028-03-01"])}),
    st.just({"type": "event", "event_type": "delivered"}),
    st.just({"type": "manual"}),
)
durations = st.one_of(
    st.fixed_dictionaries({"days": st.sampled_from([1, 2, 5, 30])}),
    st.fixed_dictionaries({"months": st.sampled_from([1, 12])}),
)
rollings = st.builds(
    lambda duration, rest: {"type": "rolling", **duration, **rest},
    durations,
    optional(round_up_to=st.sampled_from(["day", "month", "quarter", "year", None])),
)
dates = st.builds(
    lambda days, rest: {"type": "dates", "dates": days, **rest},
    st.lists(st.sampled_from(["02-29", "03-31", "12-31", "01-01"]), min_size=1, max_size=2, unique=True),
    optional(at_least_days=st.sampled_from([1, 30])),
)
lot_expiries = st.one_of(st.just({"type": "never"}), rollings, dates)
inactivities = st.builds(
    lambda duration, rest: {"type": "inactivity", **duration, **rest},
    durations,
    optional(activity=st.sampled_from([["earn"], ["spend"], ["earn", "spend"]])),
)
wallet_policies = st.fixed_dictionaries(
    {
        "overspent_refund": st.sampled_from(["stop_at_zero", "pending_only", "negative"]),
        "restore_grace_days": st.sampled_from([0, 1, 3]),
    },
    optional={
        "pending": pendings,
        "expiry": st.one_of(lot_expiries, inactivities),
        "max_balance": st.sampled_from([50, 300]),
        "transferable": st.just(True),
    },
)
policies = st.builds(
    lambda points, status, rest: {"wallets": {"points": points, "status": status}, **rest},
    wallet_policies,
    wallet_policies,
    optional(
        earn_on_points_paid=st.booleans(),
        unearning_payment_methods=st.just(["gift_card"]),
        points_payment=st.just({"wallet": "points", "points": 3, "amount": "1.00"}),
    ),
)

line_conditions = st.one_of(
    st.builds(lambda value: {"field": "category", "op": "=", "value": value}, st.sampled_from(CATEGORIES)),
    st.just({"field": "category", "op": "not_in", "value": ["wine", "books"]}),
    st.just({"field": "quantity", "op": ">=", "value": 2}),
    st.just({"field": "amount", "op": "<", "value": "10.00"}),
    st.just({"not": {"field": "brand", "op": "exists"}}),
)
plain_conditions = st.one_of(
    st.builds(
        lambda op, value: {"field": "event.amount", "op": op, "value": value},
        st.sampled_from([">=", "<", "=", "!="]),
        st.sampled_from(["9.99", "10.00", "50.00"]),
    ),
    st.just({"field": "time.weekday", "op": "in", "value": ["sat", "sun", "mon"]}),
    st.just({"field": "time.month", "op": "=", "value": 3}),
    st.just({"field": "order.quantity", "op": ">", "value": 2}),
    st.just({"field": "member.tier", "op": "!=", "value": "base"}),
    st.just({"field": "member.segments", "op": "contains", "value": "newcomers"}),
    st.builds(
        lambda name, unit, op, value: {"field": f"counters.{name}.{unit}", "op": op, "value": value},
        st.sampled_from(["purchases", "visits", "points.points"]),
        st.sampled_from(["day", "week", "month", "year", "ever"]),
        st.sampled_from(["=", "<", ">="]),
        st.sampled_from([0, 1, 3]),
    ),
    st.just({"field": "counters.spend.month", "op": ">=", "value": "50.00"}),
    st.builds(
        lambda which, where: {"lines": which, "where": where},
        st.sampled_from(["all", "any", "none", "cheapest", "most_expensive"]),
        line_conditions,
    ),
)
conditions = st.one_of(
    plain_conditions,
    st.builds(
        lambda kind, parts: {kind: parts},
        st.sampled_from(["all", "any", "none"]),
        st.lists(plain_conditions, min_size=1, max_size=2),
    ),
    st.builds(lambda part: {"not": part}, plain_conditions),
)

caps = optional(
    per_event=st.sampled_from([20, 100]),
    per_day=st.sampled_from([30, 150]),
    per_week=st.just(120),
    per_month=st.sampled_from([40, 200]),
    per_year=st.just(400),
    per_member=st.sampled_from([10, 500]),
    over=st.sampled_from(["reduce", "reject"]),
)
common = {
    "when": conditions,
    "priority": st.sampled_from([-1, 1, 2]),
    "group": st.sampled_from(["g", "h"]),
    "stop": st.booleans(),
    "starts_at": st.sampled_from(["2027-03-27T00:00:00Z", "2028-02-29T00:00:00Z"]),
    "ends_at": st.sampled_from(["2027-03-28T01:00:00Z", "2028-03-01T05:00:00Z"]),
    "campaign": st.just("spring"),
}
earning = {
    **common,
    "wallet": st.sampled_from(WALLETS),
    "caps": caps,
    "pending": pendings,
    "expiry": lot_expiries,
    "tier_multiplier": st.booleans(),
    "events": st.sampled_from([["purchase", "visit"], ["visit"]]),
}
roundings = st.sampled_from(["floor", "half_up", "ceil"])
bases = optional(
    exclude_tax=st.booleans(),
    exclude_shipping=st.booleans(),
    only=line_conditions,
    exclude=line_conditions,
    exclude_payments=st.just(["voucher"]),
)


def rule_of(kind: str, required: dict[str, Any], fields: dict[str, Any]) -> st.SearchStrategy[Json]:
    """Rules of a kind, with few of the fields, or they would hardly ever apply; the id comes later."""

    def with_these(names: list[str]) -> st.SearchStrategy[Json]:
        return st.fixed_dictionaries({"type": st.just(kind), **required, **{name: fields[name] for name in names}})

    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(with_these)


def in_full(rule: Json) -> Json:
    """With the wallet, which naive readers do not want to guess."""
    return rule if rule["type"] == "benefit" else {"wallet": "points", **rule}


rules = st.one_of(
    rule_of(
        "points_per_spend",
        {
            "points": st.sampled_from([1, 3, 10]),
            "per": st.sampled_from(["1.00", "0.70", "2.50"]),
            "rounding": roundings,
        },
        {**earning, "minimum": st.sampled_from(["5.00", "10.00"]), "basis": bases},
    ),
    rule_of("points_per_item", {"points": st.sampled_from([5, 7])}, {**earning, "where": line_conditions}),
    rule_of("points_per_visit", {"points": st.sampled_from([2, 50])}, earning),
    rule_of("fixed", {"points": st.sampled_from([25, 100])}, earning),
    rule_of(
        "multiplier",
        {"factor": st.sampled_from(["2", "1.5", "0.333", "0"])},
        {**common, "wallet": st.sampled_from(WALLETS), "where": line_conditions, "applies_to": st.just(["r0", "r1"])},
    ),
)
campaigns = st.builds(
    lambda rest: {"id": "spring", **rest},
    optional(
        caps=caps,
        when=plain_conditions,
        starts_at=st.just("2027-03-27T00:00:00Z"),
        wallet=st.sampled_from(WALLETS),
    ),
)


def _numbered(rules: list[Json], campaign: Json, first_wins: bool, rest: Json) -> Json:
    named = [{"id": f"r{place}", **in_full(rule)} for place, rule in enumerate(rules)]
    known = {rule["id"]: rule for rule in named if rule["type"] != "multiplier"}
    for rule in named:
        if rule["type"] == "multiplier" and "applies_to" in rule:
            mine = [name for name in rule["applies_to"] if name in known]
            mine = [name for name in mine if known[name]["wallet"] == rule["wallet"]]
            rule["applies_to"] = mine or "all"
        if rule["type"] == "fixed" and not {"when", "events"} & set(rule):
            rule["events"] = ["purchase"]
        if "group" in rule:
            rule["group"] += f"-{rule['wallet']}-{'factors' if rule['type'] == 'multiplier' else 'points'}"
        starts, ends = rule.get("starts_at"), rule.get("ends_at")
        if starts and ends and starts >= ends:
            del rule["starts_at"]
    first = {name: "first" for name in sorted({rule.get("group", "") for rule in named}) if name.startswith("h")}
    groups = {"groups": first} if first and first_wins else {}
    newcomers = {"id": "newcomers", "when": {"field": "member.days_since_joined", "op": "<", "value": 2}}
    return {"rules": named, "campaigns": [campaign], "segments": [newcomers], **groups, **rest}


plain_rule = st.builds(
    lambda per, rounding: {"type": "points_per_spend", "points": 1, "per": per, "rounding": rounding},
    st.sampled_from(["1.00", "0.70"]),
    roundings,
)
rule_sets = st.builds(
    lambda first, others, *rest: _numbered([first, *others], *rest),
    plain_rule,
    st.lists(rules, max_size=4),
    campaigns,
    st.booleans(),
    optional(stacking=st.sampled_from(["multiply", "add", "best"])),
)

levels = st.builds(
    lambda first, second: [
        {"id": "base", "threshold": 0, "multiplier_milli": 1000},
        {"id": "silver", "threshold": first, "multiplier_milli": 1500},
        {"id": "gold", "threshold": first + second, "multiplier_milli": 2125},
    ],
    st.sampled_from([1, 20, 100]),
    st.sampled_from([1, 50, 1000]),
)
windows = st.one_of(
    st.builds(
        lambda unit: {"type": "calendar", "unit": unit}, st.sampled_from(["day", "week", "month", "quarter", "year"])
    ),
    st.builds(lambda days: {"type": "rolling", "days": days}, st.sampled_from([1, 3, 30])),
    st.builds(lambda months: {"type": "rolling", "months": months}, st.sampled_from([1, 12])),
    st.builds(lambda months: {"type": "anniversary", "months": months}, st.sampled_from([1, 12])),
    st.just({"type": "lifetime"}),
)
bases_of_tiers = st.one_of(
    st.just({"type": "balance", "wallet": "points"}),
    st.builds(lambda wallet: {"type": "earned", "wallet": wallet}, st.sampled_from(WALLETS)),
    st.just({"type": "spend"}),
    st.just({"type": "visits"}),
)
tiers = st.builds(
    lambda basis, window, levels, to, grace: {
        "basis": basis,
        "window": {"type": "lifetime"} if basis["type"] == "balance" else window,
        "levels": levels,
        "downgrade": {"to": to, "grace_days": grace},
    },
    bases_of_tiers,
    windows,
    levels,
    st.sampled_from(["none", "one_level", "full"]),
    st.sampled_from([0, 1, 3]),
)
programs = st.fixed_dictionaries(
    {
        "zone": st.sampled_from(ZONES),
        "start": st.sampled_from(STARTS),
        "policies": policies,
        "rules": rule_sets,
        "tiers": st.none() | tiers,
    }
)

amounts = st.sampled_from(["0.00", "0.01", "9.99", "10.00", "37.50", "100.00", "249.95"])
items = st.builds(
    lambda amount, rest: {"amount": amount, **rest},
    amounts,
    optional(
        category=st.sampled_from(CATEGORIES),
        quantity=st.sampled_from([2, 3]),
        tax=st.sampled_from(["0.00", "1.90"]),
        brand=st.just("acme"),
    ),
)
payments = st.fixed_dictionaries(
    {"method": st.sampled_from(["cash", "gift_card", "voucher", "points"]), "amount": st.sampled_from(["1.00", "9.99"])}
)
purchases = st.builds(
    lambda amount, items, payments, rest: {
        "type": "purchase",
        "amount": amount,
        "items": [{"line_id": str(place), **item} for place, item in enumerate(items)],
        "payments": payments,
        **rest,
    },
    amounts,
    st.lists(items, max_size=3),
    st.lists(payments, max_size=2),
    optional(tax=st.sampled_from(["0.50", "2.00"]), shipping=st.just("4.90"), store=st.just("main")),
)
others = st.builds(lambda kind: {"type": kind}, st.sampled_from(["visit", "delivered"]))
