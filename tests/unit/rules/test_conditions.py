"""Conditions: closures agree with a naive reading of the tree; what is wrong is refused with place and suggestion."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loyalty.infra.http.body import defects
from loyalty.infra.http.model import Body
from loyalty.programs.calendar import Calendar
from loyalty.rules.conditions import (
    DEEPEST,
    MOST_DEFECTS,
    MOST_NODES,
    MOST_RECURRENCES,
    Condition,
    Known,
    check,
    compile_condition,
    compile_line_condition,
    counters_of,
)
from loyalty.rules.facts import STATUSES, WEEKDAYS, Facts, Line, MemberFacts, Payment, Scope, birthday_in
from tests.random_conditions import CONDITION, DAYS, INTEGERS, OPEN_NAMES, TEXTS, Tree, trees

BERLIN = Calendar.of("Europe/Berlin")
NOON = datetime(2026, 3, 4, 11, tzinfo=timezone.utc)  # a Wednesday


class Holder(Body):
    """A body with a condition in it, as rules are."""

    when: Condition


def condition(tree: Tree) -> Any:
    return CONDITION.validate_python(tree)


def holds(tree: Tree, facts: Facts) -> bool:
    written = condition(tree)
    assert check(written) == []
    return compile_condition(written, BERLIN, "EUR")(facts)


def refusals(tree: Any, over: Scope = "event") -> list[tuple[str, str]]:
    """Pointers and codes, whichever of the two steps refuses."""
    try:
        return [(each["pointer"], each["code"]) for each in check(Holder.model_validate({"when": tree}).when, over)]
    except ValidationError as error:
        return [(each["pointer"], each["code"]) for each in defects(error)]


def purchase(**fields: Any) -> Facts:
    return Facts("purchase", "till", fields.pop("occurred_at", NOON), BERLIN, **fields)


# -- a naive reading --------------------------------------------------------------------------------------------------

SOME_TEXT = st.none() | st.sampled_from(TEXTS)
SOME_AMOUNT = st.none() | st.sampled_from([0, 1, 100, 500, 999, 5000])
ENTRIES = st.dictionaries(
    st.sampled_from(OPEN_NAMES), st.sampled_from([*TEXTS, *INTEGERS, True, False, None]), max_size=3
)
LINES = st.builds(
    Line,
    st.sampled_from(["1", "2"]),
    st.sampled_from([0, 1, 100, 500, 999, 1000]),
    st.sampled_from([1, 2, 3, 10]),
    SOME_TEXT,
    SOME_TEXT,
    SOME_TEXT,
    SOME_AMOUNT,
    ENTRIES,
)
KNOWN = Known("EUR", ["points", "stamps"], ["vip"])
INSTANTS = st.sampled_from(
    [datetime(day.year, day.month, day.day, tzinfo=timezone.utc) for day in DAYS]
) | st.datetimes(datetime(2024, 2, 28), datetime(2026, 1, 2), timezones=st.just(timezone.utc))
FACTS = st.builds(
    lambda counted, **fields: Facts(calendar=BERLIN, counters=counted.get, **fields),
    counted=st.dictionaries(
        st.sampled_from(["purchases.day", "visits.ever", "points.stamps.day", "points.stamps.ever", "spend.month"]),
        st.sampled_from([0, 1, 2, 10, 999]),
    ),
    type=st.sampled_from(TEXTS),
    source=st.sampled_from(TEXTS),
    occurred_at=INSTANTS,
    member=st.builds(
        MemberFacts,
        st.none() | st.sampled_from(STATUSES),
        SOME_TEXT,
        st.none() | st.sampled_from(DAYS),
        st.none() | st.sampled_from(DAYS),
        SOME_TEXT,
        ENTRIES,
    ),
    segmentation=st.dictionaries(st.sampled_from(TEXTS), st.sampled_from([lambda facts: True, lambda facts: False])),
    store=SOME_TEXT,
    amount=SOME_AMOUNT,
    tax=SOME_AMOUNT,
    shipping=SOME_AMOUNT,
    currency=st.sampled_from(["a", "B"]),
    metadata=ENTRIES,
    lines=st.lists(LINES, max_size=4).map(tuple),
    payments=st.lists(st.builds(Payment, st.sampled_from(TEXTS), st.sampled_from([0, 1, 500])), max_size=3).map(tuple),
)


def money(minor: int | None) -> Decimal | None:
    return None if minor is None else Decimal(minor) / 100


def view(facts: Facts) -> dict[str, Any]:
    """Every field by its path, computed anew."""
    shown = facts.occurred_at.astimezone(ZoneInfo("Europe/Berlin"))
    member, born, joined = facts.member, facts.member.birthday, facts.member.joined_on
    leap = born is not None and (born.month, born.day) == (2, 29) and shown.year % 4 != 0
    kept = (2, 28) if leap else born and (born.month, born.day)
    counters = {
        f"counters.{name}.{period}": facts.counters(f"{name}.{period}")
        for name in ("purchases", "visits", "points.stamps")
        for period in ("day", "week", "month", "quarter", "year", "ever")
    }
    spend = {
        f"counters.spend.{period}": money(facts.counters(f"spend.{period}"))
        for period in ("day", "week", "month", "quarter", "year", "ever")
    }
    return {
        "event.type": facts.type,
        "event.source": facts.source,
        "event.store": facts.store,
        "event.amount": money(facts.amount),
        "order.amount": money(facts.amount),
        "event.tax": money(facts.tax),
        "event.shipping": money(facts.shipping),
        "event.currency": facts.currency,
        "order.quantity": sum(line.quantity for line in facts.lines),
        "order.lines": len(facts.lines),
        "payments.method": {payment.method for payment in facts.payments},
        "payments.amount": money(sum(payment.amount for payment in facts.payments)) if facts.payments else None,
        "member.status": member.status,
        "member.tier": member.tier,
        "member.joined_on": joined and joined.isoformat(),
        "member.birthday": born and born.isoformat(),
        "member.language": member.language,
        "member.segments": {name for name, holds in facts.segmentation.items() if holds(facts)},
        "member.days_since_joined": None if joined is None else (shown.date() - joined).days,
        "member.is_birthday": born and (shown.month, shown.day) == kept,
        "member.is_birth_month": born and shown.month == born.month,
        "time.date": shown.date().isoformat(),
        "time.time": shown.strftime("%H:%M"),
        "time.weekday": WEEKDAYS[shown.weekday()],
        "time.day": shown.day,
        "time.month": shown.month,
        "time.year": shown.year,
        **{f"event.metadata.{name}": value for name, value in facts.metadata.items()},
        **{f"member.attributes.{name}": value for name, value in member.attributes.items()},
        **counters,
        **spend,
    }


def view_of_line(line: Line) -> dict[str, Any]:
    fields = {
        "line_id": line.line_id,
        "sku": line.sku,
        "category": line.category,
        "brand": line.brand,
        "quantity": line.quantity,
        "amount": money(line.amount),
        "unit_amount": money(line.amount // line.quantity),
        "tax": money(line.tax),
        **{f"metadata.{name}": value for name, value in line.metadata.items()},
    }
    return fields | {f"line.{name}": value for name, value in fields.items()}


def compared(op: str, value: Any, operand: Any, *, between_is_half_open: bool) -> bool:
    if isinstance(value, set | frozenset):
        if op == "exists":
            return len(value) > 0
        meets = {operand} & value if op == "contains" else set(operand) & value
        return not meets if op == "not_in" else bool(meets)
    if value is None or op == "exists":
        return value is not None
    if isinstance(value, Decimal):
        operand = [Decimal(each) for each in operand] if isinstance(operand, list) else Decimal(operand)

    def same(one: Any, other: Any) -> bool:
        return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

    if op in ("=", "!="):
        return same(value, operand) == (op == "=")
    if op in ("in", "not_in"):
        return any(same(value, each) for each in operand) == (op == "in")
    first = operand[0] if isinstance(operand, list) else operand
    if isinstance(value, bool) or isinstance(value, str) != isinstance(first, str):
        return False
    if op == "between":
        low, high = operand
        if not between_is_half_open:
            return bool(low <= value <= high)
        return bool(low <= value < high) if low < high else bool(value >= low or value < high)
    return {
        "<": lambda: value < operand,
        "<=": lambda: value <= operand,
        ">": lambda: value > operand,
        ">=": lambda: value >= operand,
        "contains": lambda: operand in value,
        "starts_with": lambda: value[: len(operand)] == operand,
        "ends_with": lambda: operand == "" or value[-len(operand) :] == operand,
    }[op]()


def moment(text: str) -> datetime:
    if "T" in text:
        return datetime.fromisoformat(text.replace("Z", "+00:00").replace("00.001", "00.001000"))
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"))


def naively(tree: Tree, facts: Facts, fields: dict[str, Any]) -> bool:
    if "all" in tree:
        return all(naively(each, facts, fields) for each in tree["all"])
    if "any" in tree:
        return any(naively(each, facts, fields) for each in tree["any"])
    if "none" in tree:
        return not any(naively(each, facts, fields) for each in tree["none"])
    if "not" in tree:
        return not naively(tree["not"], facts, fields)
    if "within" in tree:
        start, end = moment(tree["within"]["start"]), moment(tree["within"]["end"])
        return start.timestamp() <= facts.occurred_at.timestamp() < end.timestamp()
    if "recurs" in tree:
        day, begin = facts.occurred_at.astimezone(ZoneInfo("Europe/Berlin")).date(), date.fromisoformat(tree["from"])
        until = "" if "COUNT" in tree["recurs"] else ";UNTIL=20270101"
        days = rrulestr(tree["recurs"] + until, dtstart=datetime(begin.year, begin.month, begin.day))
        return datetime(day.year, day.month, day.day) in days
    if "lines" in tree:
        matches = [naively(tree["where"], facts, view_of_line(line)) for line in facts.lines]
        prices = [Fraction(line.amount, line.quantity) for line in facts.lines]
        if tree["lines"] == "any":
            return sum(matches) >= tree["at_least"]
        if tree["lines"] == "none":
            return not any(matches)
        if not matches:
            return False
        if tree["lines"] == "all":
            return all(matches)
        return matches[prices.index(min(prices) if tree["lines"] == "cheapest" else max(prices))]
    half_open = tree["field"] in ("time.time", "time.date", "member.joined_on", "member.birthday")
    return compared(tree["op"], fields.get(tree["field"]), tree.get("value"), between_is_half_open=half_open)


@settings(max_examples=500, deadline=None)
@given(trees(), FACTS)
def test_closures_agree_with_a_naive_reading(tree: Tree, facts: Facts) -> None:
    assert holds(tree, facts) == naively(tree, facts, view(facts))


@given(trees())
def test_a_condition_is_stored_as_it_was_written(tree: Tree) -> None:
    read = condition(tree)
    assert condition(read.model_dump(mode="json")) == read


# -- meaning ----------------------------------------------------------------------------------------------------------


def test_a_missing_operand_makes_every_comparison_false() -> None:
    nothing = purchase()
    for op, value in [("=", "x"), ("!=", "x"), ("in", ["x"]), ("not_in", ["x"]), ("<", "x"), ("contains", "x")]:
        for field in ("event.store", "event.metadata.color", "member.attributes.color"):
            assert not holds({"field": field, "op": op, "value": value}, nothing)
    assert not holds({"field": "event.store", "op": "exists"}, nothing)
    assert not holds({"field": "payments.amount", "op": ">=", "value": "0"}, nothing)


def test_true_is_not_one() -> None:
    facts = purchase(metadata={"a": True, "b": 1})
    assert holds({"field": "event.metadata.a", "op": "=", "value": True}, facts)
    assert not holds({"field": "event.metadata.a", "op": "=", "value": 1}, facts)
    assert not holds({"field": "event.metadata.b", "op": "in", "value": [True, "1"]}, facts)
    assert not holds({"field": "event.metadata.a", "op": ">=", "value": 0}, facts)


def test_days_begin_in_the_programs_zone() -> None:
    """Case 3.15: 23:30 UTC on Friday is Saturday in Berlin."""
    friday_evening = purchase(occurred_at=datetime(2026, 7, 3, 22, 30, tzinfo=timezone.utc))
    assert holds({"field": "time.day", "op": "=", "value": 4}, friday_evening)
    assert holds({"field": "time.weekday", "op": "=", "value": "sat"}, friday_evening)
    assert holds({"field": "time.date", "op": "=", "value": "2026-07-04"}, friday_evening)
    assert holds({"field": "time.time", "op": "between", "value": ["00:30", "00:31"]}, friday_evening)
    assert holds({"recurs": "FREQ=WEEKLY;BYDAY=SA", "from": "2026-01-01"}, friday_evening)


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        (datetime(2026, 10, 24, 21, 59, 59, 999000), False),
        (datetime(2026, 10, 24, 22), True),  # midnight in summer time
        (datetime(2026, 10, 25, 22, 59, 59, 999000), True),  # 25 hours later, in winter time
        (datetime(2026, 10, 25, 23), False),
    ],
)
def test_a_span_of_days_is_half_open_also_when_clocks_change(instant: datetime, expected: bool) -> None:
    """Cases 3.15 and 3.16: a day of 25 hours, from its first instant up to the first one of the next day."""
    facts = purchase(occurred_at=instant.replace(tzinfo=timezone.utc))
    assert holds({"within": {"start": "2026-10-25", "end": "2026-10-26"}}, facts) == expected
    assert holds({"field": "time.date", "op": "between", "value": ["2026-10-25", "2026-10-26"]}, facts) == expected


def test_an_hour_that_happens_twice_counts_twice() -> None:
    """Case 3.15: 02:30 is shown before and after the change of the clocks."""
    for hour in (0, 1):
        facts = purchase(occurred_at=datetime(2026, 10, 25, hour, 30, tzinfo=timezone.utc))
        assert holds({"field": "time.time", "op": "between", "value": ["02:00", "03:00"]}, facts)


def test_hours_may_run_over_midnight() -> None:
    late = {"field": "time.time", "op": "between", "value": ["22:00", "02:00"]}
    shown = {hour: datetime(2026, 1, 5, hour, tzinfo=ZoneInfo("Europe/Berlin")) for hour in (1, 2, 21, 22)}
    found = {hour: holds(late, purchase(occurred_at=at.astimezone(timezone.utc))) for hour, at in shown.items()}
    assert found == {1: True, 2: False, 21: False, 22: True}


def test_the_cheapest_line_is_that_with_the_lowest_price_a_piece() -> None:
    """The first of equals, and compared exactly."""
    lines = (Line("a", 999, 3), Line("b", 334, 1), Line("c", 666, 2), Line("d", 668, 2), Line("e", 1001, 3))
    cheapest = {"lines": "cheapest", "where": {"field": "line_id", "op": "=", "value": "a"}}
    dearest = {"lines": "most_expensive", "where": {"field": "line_id", "op": "=", "value": "b"}}
    assert holds({"all": [cheapest, dearest]}, purchase(lines=lines))


def test_without_lines_only_none_holds() -> None:
    where = {"field": "amount", "op": ">=", "value": "0"}
    found = [
        holds({"lines": each, "where": where}, purchase())
        for each in ("any", "all", "none", "cheapest", "most_expensive")
    ]
    assert found == [False, False, True, False, False]


def test_birthdays_of_leap_days() -> None:
    """Case 3.17: 29 February clamps to the 28th in common years, never to March."""
    assert birthday_in(date(2000, 2, 29), 2025) == date(2025, 2, 28)
    assert birthday_in(date(2000, 2, 29), 2024) == date(2024, 2, 29)


def test_a_condition_over_one_line() -> None:
    tree = {"field": "line.unit_amount", "op": "=", "value": "3.33"}
    assert check(condition(tree), "line", KNOWN) == []
    assert compile_line_condition(condition(tree), "EUR")(Line("a", 1000, 3))


def test_counters_that_a_condition_looks_at() -> None:
    tree = {
        "any": [
            {"not": {"field": "counters.purchases.month", "op": "=", "value": 0}},
            {"field": "counters.points.stamps.ever", "op": "exists"},
            {"field": "event.amount", "op": "exists"},
        ]
    }
    assert counters_of(condition(tree)) == {"purchases.month", "points.stamps.ever"}


def test_a_segment_is_a_condition_of_its_own() -> None:
    tree = {"field": "member.segments", "op": "contains", "value": "newcomers"}
    new = {"field": "member.days_since_joined", "op": "<", "value": 30}
    segments = {"newcomers": compile_condition(condition(new), BERLIN, "EUR")}
    holds = compile_condition(condition(tree), BERLIN, "EUR")
    for joined, expected in ((date(2025, 2, 1), True), (date(2025, 1, 30), False), (None, False)):
        member = MemberFacts(joined_on=joined)
        facts = Facts("visit", "test", datetime(2025, 3, 1, 12, tzinfo=timezone.utc), BERLIN, member)
        assert holds(replace(facts, segmentation=segments)) is expected
        assert holds(facts) is False


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "pointer", "code", "detail"),
    [
        ({"field": "event.amonut", "op": "exists"}, "/field", "unknown_field", '"event.amount"'),
        ({"field": "evnt.amount", "op": "exists"}, "/field", "unknown_field", '"event.amount"'),
        ({"field": "line.sku", "op": "exists"}, "/field", "unknown_field", "over an event"),
        ({"field": "counters.points.Stamps.day", "op": "exists"}, "/field", "unknown_field", "no field"),
        ({"field": "event.metadata.", "op": "exists"}, "/field", "unknown_field", "no field"),
        ({"field": "counters.points.stamp.day", "op": "exists"}, "/field", "unknown_wallet", '"stamps"'),
        ({"field": "member.segments", "op": "contains", "value": "vips"}, "/value", "unknown_segment", '"vip"'),
        ({"field": "member.segments", "op": "in", "value": ["vip", "vpi"]}, "/value/1", "unknown_segment", '"vip"'),
        ({"field": "event.amount", "op": ">", "value": 50}, "/value", "wrong_type", "50.00"),
        ({"field": "event.amount", "op": ">", "value": "1.005"}, "/value", "wrong_type", "2 decimals"),
        ({"field": "event.amount", "op": "in", "value": ["1", 2]}, "/value/1", "wrong_type", "50.00"),
        ({"field": "event.amount", "op": "contains", "value": "5"}, "/op", "wrong_operator", "amount of money"),
        ({"field": "event.type", "op": "=", "value": 1}, "/value", "wrong_type", "text"),
        ({"field": "event.type", "op": "in", "value": "a"}, "/value", "wrong_type", "list"),
        ({"field": "event.type", "op": "=", "value": ["a"]}, "/value", "wrong_type", '"in"'),
        ({"field": "order.lines", "op": "=", "value": True}, "/value", "wrong_type", "whole number"),
        ({"field": "order.lines", "op": "between", "value": [3, 2]}, "/value", "wrong_type", "comes first"),
        ({"field": "time.weekday", "op": "=", "value": "tues"}, "/value", "wrong_type", '"tue"'),
        ({"field": "time.time", "op": "<", "value": "24:00"}, "/value", "wrong_type", "23:59"),
        ({"field": "time.time", "op": "between", "value": ["09:00", "09:00"]}, "/value", "wrong_type", "left out"),
        ({"field": "time.date", "op": "<", "value": "2026-02-30"}, "/value", "wrong_type", "no day"),
        ({"field": "time.date", "op": "<", "value": "0001-01-01"}, "/value", "wrong_type", "years"),
        ({"field": "member.status", "op": "=", "value": "actve"}, "/value", "wrong_type", '"active"'),
        ({"field": "event.metadata.a", "op": ">", "value": True}, "/value", "wrong_type", "order"),
        ({"field": "event.metadata.a", "op": "between", "value": ["a", 1]}, "/value", "wrong_type", "one type"),
        ({"within": {"start": "2026-01-02", "end": "2026-01-02"}}, "/within/end", "invalid_value", "after"),
        ({"recurs": "FREQ=HOURLY", "from": "2026-01-01"}, "/recurs", "invalid_value", "DAILY"),
        (
            {"recurs": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "from": "2026-01-01"},
            "/recurs",
            "invalid_value",
            "no day",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tree: Tree, pointer: str, code: str, detail: str) -> None:
    (found,) = check(condition({"all": [tree, {"field": "event.store", "op": "exists"}]}), "event", KNOWN)
    assert (found["pointer"], found["code"]) == ("/all/0" + pointer, code)
    assert detail in found["detail"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"filed": "event.amount"}, [("/when", "missing")]),
        ({}, [("/when", "missing")]),
        ([], [("/when", "wrong_type")]),
        ({"all": []}, [("/when/all", "too_short")]),
        ({"all": [{"field": "a", "op": "=", "value": 1, "x": 1}]}, [("/when/all/0/x", "unknown_field")]),
        ({"not": {"field": "a", "op": "=="}}, [("/when/not/op", "invalid_value"), ("/when/not/value", "missing")]),
        ({"field": "a", "op": "=", "value": 1.5}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "=", "value": None}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "=", "value": 1 << 53}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "=", "value": "x" * 501}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "=", "value": "\ud800"}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "in", "value": [1] * 1001}, [("/when/value", "invalid_value")]),
        ({"field": "a", "op": "exists", "value": True}, [("/when/value", "unknown_field")]),
        ({"recurs": "FREQ=DAILY", "from": "2026-1-1"}, [("/when/from", "invalid_value")]),
        ({"within": {"start": "2026-01-01", "end": "tomorrow"}}, [("/when/within/end", "invalid_value")]),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(tree: Any, expected: list[tuple[str, str]]) -> None:
    assert refusals(tree) == expected


def test_a_misspelt_form_is_guessed() -> None:
    with pytest.raises(ValidationError, match='Perhaps you mean "field"'):
        condition({"feild": "event.amount", "op": "exists"})
    with pytest.raises(ValidationError, match='Perhaps you mean "contains"'):
        condition({"field": "event.type", "op": "contain", "value": "a"})


def test_lines_and_times_have_no_place_in_a_condition_over_a_line() -> None:
    leaf = {"field": "category", "op": "exists"}
    assert refusals({"lines": "any", "where": {"lines": "any", "where": leaf}}) == [("/where/lines", "misplaced")]
    assert refusals({"recurs": "FREQ=DAILY", "from": "2026-01-01"}, "line") == [("/recurs", "misplaced")]
    assert refusals({"field": "event.type", "op": "exists"}, "line") == [("/field", "unknown_field")]
    assert refusals({"lines": "all", "where": leaf, "at_least": 2}) == [("/at_least", "invalid_value")]


def test_depth_and_size_are_bounded() -> None:
    leaf: Tree = {"field": "event.store", "op": "exists"}
    tree = leaf
    for _ in range(DEEPEST - 1):
        tree = {"not": tree}
    assert refusals(tree) == []
    assert refusals({"not": tree}) == [("/when", "too_deep")]
    assert refusals({"all": [leaf] * (MOST_NODES - 1)}) == []
    assert refusals({"all": [leaf] * MOST_NODES}) == [("/when", "too_long")]
    daily = {"recurs": "FREQ=DAILY", "from": "2026-01-01"}
    assert refusals({"all": [daily] * MOST_RECURRENCES}) == []
    assert refusals({"all": [daily] * (MOST_RECURRENCES + 1)}) == [("/when", "too_long")]
    assert len(refusals({"all": [{"field": "x", "op": "exists"}] * 100})) == MOST_DEFECTS


def test_hostile_trees_are_refused_at_once() -> None:
    deep: Tree = {"field": "event.store", "op": "exists"}
    for _ in range(100_000):
        deep = {"not": deep}
    wide = {"all": [{"all": [{"field": "a"}] * 1000}] * 1000}
    start = time.process_time()
    assert refusals(deep) == [("/when", "too_deep")]
    assert refusals(wide) == [("/when", "too_long")]
    assert time.process_time() - start < 1
    while deep := deep.get("not", {}):  # else the interpreter takes it apart recursively
        pass


# -- recurrences ------------------------------------------------------------------------------------------------------

BY_DAY = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


@st.composite
def recurrence_rules(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={frequency}"]

    def numbers(name: str, least: int, most: int, *, negative: bool = True) -> None:
        values = st.integers(least, most) | (st.integers(-most, -least) if negative else st.nothing())
        chosen = draw(st.lists(values, min_size=1, max_size=4, unique=True))
        parts.append(f"{name}={','.join(map(str, chosen))}")

    if draw(st.booleans()):
        parts.append(f"INTERVAL={draw(st.integers(1, 5))}")
    if draw(st.booleans()):
        parts.append(f"WKST={draw(st.sampled_from(BY_DAY))}")
    if draw(st.booleans()):
        parts.append(f"COUNT={draw(st.integers(1, 12))}")
    by_week = frequency == "YEARLY" and draw(st.booleans())
    if by_week:  # of the weeks that touch another year, dateutil leaves some out
        numbers("BYWEEKNO", 2, 51, negative=False)
    if by_week or draw(st.booleans()):
        numbered = frequency in ("MONTHLY", "YEARLY") and not by_week and draw(st.booleans())
        days = draw(st.lists(st.sampled_from(BY_DAY), min_size=1, max_size=4, unique=True))
        parts.append(
            "BYDAY=" + ",".join(f"{draw(st.sampled_from([1, 2, -1])) if numbered else ''}{day}" for day in days)
        )
    if draw(st.booleans()):
        numbers("BYMONTH", 1, 12, negative=False)
    if frequency != "WEEKLY" and not by_week and draw(st.booleans()):
        numbers("BYMONTHDAY", 1, 31)
    if frequency == "YEARLY" and not by_week and draw(st.booleans()):
        numbers("BYYEARDAY", 1, 366)
    if frequency in ("MONTHLY", "YEARLY") and draw(st.booleans()):
        numbers("BYSETPOS", 1, 5)
    return ";".join(parts)


@settings(max_examples=150, deadline=None)
@given(recurrence_rules(), st.dates(date(2019, 1, 1), date(2021, 1, 1)))
def test_recurrences_agree_with_dateutil(rule: str, start: date) -> None:
    tree = {"recurs": rule, "from": start.isoformat()}
    if check(condition(tree)):  # it names no day: dateutil would look for one until the year 9999
        return
    recurs = compile_condition(condition(tree), Calendar.of("UTC"), "EUR")
    days = [datetime(start.year, start.month, start.day) + timedelta(days=number) for number in range(800)]
    named = rrulestr(rule + ("" if "COUNT" in rule else ";UNTIL=20360101"), dtstart=days[0])
    noons = {day: Facts("x", "x", day.replace(hour=12, tzinfo=timezone.utc), Calendar.of("UTC")) for day in days}
    expected = set()
    for day in named:
        if day > days[-1]:
            break
        expected.add(day)
    assert {day for day in days if recurs(noons[day])} == expected


@pytest.mark.parametrize(
    ("rule", "named"),
    [  # the week's first day decides which weeks are left out: the example of RFC 5545
        ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", [5, 10, 19, 24]),
        ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", [5, 17, 19, 31]),
        ("FREQ=DAILY;UNTIL=19970807", [5, 6, 7]),
    ],
)
def test_recurrences_of_a_month(rule: str, named: list[int]) -> None:
    recurs = compile_condition(condition({"recurs": rule, "from": "1997-08-05"}), BERLIN, "EUR")
    noons = {day: datetime(1997, 8, day, 10, tzinfo=timezone.utc) for day in range(1, 32)}
    assert [day for day, noon in noons.items() if recurs(purchase(occurred_at=noon))] == named


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=YEARLY;BYWEEKNO=20;BYMONTH=1;BYDAY=MO",
        "FREQ=MONTHLY;INTERVAL=12;BYMONTH=5",
        "FREQ=YEARLY;COUNT=1000;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYSETPOS=366,-366",
        "FREQ=DAILY;COUNT=1000;INTERVAL=1000",
    ],
)
def test_no_recurrence_hangs(rule: str) -> None:
    start = time.process_time()
    tree = condition({"recurs": rule, "from": "1900-01-01"})
    check(tree)
    recurs = compile_condition(tree, BERLIN, "EUR")
    for year in (1900, 1999, 2026, 2100):
        recurs(purchase(occurred_at=datetime(year, 12, 31, 12, tzinfo=timezone.utc)))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("FREQ=MINUTELY", "DAILY"),
        ("BYDAY=MO", "Give FREQ"),
        ("FREQ=DAILY;BYHOUR=3", "no part"),
        ("FREQ=DAILY;FREQ=DAILY", "at most once"),
        ("FREQ=DAILY;INTERVAL=0", "from 1 to 1000"),
        ("FREQ=DAILY;INTERVAL=1,2", "one number"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20260101", "not both"),
        ("FREQ=DAILY;UNTIL=20260101T000000Z", "20261231"),
        ("FREQ=WEEKLY;BYDAY=1MO", "Numbered"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "YEARLY"),
        ("FREQ=MONTHLY;BYDAY=XX", "MO, TU"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "from 1 to 31"),
        ("FREQ=DAILY;", "no part"),
    ],
)
def test_recurrences_that_are_none(rule: str, reason: str) -> None:
    (found,) = check(condition({"recurs": rule, "from": "2026-01-01"}))
    assert (found["pointer"], found["code"]) == ("/recurs", "invalid_value")
    assert reason in found["detail"]
