"""Money crosses the border as text and lives inside as an integer of minor units, exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.infra.money import MoneyError, exponent, to_minor, to_text

CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "KWD", "CLF", "HUF"])
MINOR = st.integers(min_value=-(10**15) + 1, max_value=10**15 - 1)


@given(MINOR, CURRENCIES)
def test_text_of_an_amount_reads_back_as_the_amount(minor: int, currency: str) -> None:
    assert to_minor(to_text(minor, currency), currency) == minor


@given(MINOR, CURRENCIES)
def test_the_text_is_the_decimal_value(minor: int, currency: str) -> None:
    assert Decimal(to_text(minor, currency)).scaleb(exponent(currency)) == minor


@given(st.integers(0, 10**15 - 1), st.integers(0, 6), CURRENCIES)
def test_zeros_behind_the_smallest_unit_are_harmless(whole: int, zeros: int, currency: str) -> None:
    text = str(whole) + ("." + "0" * zeros if zeros else "")
    assert to_minor(text, currency) == whole * 10 ** exponent(currency)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("11.77", "USD", 1177),
        ("0.1", "USD", 10),
        ("-3", "EUR", -300),
        ("500", "JPY", 500),
        ("1.234", "KWD", 1234),
    ],
)
def test_examples(amount: str, currency: str, minor: int) -> None:
    assert to_minor(amount, currency) == minor


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "1,50",
        "1e3",
        "0x10",
        "NaN",
        "Infinity",
        "+1",
        ".5",
        "5.",
        " 1",
        "1\n",
        "--1",
        "١٢",
        "1" * 16,
        "0.0000000",
    ],
)
def test_what_is_no_decimal_is_refused(amount: str) -> None:
    with pytest.raises(MoneyError):
        to_minor(amount, "USD")


@pytest.mark.parametrize(("amount", "currency"), [("11.775", "USD"), ("500.5", "JPY"), ("1.2345", "KWD")])
def test_a_fraction_of_the_smallest_unit_is_refused(amount: str, currency: str) -> None:
    with pytest.raises(MoneyError, match="decimals"):
        to_minor(amount, currency)


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDX", "ZZZ", "ÜSD", "U$D"])
def test_an_unknown_currency_is_refused(currency: str) -> None:
    with pytest.raises(MoneyError, match="ISO 4217"):
        exponent(currency)


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_a_money_error(text: str) -> None:
    try:
        minor = to_minor(text, "USD")
    except MoneyError:
        return
    assert Decimal(text) * 100 == minor
