"""The text form: one canonical text for each tree, the same tree for each text, and errors that help."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loyalty.infra.http.body import defects
from loyalty.infra.http.model import Body
from loyalty.rules.conditions import DEEPEST, check
from loyalty.rules.expressions import LONGEST, ExpressionError, When, Where, parse, render
from loyalty.rules.facts import Scope
from tests.random_conditions import CONDITION, Tree, trees


class Holder(Body):
    """A body that takes conditions as trees and as texts."""

    when: When
    where: Where


def outcome(text: str) -> Any:
    """The condition, or why the text is none."""
    try:
        return parse(text)
    except ExpressionError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["event", "line", "member"]).flatmap(lambda over: st.tuples(st.just(over), trees(over))))
def test_the_text_of_a_tree_is_read_as_the_same_tree(case: tuple[Scope, Tree]) -> None:
    over, tree = case
    condition = CONDITION.validate_python(tree)
    text = render(condition, over)
    assert parse(text, over) == condition
    assert render(parse(text, over), over) == text


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                "event.amount",
                "sku",
                ">=",
                "=",
                "5",
                "-1.50",
                '"a"',
                "(",
                ")",
                ",",
                "and",
                "or",
                "not",
                "in",
                "any",
                "line",
                "where",
                "of",
                "all",
                "within",
                "to",
                "2026-01-01",
                "09:30",
                "recurs",
                "from",
                "exists",
                "between",
                "true",
                "at",
                "least",
                "\n",
            ]
        ),
        max_size=30,
    ).map(" ".join)
)
def test_any_text_is_read_or_refused_at_a_place_in_it(text: str) -> None:
    read = outcome(text)
    if isinstance(read, ExpressionError):
        lines = text.split("\n")
        assert 1 <= read.line <= len(lines)
        assert 1 <= read.column <= len(lines[read.line - 1]) + 1
        assert read.detail.endswith(".")
    else:
        assert check(read) == []
        assert parse(render(read)) == read


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        (
            'event.amount >= 50.00 and any line where category in ("music", "books") and time.weekday in (sat, sun)',
            {
                "all": [
                    {"field": "event.amount", "op": ">=", "value": "50.00"},
                    {
                        "lines": "any",
                        "where": {"field": "category", "op": "in", "value": ["music", "books"]},
                        "at_least": 1,
                    },
                    {"field": "time.weekday", "op": "in", "value": ["sat", "sun"]},
                ]
            },
        ),
        (
            "order.lines = 1 or order.lines = 2 and not order.lines = 3",
            {
                "any": [
                    {"field": "order.lines", "op": "=", "value": 1},
                    {
                        "all": [
                            {"field": "order.lines", "op": "=", "value": 2},
                            {"not": {"field": "order.lines", "op": "=", "value": 3}},
                        ]
                    },
                ]
            },
        ),
        (
            'at least 2 lines where (sku starts with "CD" and unit_amount > 9.99)',
            {
                "lines": "any",
                "where": {
                    "all": [
                        {"field": "sku", "op": "starts_with", "value": "CD"},
                        {"field": "unit_amount", "op": ">", "value": "9.99"},
                    ]
                },
                "at_least": 2,
            },
        ),
        (
            'none of (within 2026-12-01 to 2027-01-01T00:00:00Z, recurs "FREQ=WEEKLY;BYDAY=MO" from 2026-01-01)',
            {
                "none": [
                    {"within": {"start": "2026-12-01", "end": "2027-01-01T00:00:00Z"}},
                    {"recurs": "FREQ=WEEKLY;BYDAY=MO", "from": "2026-01-01"},
                ]
            },
        ),
        ("time.time between 22:00 and 02:00", {"field": "time.time", "op": "between", "value": ["22:00", "02:00"]}),
        ("member.attributes.vip = true", {"field": "member.attributes.vip", "op": "=", "value": True}),
        ('event.metadata.a-b = "x \\"y\\""', {"field": "event.metadata.a-b", "op": "=", "value": 'x "y"'}),
        ("any of (member.birthday exists)", {"any": [{"field": "member.birthday", "op": "exists"}]}),
    ],
)
def test_texts_and_trees(text: str, tree: Tree) -> None:
    assert parse(text).model_dump(mode="json") == tree
    assert render(CONDITION.validate_python(tree)) == text


def test_spaces_and_parentheses_are_not_kept() -> None:
    assert (
        render(parse('((event.type="purchase"))and\n\n ( event.tax>0 )')) == 'event.type = "purchase" and event.tax > 0'
    )
    assert render(parse('event.store = "\\u00e4"')) == 'event.store = "ä"'


@pytest.mark.parametrize(
    ("text", "line", "column", "detail"),
    [
        ("event.amonut >= 5", 1, 1, 'Perhaps you mean "event.amount"'),
        ("event.amount >= 5 adn event.tax > 1", 1, 19, 'Perhaps you mean "and"'),
        ("event.amount == 5", 1, 15, 'Write "=" instead of "=="'),
        ("event.amount => 5", 1, 15, 'Write ">=" instead of "=>"'),
        ("event.tax = 4 && event.tax = 4", 1, 15, 'Write "and" instead of "&&"'),
        ("event.amount >=", 1, 16, "a number"),
        ("event.amount", 1, 13, '"between"'),
        ("", 1, 1, "a name"),
        ("event.type = purchase", 1, 14, 'double quotes: "purchase"'),
        ("event.type = 'x'", 1, 14, "instead of"),
        ('event.type = "x', 1, 14, "another double quote"),
        ("time.weekday in (sat, snu)", 1, 23, 'Perhaps you mean "sun"'),
        ("member.is_birthday = ture", 1, 22, "true or false"),
        ("any lines where sku exists", 1, 5, 'Perhaps you mean "line"'),
        ("any line where event.amount = 5", 1, 16, "over one line"),
        ('any line where sku = "a" and quantity > 1', 1, 30, "in parentheses"),
        ("any line where (sku exists and\n  categroy exists)", 2, 3, 'Perhaps you mean "line.category"'),
        ("time.date = 2026-02-30", 1, 13, "no day"),
        ("event.amount = 1\nand order.quantity >= 2.5", 2, 23, "not a whole number"),
        ("event.amount = -5", 1, 16, "amount"),
        ('recurs "FREQ=HOURLY" from 2026-01-01', 1, 8, "DAILY"),
        ('recurs "FREQ=DAILY" from 2026-02-30', 1, 26, "no day"),
        ("within 2026-02-01 to 2026-01-01", 1, 22, "after"),
        ('event.type = "\\ud800"', 1, 14, "Unicode"),
        ("at least 999 lines where sku exists", 1, 1, "500"),
        ("order.lines = 99999999999999999", 1, 15, "exactly"),
    ],
)
def test_errors_say_where_and_what_was_expected(text: str, line: int, column: int, detail: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "(" * LONGEST,
        "(" * 4000 + "sku exists" + ")" * 4000,
        "not " * 2000 + "event.store exists",
        "none of (" * 1000,
        "none of (" * 900 + "event.store exists" + ")" * 900,
        " and ".join(["event.store exists"] * 400),
        '"' * LONGEST,
        "event.store in (" + ", ".join(['"a"'] * 1900) + ")",
        "order.lines = " + "9" * 9000,
        "event.type = " + "a" * 9000,
        "\n" * LONGEST,
        "x" * 1_000_000,
    ],
)
def test_hostile_texts_are_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 500


def test_depth_is_that_of_trees() -> None:
    assert check(parse("not " * (DEEPEST - 1) + "event.store exists")) == []
    with pytest.raises(ExpressionError, match=f"at most {DEEPEST} deep"):
        parse("not " * DEEPEST + "event.store exists")


def test_bodies_take_trees_and_texts() -> None:
    where: Any = {"field": "category", "op": "exists"}
    written = Holder.model_validate({"when": "event.store exists", "where": where})
    assert written == Holder.model_validate(
        {"when": {"field": "event.store", "op": "exists"}, "where": "category exists"}
    )
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"when": "event.store", "where": "event.store exists"})
    found = [(each["pointer"], each["code"], each["detail"][:18]) for each in defects(caught.value)]
    assert found == [
        ("/when", "invalid_value", "Line 1, column 12:"),
        ("/where", "invalid_value", "Line 1, column 1: "),
    ]
