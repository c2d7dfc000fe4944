"""Awards: exact arithmetic, one rounding, a minimum."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.rules.engine import compile_rules, defects, rounded_quotient
from loyalty.rules.model import RuleSet


def rule(**fields: Any) -> dict[str, Any]:
    return {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", **fields}


def rules(*each: dict[str, Any]) -> RuleSet:
    return RuleSet.model_validate({"rules": list(each)})


@given(st.integers(0, 10**12), st.integers(1, 10**9))
def test_rounding_is_exact(dividend: int, divisor: int) -> None:
    exact = Fraction(dividend, divisor)
    assert rounded_quotient(dividend, divisor, "floor") == floor(exact)
    assert rounded_quotient(dividend, divisor, "ceil") == ceil(exact)
    assert rounded_quotient(dividend, divisor, "half_up") == floor(exact + Fraction(1, 2))


@pytest.mark.parametrize(
    ("fields", "amount", "points"),
    [
        ({}, 1177, 11),
        ({}, 99, 0),
        ({}, 0, 0),
        ({"rounding": "ceil"}, 1101, 12),
        ({"rounding": "half_up"}, 1150, 12),
        ({"rounding": "half_up"}, 1149, 11),
        ({"points": 3, "per": "2.00"}, 1000, 15),
        ({"points": 3, "per": "2.00"}, 333, 4),  # one rounding of 4.995, not three times floor(1.665)
        ({"minimum": "5.00"}, 499, 0),
        ({"minimum": "5.00"}, 500, 5),
    ],
)
def test_points_per_spend(fields: dict[str, Any], amount: int, points: int) -> None:
    (line,) = compile_rules(rules(rule(**fields)), 1, "USD").award(amount)
    assert line.points == points
    assert line.basis == amount


def test_a_purchase_below_the_minimum_says_so() -> None:
    (line,) = compile_rules(rules(rule(minimum="5.00")), 1, "USD").award(499)
    assert line.document() == {
        "rule": "base",
        "wallet": "points",
        "points": 0,
        "basis": 499,
        "reason": "below_minimum",
    }


def test_a_currency_without_decimals() -> None:
    (line,) = compile_rules(rules(rule(per="100")), 1, "JPY").award(1999)
    assert line.points == 19


def test_each_rule_gives_its_line() -> None:
    compiled = compile_rules(rules(rule(), rule(id="bonus", points=2, per="10.00")), 1, "USD")
    assert [(line.rule, line.points) for line in compiled.award(2500)] == [("base", 25), ("bonus", 5)]


def test_every_defect_is_named_at_once() -> None:
    bad = rules(rule(per="0.00"), rule(per="1.005"), rule(id="other", minimum="0.001"))
    found = {(defect["pointer"], defect["code"]) for defect in defects(bad, "USD")}
    assert found == {
        ("/rules/0/per", "invalid_value"),
        ("/rules/1/id", "duplicate"),
        ("/rules/1/per", "invalid_value"),
        ("/rules/2/minimum", "invalid_value"),
    }
