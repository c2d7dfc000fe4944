"""Every search there is, by name."""

from __future__ import annotations

import traceback

from hypothesis.stateful import RuleBasedStateMachine

from tests.model.ledger_machine import LedgerAgainstPurse
from tests.model.program_machine import EngineAgainstNaive
from tests.model.search import BLOCK, search

MACHINES: dict[str, type[RuleBasedStateMachine]] = {
    "ledger": LedgerAgainstPurse,
    "program": EngineAgainstNaive,
}


def attempt(work: tuple[str, int]) -> tuple[str, int, str]:
    """One block of examples in a process of its own: machine, seed, and what went wrong."""
    name, number = work
    try:
        search(MACHINES[name], BLOCK, number)
    except Exception:
        return name, number, traceback.format_exc()
    return name, number, ""
