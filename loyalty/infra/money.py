"""Money: a decimal string and a currency outside, an integer of minor units inside. Never a float."""

from __future__ import annotations

import re
from functools import lru_cache

from babel.numbers import get_currency_precision, is_currency

_DECIMAL = re.compile(r"(-?)(\d{1,15})(?:\.(\d{1,6}))?", re.ASCII)


class MoneyError(ValueError):
    """The text is not an amount of the currency; the message says why."""


@lru_cache(maxsize=256)
def exponent(currency: str) -> int:
    """How many decimals the ISO 4217 currency has: 2 for USD, 0 for JPY. MoneyError for an unknown code."""
    if not (len(currency) == 3 and currency.isascii() and currency.isupper() and is_currency(currency)):
        raise MoneyError(f"{currency!r} is not an ISO 4217 currency code")
    return get_currency_precision(currency)


def to_minor(amount: str, currency: str) -> int:
    """`"11.77"` in USD is 1177. Refuses more decimals than the currency has unless they are zeros."""
    match = _DECIMAL.fullmatch(amount)
    if not match:
        raise MoneyError('an amount is a decimal string such as "11.77"')
    sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
    digits = exponent(currency)
    if fraction[digits:].strip("0"):
        raise MoneyError(f"{currency} has {digits} decimals")
    value = int(whole + fraction[:digits].ljust(digits, "0"))
    return -value if sign else value


def to_text(minor: int, currency: str) -> str:
    """1177 in USD is `"11.77"`."""
    digits = exponent(currency)
    if digits == 0:
        return str(minor)
    text = str(abs(minor)).rjust(digits + 1, "0")
    return f"{'-' if minor < 0 else ''}{text[:-digits]}.{text[-digits:]}"
