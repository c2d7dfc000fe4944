"""Shares: how much of an order a rule counts, and which line has which part in it. Exact integers throughout.

Rules that count the same thing share one computation: what they look at is interned when rules are compiled, and
measured at most once for an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from loyalty.rules.facts import Facts, Line

LineTest = Callable[[Line], bool]


class Share:
    """What a rule counts of one order: `count` (minor units, or pieces) times `part[0] / part[1]`.

    `weights` says by line how much of it comes from there; empty where that cannot be said.
    """

    __slots__ = ("_running", "count", "part", "weights")

    def __init__(self, count: int, weights: Sequence[int] = (), part: tuple[int, int] = (1, 1)) -> None:
        self.count = count
        self.part = part
        self.weights = weights
        self._running: list[int] | None = None

    def attribute(self, points: int) -> tuple[int, ...] | None:
        """`points` by line, in proportion to the weights; they sum to `points`. None where no line has any weight."""
        running = self._running
        if running is None:
            running = self._running = list(accumulate(self.weights))
        return spread(points, running)


def spread(points: int, running: Sequence[int]) -> tuple[int, ...] | None:
    """`points` over parts of which `running` has the running totals: what is rounded down is made up for later."""
    total = running[-1] if running else 0
    if total == 0:
        return None
    before = 0
    parts = []
    for reached in running:
        upto = points * reached // total
        parts.append(upto - before)
        before = upto
    return tuple(parts)


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
        lines = facts.lines
        weights = [max(0, line.amount - (line.tax or 0)) if self.exclude_tax else line.amount for line in lines]
        counted = amount
        if self.exclude_tax:
            counted -= sum([line.tax or 0 for line in lines]) if facts.tax is None else facts.tax
        if self.exclude_shipping:
            counted -= facts.shipping or 0
        if self.exclude is not None:
            column = order.column(self.exclude)
            counted -= sum([weight for weight, out in zip(weights, column, strict=True) if out])
            weights = [0 if out else weight for weight, out in zip(weights, column, strict=True)]
        if self.only is not None:
            column = order.column(self.only)
            weights = [weight if kept else 0 for weight, kept in zip(weights, column, strict=True)]
            counted = sum(weights)
        counted = max(0, min(counted, amount))
        earning, whole = order.earning_part(self.unearning)
        return Share(counted if earning == whole else counted * earning // whole, weights)


@dataclass(frozen=True, slots=True)
class PieceMeasure:
    """How many pieces of an order count. `where` is a column of the pool."""

    where: int | None
    unearning: frozenset[str]

    def measure(self, order: Order) -> Share | None:
        """The share, or None for an event without such pieces."""
        weights = [line.quantity for line in order.facts.lines]
        if self.where is not None:
            column = order.column(self.where)
            weights = [weight if kept else 0 for weight, kept in zip(weights, column, strict=True)]
        pieces = sum(weights)
        return Share(pieces, weights, order.earning_part(self.unearning)) if pieces else None


Measure = AmountMeasure | PieceMeasure
ONCE = Share(1)
"""What a rule counts that looks at no amount."""


class Order:
    """One event while it is decided: columns and shares that several rules ask for are worked out once."""

    __slots__ = ("_columns", "_earning", "_measures", "_shares", "_tests", "facts")

    def __init__(self, facts: Facts, tests: Sequence[LineTest], measures: Sequence[Measure]) -> None:
        self.facts = facts
        self._tests = tests
        self._measures = measures
        self._columns: dict[int, list[bool]] = {}
        self._shares: dict[int, Share | None] = {}
        self._earning: dict[frozenset[str], tuple[int, int]] = {}

    def column(self, place: int) -> list[bool]:
        """For which lines the condition at this place holds."""
        column = self._columns.get(place)
        if column is None:
            test = self._tests[place]
            column = self._columns[place] = [test(line) for line in self.facts.lines]
        return column

    def share(self, place: int) -> Share | None:
        """What the measure at this place gives for the order; None where there is nothing that it could count."""
        try:
            return self._shares[place]
        except KeyError:
            share = self._shares[place] = self._measures[place].measure(self)
            return share

    def earning_part(self, unearning: frozenset[str]) -> tuple[int, int]:
        """The part of the amount that was not paid by any of the means `unearning`, as a fraction."""
        known = self._earning.get(unearning)
        if known is None:
            amount = self.facts.amount
            paid = sum([payment.amount for payment in self.facts.payments if payment.method in unearning])
            known = (max(0, amount - paid), amount) if paid and amount else (1, 1)
            self._earning[unearning] = known
        return known
