"""The tier as it had happened: facts that were told late come to what facts told at once come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.events import engine as events
from loyalty.events.model import NewEvent
from loyalty.events.reading import read
from loyalty.events.refunds import Purchase
from loyalty.ledger.append import Operation, preview
from loyalty.ledger.entry import Draft, Head
from loyalty.ledger.state import State
from loyalty.points.terms import Terms
from loyalty.tiers.as_of import happened
from loyalty.tiers.engine import standing
from tests import cdnow

RULES: dict[str, Any] = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}
TERMS = cdnow.terms(rules=RULES, tiers={**cdnow.TIERS, "window": {"type": "rolling", "days": 60}})
MEMBER = cdnow.member_of(TERMS, "00001")


@dataclass(frozen=True)
class Told:
    """A purchase of so many dollars on `day`, told `late` days after; `refunded` days later it is taken back."""

    day: int
    dollars: int
    late: int
    refunded: int | None


histories = st.lists(
    st.builds(Told, st.integers(1, 150), st.integers(1, 250), st.integers(0, 40), st.none() | st.integers(1, 50)),
    max_size=8,
)


def at(day: float) -> datetime:
    return cdnow.OPENED + timedelta(days=day, hours=12)


def chain(history: Sequence[Told], *, punctual: bool) -> list[dict[str, Any]]:
    """The entries, each recorded when it was told, or all when they happened."""
    acts: list[tuple[float, float, int, bool]] = []
    for number, told in enumerate(history):
        recorded: float = told.day if punctual else told.day + told.late
        acts.append((recorded, told.day, number, False))
        if told.refunded is not None:
            back = told.day + told.refunded + 0.25
            acts.append((back if punctual else max(back, recorded + 0.25), back, number, True))
    head, entries = Head.empty(MEMBER.number), []
    bought: dict[int, dict[str, Any]] = {}
    for recorded, occurred, number, is_refund in sorted(acts):
        entry = _entry(
            TERMS, head, recorded, occurred, number, history[number], bought.get(number) if is_refund else None
        )
        if not is_refund:
            bought[number] = entry
        head = Head.of(entry)
        entries.append(entry)
    return entries


def _entry(
    terms: Terms, head: Head, recorded: float, occurred: float, number: int, told: Told, of: dict[str, Any] | None
) -> dict[str, Any]:
    event: dict[str, Any] = {"source": "till", "member": {"external_id": "00001"}, "occurred_at": at(occurred)}
    if of is None:
        event |= {"id": str(number), "type": "purchase", "amount": f"{told.dollars}.00", "currency": "USD"}
    else:
        event |= {"id": f"{number}-back", "type": "refund", "refers_to": str(number)}
    fact = read(NewEvent.model_validate(event), terms.program, now=at(recorded))

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        if of is None:
            return events.record(terms, MEMBER, fact, state, sequence, now)
        return events.take_back(terms, MEMBER, fact, Purchase.of(of), state, sequence, now)

    operation = Operation(terms.program.id, MEMBER.number, (b"key",), fact.request, decide)
    return preview(head, operation, at(recorded))


def place(entries: Sequence[dict[str, Any]], day: int) -> tuple[str, int]:
    assert TERMS.tiers is not None
    joined_on = TERMS.calendar.day(cdnow.OPENED)
    facet = happened(entries, TERMS.tiers, TERMS.calendar, at(day), joined_on=joined_on)
    found = standing(facet, TERMS.tiers, TERMS.calendar, at(day), joined_on=joined_on, state=State())
    return found.level, found.value


@settings(deadline=None)
@given(histories, st.integers(0, 250))
def test_facts_count_from_the_day_on_which_they_happened(history: list[Told], day: int) -> None:
    assert place(chain(history, punctual=False), day) == place(chain(history, punctual=True), day)


@settings(deadline=None)
@given(histories, st.integers(0, 250))
def test_what_was_told_at_once_is_the_tier_as_it_was(history: list[Told], day: int) -> None:
    assert TERMS.tiers is not None
    entries = chain(history, punctual=True)
    known = [entry for entry in entries if entry["recorded_at"] <= at(day)]
    facet = known[-1]["state"]["facets"]["tier"] if known else None
    joined_on = TERMS.calendar.day(cdnow.OPENED)
    then = standing(facet, TERMS.tiers, TERMS.calendar, at(day), joined_on=joined_on, state=State())
    assert place(entries, day) == (then.level, then.value)


def test_a_late_purchase_lifts_the_level_of_its_day() -> None:
    """Case 3.20: 300 dollars of day 10 that were told on day 30."""
    entries = chain([Told(5, 20, 0, None), Told(10, 300, 20, None)], punctual=False)
    assert place(entries, 9) == ("base", 2_000)
    assert place(entries, 11) == ("gold", 32_000)
    assert place(entries[:1], 11) == ("base", 2_000)
