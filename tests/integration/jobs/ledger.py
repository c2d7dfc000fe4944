"""Entries for the tests of what follows the ledger."""

from __future__ import annotations

import secrets
from datetime import datetime

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft
from loyalty.ledger.movements import credit
from loyalty.ledger.state import State


def earn(db: Mongo, members: range, *, points: int = 10, at: datetime | None = None) -> None:
    """One entry for each member."""

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("earn", now, credit(state, "points", points, source="issuance", sequence=sequence), {})

    clock = system_clock if at is None else lambda: at
    operations = [Operation("bakery", member, (secrets.token_bytes(16),), b"request", decide) for member in members]
    assert {outcome.status for outcome in append(db.ledger, operations, clock=clock)} == {"applied"}
