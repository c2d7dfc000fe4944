"""Shares: how much of an order a rule counts, and which line has which part in it. Exact integers throughout.

Rules that count the same thing share one computation: what they look at is interned when rules are compiled, and
measured at most once for an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, sub
from typing import Final

from loyalty.rules.conditions import Comparison, Condition, compile_line_condition
from loyalty.rules.facts import Facts, Line

Test = Callable[[Sequence[Line]], list[bool]]
"""For which lines a condition holds."""
WHOLE: Final = (1, 1)
"""All of it, as a fraction."""


class Share:
    """What a rule counts of one order: `count` (minor units, or pieces) times `part[0] / part[1]`.

    `weights` says by line how much of it comes from there; empty where that cannot be said.
    """

    __slots__ = ("_totals", "count", "part", "weights")

    def __init__(self, count: int, weights: Sequence[int] = (), part: tuple[int, int] = WHOLE) -> None:
        self.count = count
        self.part = part
        self.weights = weights
        self._totals: Sequence[int] | None = None

    def attribute(self, points: int) -> tuple[int, ...] | None:
        """`points` by line, in proportion to the weights; they sum to `points`. None where no line has any weight."""
        if self._totals is None:
            self._totals = list(accumulate(self.weights))
        return _spread(points, self._totals)


def spread(points: int, weights: Sequence[int]) -> tuple[int, ...] | None:
    """`points` in proportion to the weights: what is rounded down is made up for later. None where all are zero."""
    return _spread(points, list(accumulate(weights)))


def _spread(points: int, totals: Sequence[int]) -> tuple[int, ...] | None:
    """`totals` are those of the weights up to each line."""
    if not totals or not totals[-1]:
        return None
    whole = totals[-1]
    reached = [points * total // whole for total in totals]
    return tuple(map(sub, reached, [0, *reached]))


@dataclass(frozen=True, slots=True)
class AmountMeasure:
    """How much of the amount of an order counts. `only` and `exclude` are columns of the pool."""

    exclude_tax: bool
    exclude_shipping: bool
    only: int | None
    exclude: int | None
    unearning: frozenset[str]

    def measure(self, order: Order) -> Share | None:
        """The share, or None for an event without an amount."""
        facts = order.facts
        amount = facts.amount
        if amount is None:
            return None
        weights = order.line_amounts(without_tax=self.exclude_tax)
        counted = amount
        if self.exclude_tax:
            counted -= sum([line.tax or 0 for line in facts.lines]) if facts.tax is None else facts.tax
        if self.exclude_shipping:
            counted -= facts.shipping or 0
        if self.exclude is not None:
            excluded = list(map(mul, weights, order.column(self.exclude)))
            counted -= sum(excluded)
            weights = list(map(sub, weights, excluded))
        if self.only is not None:
            weights = list(map(mul, weights, order.column(self.only)))
            counted = sum(weights)
        counted = max(0, min(counted, amount))
        part = order.earning_part(self.unearning)
        return Share(counted if part is WHOLE else counted * part[0] // part[1], weights)


@dataclass(frozen=True, slots=True)
class PieceMeasure:
    """How many pieces of an order count. `where` is a column of the pool."""

    where: int | None
    unearning: frozenset[str]

    def measure(self, order: Order) -> Share | None:
        """The share, or None for an event without such pieces."""
        weights = order.quantities()
        if self.where is not None:
            weights = list(map(mul, weights, order.column(self.where)))
        pieces = sum(weights)
        return Share(pieces, weights, order.earning_part(self.unearning)) if pieces else None


Measure = AmountMeasure | PieceMeasure


def test_of(condition: Condition, currency: str) -> Test:
    """The condition over one line, for all lines at once. It must have passed `check`, or ValueError."""
    holds = compile_line_condition(condition, currency)
    if isinstance(condition, Comparison) and condition.op == "=":
        name = condition.field.removeprefix("line.")
        if name in _TEXTS:  # what most rules ask, and several times faster without a call for each line
            place, wanted = Line._fields.index(name), condition.value
            return lambda lines: [line[place] == wanted for line in lines]
    return lambda lines: [holds(line) for line in lines]


_TEXTS: Final = ("sku", "category", "brand")

ONCE = Share(1)
"""What a rule counts that looks at no amount."""


class Order:
    """One event while it is decided: columns and shares that several rules ask for are worked out once."""

    __slots__ = ("_columns", "_earning", "_line_amounts", "_measures", "_quantities", "_shares", "_tests", "facts")

    def __init__(self, facts: Facts, tests: Sequence[Test], measures: Sequence[Measure]) -> None:
        self.facts = facts
        self._tests = tests
        self._measures = measures
        self._columns: dict[int, list[bool]] = {}
        self._line_amounts: dict[bool, list[int]] = {}
        self._quantities: list[int] | None = None
        self._shares: dict[int, Share | None] = {}
        self._earning: dict[frozenset[str], tuple[int, int]] = {}

    def column(self, place: int) -> list[bool]:
        """For which lines the condition at this place holds."""
        column = self._columns.get(place)
        if column is None:
            column = self._columns[place] = self._tests[place](self.facts.lines)
        return column

    def line_amounts(self, *, without_tax: bool) -> list[int]:
        """What each line cost, with or without the tax in it."""
        amounts = self._line_amounts.get(without_tax)
        if amounts is None:
            lines = self.facts.lines
            amounts = [line.amount for line in lines]
            if without_tax:
                amounts = [max(0, line.amount - (line.tax or 0)) for line in lines]
            self._line_amounts[without_tax] = amounts
        return amounts

    def quantities(self) -> list[int]:
        """How many pieces each line is of."""
        if self._quantities is None:
            self._quantities = [line.quantity for line in self.facts.lines]
        return self._quantities

    def share(self, place: int) -> Share | None:
        """What the measure at this place gives for the order; None where there is nothing that it could count."""
        if place in self._shares:
            return self._shares[place]
        share = self._shares[place] = self._measures[place].measure(self)
        return share

    def earning_part(self, unearning: frozenset[str]) -> tuple[int, int]:
        """The part of the amount that was not paid by any of the means `unearning`, as a fraction."""
        known = self._earning.get(unearning)
        if known is None:
            amount = self.facts.amount
            paid = sum([payment.amount for payment in self.facts.payments if payment.method in unearning])
            known = (max(0, amount - paid), amount) if paid and amount else WHOLE
            self._earning[unearning] = known
        return known
