"""Changing points by hand."""

from __future__ import annotations

from datetime import datetime

from loyalty.infra.problems import IdempotencyConflict
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.points.acts import Act, Decide
from loyalty.programs.model import Program


def adjustment(program: Program, *, member: str, points: int, reason: str, key: tuple[str, ...], by: str) -> Act:
    """The act of giving (above 0) or taking (below 0) points. Taking more than there are is refused.

    `key` makes it happen once; `by` is who asks.
    """
    conflict = IdempotencyConflict("The Idempotency-Key was used with another request.")
    request = request_digest({"adjustment": points, "member": member, "reason": reason})

    def decide(_: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            if points > 0:
                postings = credit(state, "points", points, source="adjusted", sequence=sequence)
            else:
                postings = debit(state, "points", -points, target="adjusted")
            return Draft("adjust", now, postings, {"reason": reason, "by": by})

        return draft

    return Act(program, member, ((business_key(program.id, *key), conflict),), request, decide)
