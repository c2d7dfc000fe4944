"""Policies: what is absent has its default, and what makes no sense is refused when it is written."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from loyalty.infra.problems import ValidationFailed
from loyalty.programs import service
from loyalty.programs.model import Program
from loyalty.programs.policies import DEFAULTS, Policies, WalletPolicy

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)

FULL: dict[str, Any] = {
    "wallets": {
        "points": {
            "pending": {"type": "event", "event_type": "delivered"},
            "expiry": {"type": "rolling", "months": 12, "round_up_to": None},
            "max_balance": 1000,
            "overspent_refund": "negative",
        },
        "status": {"spendable": False, "expiry": {"type": "inactivity", "days": 100, "activity": ["earn"]}},
        "stamps": {"pending": {"type": "date", "date": "2027-01-01"}, "expiry": {"type": "dates", "dates": ["02-29"]}},
    },
    "points_payment": {"points": 100, "amount": "1.00"},
    "unearning_payment_methods": ["gift_card"],
}


def program(policies: Policies) -> Program:
    return Program("main", "Main", "USD", "UTC", None, True, "live", NOW, 1, policies)


def test_a_program_of_an_earlier_release_has_the_defaults() -> None:
    document = program(DEFAULTS).to_document()
    del document["policies"]
    assert Program.from_document(document).policies == DEFAULTS
    assert DEFAULTS.wallets == {"points": WalletPolicy()}
    assert DEFAULTS.wallet("unknown") == WalletPolicy()


def test_policies_come_back_as_they_were_stored() -> None:
    policies = Policies.model_validate(FULL)
    assert Program.from_document(program(policies).to_document()).policies == policies


@pytest.mark.parametrize(
    "wallet",
    [
        {"expiry": {"type": "rolling"}},
        {"expiry": {"type": "rolling", "months": 1, "days": 1}},
        {"expiry": {"type": "rolling", "months": 0}},
        {"expiry": {"type": "rolling", "months": 1, "round_up_to": "week"}},
        {"expiry": {"type": "dates", "dates": ["02-30"]}},
        {"expiry": {"type": "dates", "dates": []}},
        {"expiry": {"type": "inactivity", "months": 1, "activity": []}},
        {"expiry": {"type": "sometime"}},
        {"pending": {"type": "period", "days": 1.5}},
        {"pending": {"type": "date", "date": "2026-02-30"}},
        {"pending": {"type": "event"}},
        {"max_balance": 0},
        {"overspent_refund": "maybe"},
        {"spendable": "yes"},
        {"colour": "blue"},
    ],
)
def test_what_makes_no_sense_is_refused(wallet: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policies.model_validate({"wallets": {"points": wallet}})


@pytest.mark.parametrize("names", [[], ["Points"], ["a" * 33], [f"w{number}" for number in range(11)]])
def test_wallets_have_names_and_are_few(names: list[str]) -> None:
    with pytest.raises(ValidationError):
        Policies.model_validate({"wallets": {name: {} for name in names}})


def test_what_only_the_program_can_know_is_checked_with_it() -> None:
    service.check(Policies.model_validate(FULL), "USD", wallets=["points"])
    with pytest.raises(ValidationFailed) as refused:
        service.check(Policies.model_validate(FULL), "JPY", wallets=["points", "miles"])
    assert [error["pointer"] for error in refused.value.extra["errors"]] == ["/policies/wallets/miles"]
    nothing = {**FULL, "points_payment": {"points": 1, "amount": "0.50", "wallet": "status"}}
    with pytest.raises(ValidationFailed) as refused:
        service.check(Policies.model_validate(nothing), "JPY")
    assert [error["pointer"] for error in refused.value.extra["errors"]] == [
        "/policies/points_payment/amount",
        "/policies/points_payment/wallet",
    ]
