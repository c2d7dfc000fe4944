"""Operands: which operators a type of field knows, and the constants that are compared with it.

One table for all who need it: the check at save, the closures, the filters of MongoDB and the text form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from loyalty.infra import money
from loyalty.infra.suggestions import suggestion
from loyalty.rules.facts import STATUSES, WEEKDAYS, Kind

Operator = Literal[
    "=", "!=", "<", "<=", ">", ">=", "in", "not_in", "between", "contains", "starts_with", "ends_with", "exists"
]
OPERATORS: Final[tuple[Operator, ...]] = get_args(Operator)

Scalar = str | int | bool
"""A constant as it is written in a rule."""

MOST_VALUES: Final = 1000
LONGEST_TEXT: Final = 500
YEARS: Final = range(1900, 9999)  # days outside are refused: their midnights may be no instants

_EQUAL: Final[tuple[Operator, ...]] = ("=", "!=", "in", "not_in", "exists")
_ORDERED: Final[tuple[Operator, ...]] = ("=", "!=", "<", "<=", ">", ">=", "in", "not_in", "between", "exists")

ALLOWED: Final[dict[Kind, tuple[Operator, ...]]] = {
    "text": OPERATORS,
    "texts": ("contains", "in", "not_in", "exists"),
    "amount": _ORDERED,
    "integer": _ORDERED,
    "boolean": ("=", "!=", "exists"),
    "date": _ORDERED,
    "time": _ORDERED,
    "weekday": _EQUAL,
    "status": _EQUAL,
    "anything": OPERATORS,
}
"""The operators that a field of the type knows."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_AMOUNT = re.compile(r"\d{1,15}(\.\d{1,6})?", re.ASCII)


class OperandError(ValueError):
    """The constant does not fit; the message says what would. `place` is its index in a list, or None."""

    def __init__(self, detail: str, place: int | None = None) -> None:
        super().__init__(detail)
        self.place = place


def read_operand(kind: Kind, operator: Operator, value: Any, currency: str | None = None) -> Any:
    """The constant in the form that the closure compares: minor units, dates, minutes since 00:00.

    A list for `in` and `not_in`, a pair for `between`. Without a currency amounts are only checked for their form.
    OperandError says what does not fit.
    """
    if operator in ("in", "not_in"):
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_VALUES:
            raise OperandError(f'"{operator}" takes a list of 1 to {MOST_VALUES} values.')
        return [_one(kind, operator, each, currency, place) for place, each in enumerate(value)]
    if operator == "between":
        if not isinstance(value, list) or len(value) != 2:
            raise OperandError('"between" takes a list of two values, the lower one first.')
        low, high = (_one(kind, operator, each, currency, place) for place, each in enumerate(value))
        _require_order(kind, low, high)
        return low, high
    if isinstance(value, list):
        raise OperandError(f'"{operator}" takes one value. For a list use "in".')
    return _one(kind, operator, value, currency, None)


def half_open(kind: Kind) -> bool:
    """Whether `between` leaves out its upper bound: days and times do, so that spans can follow each other."""
    return kind in ("date", "time")


def _require_order(kind: Kind, low: Any, high: Any) -> None:
    if isinstance(low, str) != isinstance(high, str):
        raise OperandError('Both values of "between" are of one type.')
    if low == high and half_open(kind):
        raise OperandError(
            "The upper value is left out, so nothing lies between: it must be another than the lower one."
        )
    if low > high and kind != "time":  # a span of the clock may run over midnight
        raise OperandError("The lower value comes first.")


def _one(kind: Kind, operator: Operator, value: Any, currency: str | None, place: int | None) -> Any:
    try:
        if kind == "anything":
            return _anything(operator, value)
        if kind == "amount":
            return _amount(value, currency)
        return _READERS[kind](value)
    except ValueError as error:
        raise OperandError(str(error), place) from None


def _anything(operator: Operator, value: Any) -> Scalar:
    if operator in ("contains", "starts_with", "ends_with"):
        return _text(value)
    if isinstance(value, bool) and operator in ("<", "<=", ">", ">=", "between"):
        raise ValueError("True and false have no order.")
    if not isinstance(value, str | int):
        raise ValueError("Give a text, a whole number, true or false.")
    return value


def _amount(value: Any, currency: str | None) -> int | Decimal:
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ValueError("It is compared with an amount such as 50.00, in JSON a text.")
    try:
        return Decimal(value) if currency is None else money.to_minor(value, currency)
    except money.MoneyError as error:
        raise ValueError(f"{error}.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'It is compared with a text, such as "{str(value).lower()}" in quotes.')
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("It is compared with a whole number.")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("It is compared with true or false.")
    return value


def read_day(value: Any) -> date:
    """The day that `2026-12-31` writes. ValueError says what is wrong."""
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"There is no day {value}.") from None
        if day.year in YEARS:
            return day
    raise ValueError(f"Days are written as 2026-12-31, in the years {YEARS.start} to {YEARS.stop - 1}.")


def _minute(value: Any) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("Times are written as 09:30, from 00:00 to 23:59.")
    return int(match[1]) * 60 + int(match[2])


def _one_of(known: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value in known:
            return str(value)
        raise ValueError(f"It is one of {', '.join(known)}.{suggestion(str(value), known)}")

    return read


_READERS: Final[dict[Kind, Callable[[Any], Any]]] = {
    "text": _text,
    "texts": _text,
    "integer": _integer,
    "boolean": _boolean,
    "date": read_day,
    "time": _minute,
    "weekday": _one_of(WEEKDAYS),
    "status": _one_of(STATUSES),
}
