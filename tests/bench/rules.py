"""How fast rules are evaluated: `python -m tests.bench.rules [--rules N] [--lines N] [--seconds S]`.

Compiles a rule set that uses everything there is to use, and awards orders of different customers, days and baskets by
it: facts made anew for each, as for a live event. Writes one JSON object, in microseconds: by the clock, and of the
processor alone, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from loyalty.programs.calendar import Calendar
from loyalty.rules.checks import defects
from loyalty.rules.engine import CompiledRules, compile_rules
from loyalty.rules.facts import Facts, Line, MemberFacts, Payment
from loyalty.rules.model import RuleSet

CALENDAR = Calendar.of("Europe/Berlin")
CATEGORIES = ["music", "books", "games", "films", "coffee", "toys", "garden", "tobacco"]
BRANDS = ["acme", "globex", "initech", "umbrella"]
WARM_UP = 500


def rule_set(count: int) -> RuleSet:
    """So many rules: every type, conditions over each root, bases, groups, caps, a campaign."""
    rules = [_rule(number) | {"id": f"rule-{number:03}"} for number in range(count)]
    campaign = {"id": "spring", "caps": {"per_month": 5000}, "when": "within 2026-01-01 to 2027-01-01"}
    return RuleSet.model_validate({"rules": rules, "campaigns": [campaign]})


def _rule(number: int) -> dict[str, Any]:
    category, brand = CATEGORIES[number % len(CATEGORIES)], BRANDS[number % len(BRANDS)]
    spend = {"type": "points_per_spend", "points": 1 + number % 5, "per": "1.00"}
    forms: list[dict[str, Any]] = [
        {**spend, "basis": {"exclude_tax": True, "exclude": 'category = "tobacco"'}},
        {**spend, "when": f'event.amount >= 20.00 and any line where category in ("{category}", "other")'},
        {**spend, "when": "time.weekday in (sat, sun) or time.time between 17:00 and 19:00", "campaign": "spring"},
        {**spend, "basis": {"only": f'brand = "{brand}" and amount > 2.00'}, "caps": {"per_month": 500 + number}},
        {"type": "points_per_item", "points": 2, "where": f'category = "{category}"'},
        {"type": "fixed", "points": 50, "events": ["purchase"], "when": "counters.purchases.month = 0"},
        {"type": "fixed", "points": 20, "events": ["purchase"], "when": "member.is_birthday = true", "group": "gifts"},
        {
            "type": "fixed",
            "points": 10,
            "events": ["purchase"],
            "when": 'recurs "FREQ=MONTHLY;BYDAY=1MO" from 2026-01-01 and not member.tier in ("bronze")',
            "group": "gifts",
        },
        {
            "type": "multiplier",
            "factor": "1.250",
            "when": f'at least 3 lines where sku starts with "{category[:2]}" and member.segments contains "fans"',
        },
        {
            "type": "benefit",
            "benefit": "free-shipping",
            "when": "order.quantity > 30 or cheapest line where amount > 9",
        },
    ]
    return forms[number % len(forms)]


def orders(lines: int) -> Iterator[Facts]:
    """Purchases without end, each with so many lines."""
    rng = random.Random(3)
    start = datetime(2026, 1, 1, 9, tzinfo=timezone.utc)
    while True:
        basket = tuple(
            Line(
                str(number),
                rng.randrange(50, 5000),
                rng.randrange(1, 4),
                f"{rng.choice(CATEGORIES)[:2]}-{number}",
                rng.choice(CATEGORIES),
                rng.choice(BRANDS),
                rng.randrange(50),
            )
            for number in range(lines)
        )
        amount = sum(line.amount for line in basket)
        yield Facts(
            "purchase",
            "till",
            start + timedelta(minutes=rng.randrange(365 * 24 * 60)),
            CALENDAR,
            MemberFacts("active", rng.choice(["bronze", "gold"]), segments=frozenset(rng.sample(["fans", "new"], 1))),
            amount=amount,
            tax=amount // 6,
            lines=basket,
            payments=(Payment("card", amount),),
        )


def measure(compiled: CompiledRules, lines: int, seconds: float) -> tuple[list[int], list[int]]:
    """Nanoseconds of each evaluation, sorted: by the clock, and of the processor."""
    elapsed, busy = [], []
    source = orders(lines)
    for _ in range(WARM_UP):
        compiled.award(next(source), counters={})
    gc.collect()
    gc.freeze()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        facts = next(source)
        began, began_busy = time.perf_counter_ns(), time.thread_time_ns()
        compiled.award(facts, counters={})
        busy.append(time.thread_time_ns() - began_busy)
        elapsed.append(time.perf_counter_ns() - began)
    return sorted(elapsed), sorted(busy)


def _share(taken: list[int], share: int) -> float:
    return round(taken[len(taken) * share // 100] / 1000, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--lines", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    written = rule_set(options.rules)
    found = defects(written, "EUR")
    if found:
        raise SystemExit(f"the rules are wrong: {found}")
    compiled = compile_rules(written, 1, "EUR", calendar=CALENDAR)
    elapsed, busy = measure(compiled, options.lines, options.seconds)
    figures = {
        "rules": options.rules,
        "lines": options.lines,
        "evaluations": len(elapsed),
        **{f"p{share}": _share(elapsed, share) for share in (50, 95, 99)},
        **{f"processor_p{share}": _share(busy, share) for share in (50, 95, 99)},
    }
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
