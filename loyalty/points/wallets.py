"""What an act asks of the policies of a wallet: whether the wallet exists, may be spent from, may be given away."""

from __future__ import annotations

from datetime import datetime

from loyalty.infra.problems import ValidationFailed
from loyalty.ledger.state import State
from loyalty.points.model import WalletNotSpendable, WalletNotTransferable
from loyalty.programs.calendar import Calendar
from loyalty.programs.lifetimes import lapses_at
from loyalty.programs.model import Program
from loyalty.programs.policies import InactivityExpiry, WalletPolicy


def known(program: Program, wallet: str) -> WalletPolicy:
    """The policy of a wallet that a request names. ValidationFailed when the program has none of this name."""
    policy = program.policies.wallets.get(wallet)
    if policy is None:
        names = ", ".join(sorted(program.policies.wallets))
        detail = f"The program has no wallet {wallet!r}. It has: {names}."
        raise ValidationFailed(detail, errors=[{"pointer": "/wallet", "code": "unknown_wallet", "detail": detail}])
    return policy


def spendable(program: Program, wallet: str) -> WalletPolicy:
    """The policy of a wallet that is to pay. ValidationFailed, WalletNotSpendable."""
    policy = known(program, wallet)
    if not policy.spendable:
        raise WalletNotSpendable(
            f"Points of {wallet} cannot be spent: the policy of the wallet says so.", wallet=wallet
        )
    return policy


def transferable(program: Program, wallet: str) -> WalletPolicy:
    """The policy of a wallet whose points are to be given away. ValidationFailed, WalletNotTransferable."""
    policy = known(program, wallet)
    if not policy.transferable:
        raise WalletNotTransferable(
            f"Points of {wallet} cannot be given to others: the policy of the wallet says so.", wallet=wallet
        )
    return policy


def lapses(program: Program, state: State, wallet: str, now: datetime) -> dict[str, datetime | None]:
    """When the wallet lapses after points of it are spent `now`, as a draft says it; empty where nothing changes."""
    expiry = program.policies.wallet(wallet).expiry
    if not isinstance(expiry, InactivityExpiry) or "spend" not in expiry.activity:
        return {}
    lapsing = lapses_at(expiry, now, Calendar.of(program.timezone))
    before = state.wallet(wallet).lapses_at
    return {} if before is not None and lapsing is not None and before >= lapsing else {wallet: lapsing}
