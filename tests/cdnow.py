"""A real shop's years, replayed in memory: every purchase decided by the functions that decide live ones.

No database takes part. Each purchase is recorded at the instant at which it happened, so time passes as it did then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import Any

from loyalty.events import engine
from loyalty.events.model import NewEvent
from loyalty.events.reading import read
from loyalty.ledger.append import Operation, preview
from loyalty.ledger.entry import Draft, Head
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.ops.demo import CURRENCY, Purchase, purchases
from loyalty.points.settling import Tiering, settle
from loyalty.points.terms import Terms
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.programs.policies import Policies
from loyalty.rules.engine import compile_rules
from loyalty.rules.model import RuleSet
from loyalty.tiers.model import TierScheme
from loyalty.tiers.service import compile_scheme

OPENED = datetime(1997, 1, 1, tzinfo=timezone.utc)
"""The first day of the history; members joined and tiers were published then."""

CLOSED = datetime(1998, 7, 1, tzinfo=timezone.utc)
"""The day after the last one."""

POLICIES: dict[str, Any] = {
    "wallets": {
        "points": {
            "pending": {"type": "period", "days": 14},
            "expiry": {"type": "rolling", "months": 12, "round_up_to": "month"},
        }
    }
}
RULES: dict[str, Any] = {
    "rules": [
        {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "caps": {"per_month": 500}},
        {"type": "multiplier", "id": "first-of-month", "factor": "2", "when": "counters.purchases.month = 0"},
    ]
}
TIERS: dict[str, Any] = {
    "basis": {"type": "spend"},
    "window": {"type": "rolling", "months": 12},
    "levels": [
        {"id": "base", "name": "Base", "threshold": "0"},
        {"id": "silver", "name": "Silver", "threshold": "100.00", "earn_multiplier": "1.250"},
        {"id": "gold", "name": "Gold", "threshold": "300.00", "earn_multiplier": "1.500"},
    ],
    "downgrade": {"to": "one_level"},
}


def terms(
    *,
    policies: dict[str, Any] = POLICIES,
    rules: dict[str, Any] = RULES,
    tiers: dict[str, Any] | None = TIERS,
    timezone: str = "America/New_York",
) -> Terms:
    """The terms of a program with these policies, rules and tiers; the rich ones of the demo's shop by default."""
    program = Program(
        id="cdnow",
        name="CDNOW",
        currency=CURRENCY,
        timezone=timezone,
        backdating_days=None,
        auto_enrol=True,
        mode="live",
        created_at=OPENED,
        version=1,
        policies=Policies.model_validate(policies),
    )
    calendar = Calendar.of(timezone)
    rule_set = RuleSet.model_validate(rules)
    compiled = compile_rules(rule_set, 1, CURRENCY, calendar=calendar, policies=program.policies)
    scheme = None
    if tiers is not None:
        scheme = compile_scheme(TierScheme.model_validate(tiers), 1, CURRENCY, published_at=OPENED)
    return Terms.of(program, compiled, scheme)


@dataclass
class Replayed:
    """What came of a replay. By wallet: points `issued`, and those `available`, `pending` and `expired` at its end.

    `levels` counts the members on each level then, `moves` the changes of level, `cut` the purchases that a cap cut.
    """

    purchases: int = 0
    members: int = 0
    issued: Counter[str] = field(default_factory=Counter)
    available: Counter[str] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    cut: int = 0


def replay(program: Terms, history: Sequence[Purchase] | None = None, *, until: datetime = CLOSED) -> Replayed:
    """The totals of the whole history (or of some purchases in their order) at the instant `until`."""
    totals = Replayed()
    for chain in chains(program, history):
        totals.members += 1
        for entry in chain:
            totals.purchases += 1
            award = entry["evidence"]["award"]
            totals.cut += any("wanted" in line for line in award["lines"])
            for credit in award.get("credits", ()):
                totals.issued[credit["wallet"]] += credit["points"]
            for change in entry["evidence"].get("tier", ()):
                totals.moves[change["from"], change["to"]] += 1
        _add_end(totals, program, Head.of(chain[-1]), until)
    return totals


def chains(program: Terms, history: Sequence[Purchase] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The entries of each member, in the order of members."""
    ordered = sorted(history if history is not None else purchases(), key=lambda one: (one.customer, one.at, one.row))
    for customer, own in groupby(ordered, key=lambda one: one.customer):
        member = member_of(program, customer)
        head = Head.empty(member.number)
        entries = []
        for purchase in own:
            entry = _entry(program, member, head, purchase)
            head = Head.of(entry)
            entries.append(entry)
        yield entries


def member_of(program: Terms, customer: str) -> Member:
    """The member, who joined on the first day."""
    return Member(int(customer), program.program.id, (f"ext:{customer}",), "active", {}, OPENED, OPENED, 1)


def _entry(program: Terms, member: Member, head: Head, purchase: Purchase) -> dict[str, Any]:
    fact = read(NewEvent.model_validate(purchase.event()), program.program, now=purchase.at + timedelta(days=1))

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return engine.record(program, member, fact, state, sequence, now)

    return preview(head, Operation(program.program.id, member.number, (b"key",), fact.request, decide), purchase.at)


def _add_end(totals: Replayed, program: Terms, head: Head, until: datetime) -> None:
    tiering = None
    if program.tiers is not None:
        tiering = Tiering(program.tiers, program.calendar, program.calendar.day(OPENED))
    end = settle(head.state, until, tiering)
    for name, wallet in end.state.wallets.items():
        totals.available[name] += wallet.available
        totals.pending[name] += wallet.pending
        totals.expired[name] += wallet.expired
    for change in end.transitions:
        totals.moves[change.before, change.after] += 1
    if program.tiers is not None:
        totals.levels[end.state.facets["tier"]["level"]] += 1
