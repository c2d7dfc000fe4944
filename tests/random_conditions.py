"""Random conditions that pass `check`: every form, field, operator and type, as strategies of hypothesis."""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from loyalty.rules.conditions import Condition
from loyalty.rules.facts import FIELDS, STATUSES, WEEKDAYS, Kind, Scope, find_field
from loyalty.rules.operands import ALLOWED, Operator

CONDITION: TypeAdapter[Any] = TypeAdapter(Condition)

Tree = dict[str, Any]

# Few values and close to each other, so that random facts often meet them.
TEXTS = ["", "a", "ab", "B", "b.c", "ä", "x\0y", 'quote " and \\ and .*', "line\nbreak\n", "🎂", "10", "true"]
INTEGERS = [-1, 0, 1, 2, 3, 10, 40, 10**12]
AMOUNTS = ["0", "0.00", "0.01", "1", "5.00", "9.99", "10.0", "50.00", "999999999999999"]
DAYS = [date(2024, 2, 28), date(2024, 2, 29), date(2025, 2, 28), date(2025, 3, 1), date(2025, 10, 26), date(2026, 1, 1)]
TIMES = ["00:00", "02:30", "09:00", "17:59", "18:00", "23:59"]
OPEN_NAMES = ["a", "vip", "age_2"]

_VALUES: dict[Kind, list[Any]] = {
    "text": TEXTS,
    "texts": TEXTS,
    "amount": AMOUNTS,
    "integer": INTEGERS,
    "boolean": [True, False],
    "date": [day.isoformat() for day in DAYS],
    "time": TIMES,
    "weekday": list(WEEKDAYS),
    "status": list(STATUSES),
}


@cache
def paths(over: Scope) -> list[tuple[str, Kind]]:
    """Every field of the scope with its type."""
    roots = {"event": ("event", "order", "payments", "member", "time", "counters")}.get(over, (over,))
    known: list[tuple[str, Kind]] = [
        (path, field.kind)
        for path, field in FIELDS.items()
        if path.split(".")[0] in roots and find_field(path, over) is not None
    ]
    maps = {
        "event": ["event.metadata", "member.attributes"],
        "line": ["line.metadata"],
        "member": ["member.attributes"],
    }
    known += [(f"{prefix}.{name}", "anything") for prefix in maps[over] for name in OPEN_NAMES]
    if over == "event":
        known += [(f"counters.points.stamps.{period}", "integer") for period in ("day", "ever")]
    return known


@st.composite
def comparisons(draw: st.DrawFn, over: Scope) -> Tree:
    path, kind = draw(st.sampled_from(paths(over)))
    operator: Operator = draw(st.sampled_from(ALLOWED[kind]))
    field = path.removeprefix("line.") if draw(st.booleans()) else path
    if operator == "exists":
        return {"field": field, "op": operator}
    values = draw(_of_any_type(operator)) if kind == "anything" else st.sampled_from(_VALUES[kind])
    return {"field": field, "op": operator, "value": draw(_operand(operator, kind, values))}


@cache
def _of_any_type(operator: Operator) -> st.SearchStrategy[st.SearchStrategy[Any]]:
    texts, integers, booleans = st.sampled_from(TEXTS), st.sampled_from(INTEGERS), st.booleans()
    if operator in ("contains", "starts_with", "ends_with"):
        return st.just(texts)
    if operator in ("<", "<=", ">", ">=", "between"):
        return st.sampled_from([texts, integers])
    return st.just(texts | integers | booleans)


def _operand(operator: Operator, kind: Kind, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    if operator in ("in", "not_in"):
        return st.lists(values, min_size=1, max_size=4)
    if operator != "between":
        return values
    pairs = st.lists(values, min_size=2, max_size=2)
    if kind == "amount":
        return pairs.map(lambda pair: sorted(pair, key=float))
    if kind == "time":
        return pairs.filter(lambda pair: pair[0] != pair[1])
    if kind == "date":
        return pairs.map(sorted).filter(lambda pair: pair[0] != pair[1])
    return pairs.map(sorted)


@cache
def _leaves(over: Scope) -> st.SearchStrategy[Tree]:
    if over != "event":
        return comparisons(over)
    spans = st.lists(st.sampled_from(DAYS), min_size=2, max_size=2, unique=True).map(sorted)
    instants = st.sampled_from(["2025-10-26T00:30:00Z", "2025-10-26T02:30:00+01:00", "2026-01-01T00:00:00.001Z"])
    within = spans.map(
        lambda span: {"within": {"start": span[0].isoformat(), "end": span[1].isoformat()}}
    ) | instants.map(lambda end: {"within": {"start": "2024-02-29", "end": end}})
    rules = [
        "FREQ=DAILY;INTERVAL=2",
        "FREQ=WEEKLY;BYDAY=MO,FR,SU",
        "FREQ=MONTHLY;BYDAY=-1SU",
        "FREQ=YEARLY",
        "FREQ=DAILY;COUNT=3",
    ]
    recurs = st.builds(
        lambda rule, day: {"recurs": rule, "from": day.isoformat()}, st.sampled_from(rules), st.sampled_from(DAYS)
    )
    lines = st.builds(
        lambda quantifier, where, count: {
            "lines": quantifier,
            "where": where,
            "at_least": count if quantifier == "any" else 1,
        },
        st.sampled_from(["any", "all", "none", "cheapest", "most_expensive"]),
        trees("line", most=3),
        st.integers(1, 3),
    )
    return comparisons(over) | comparisons(over) | lines | within | recurs


@cache
def trees(over: Scope = "event", *, most: int = 8) -> st.SearchStrategy[Tree]:
    """Trees in the JSON form with about `most` comparisons."""
    return st.recursive(
        _leaves(over),
        lambda below: st.one_of(
            st.lists(below, min_size=1, max_size=3).map(lambda each: {"all": each}),
            st.lists(below, min_size=1, max_size=3).map(lambda each: {"any": each}),
            st.lists(below, min_size=1, max_size=3).map(lambda each: {"none": each}),
            below.map(lambda each: {"not": each}),
        ),
        max_leaves=most,
    )
