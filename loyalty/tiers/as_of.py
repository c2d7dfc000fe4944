"""A member's tier as it had happened by an instant, whenever it was told. A pure function.

The facts that a chain tells are counted at the instants at which they happened and in that order, by the tiers of those
instants; so a purchase that was told late counts for the level of its day. What was given is not decided anew: points
earned, money spent and what refunds took back are what the entries say. Tiers that look at a balance follow the one
that there was, instant by instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from loyalty.infra.ids import entry_id
from loyalty.infra.money import to_minor
from loyalty.ledger.as_of import Effect, views
from loyalty.ledger.state import Document, State
from loyalty.programs.calendar import Calendar
from loyalty.tiers import engine
from loyalty.tiers.engine import FACET, Scheme

FIELDS: Final = {
    "kind": 1,
    "occurred_at": 1,
    "recorded_at": 1,
    "postings": 1,
    "evidence.event.type": 1,
    "evidence.event.amount": 1,
    "evidence.award.limits": 1,
    "evidence.refund": 1,
    "evidence.refunds": 1,
    "evidence.lock": 1,
    "state.facets.tier": 1,
}
"""What of an entry this needs."""

MERGE: Final = "merge"
_NOTHING: Final = State()
_MILLISECOND: Final = timedelta(milliseconds=1)


def happened(
    entries: Iterable[Mapping[str, Any]], scheme: Scheme, calendar: Calendar, instant: datetime, *, joined_on: date
) -> Document | None:
    """The facet at `instant` by the facts of a whole chain; None where nothing had been counted.

    `scheme` is the one in force at `instant`, with those before it.
    """
    chain = sorted(entries, key=lambda entry: (_time(entry), entry["_id"]))
    purchases = {entry_id(entry["_id"]): entry for entry in chain}
    facet: Document | None = None
    for entry in chain:
        now = _time(entry)
        if now > instant:
            break
        then = _in_force(scheme, now)
        if then is None:
            continue
        evidence = entry["evidence"]
        if entry["kind"] == MERGE:  # what the other member brought, its own chain tells
            facet = entry.get("state", {}).get("facets", {}).get(FACET, facet)
        if "lock" in evidence:
            facet = _locked(facet, evidence["lock"], then, calendar, now, joined_on, _NOTHING)
        for day, counted in _facts(entry, purchases, calendar):
            facet, _ = engine.count(
                facet, then, calendar, day=day, now=now, joined_on=joined_on, state=_NOTHING, **counted
            )
    return facet


def followed(
    movements: Iterable[Effect],
    entries: Iterable[Mapping[str, Any]],
    scheme: Scheme,
    calendar: Calendar,
    instant: datetime,
    *,
    joined_on: date,
) -> tuple[Document | None, State]:
    """The facet at `instant` by a balance, and the wallets then.

    `movements` are those that had happened by then, in their order (see `ledger.as_of`), and `entries` the whole chain,
    of which locks and merges count, and the facts of the versions before the first one that looks at a balance.
    """
    chain = list(entries)
    first = scheme
    while first.previous is not None and first.previous.looks_at_balance:
        first = first.previous
    begins = first.published_at
    facet: Document | None = None
    if first.previous is not None:
        facet = happened(chain, first.previous, calendar, begins - _MILLISECOND, joined_on=joined_on)
    steps: list[tuple[datetime, int, State | Mapping[str, Any]]] = [(at, 0, state) for at, state in views(movements)]
    steps += [
        (at, entry["_id"], entry)
        for entry in chain
        if (entry["kind"] == MERGE or "lock" in entry["evidence"]) and (at := _time(entry)) <= instant
    ]
    state = _NOTHING
    for now, _, step in sorted(steps, key=lambda step: step[:2]):
        if isinstance(step, State):
            state = step
        then = _in_force(scheme, now)
        if then is None or now < begins:
            continue
        if not isinstance(step, State):
            if step["kind"] == MERGE:
                facet = step.get("state", {}).get("facets", {}).get(FACET, facet)
            else:
                facet = _locked(facet, step["evidence"]["lock"], then, calendar, now, joined_on, state)
        facet, _ = engine.settle(facet, then, calendar, now, joined_on=joined_on, state=state)
    return facet, state


def _time(entry: Mapping[str, Any]) -> datetime:
    """When it happened; nothing happens after it was told."""
    occurred_at: datetime = entry["occurred_at"]
    return min(occurred_at, entry["recorded_at"])


def _in_force(scheme: Scheme | None, now: datetime) -> Scheme | None:
    while scheme is not None and scheme.published_at > now:
        scheme = scheme.previous
    return scheme


def _locked(
    facet: Document | None,
    level: str | None,
    scheme: Scheme,
    calendar: Calendar,
    now: datetime,
    joined_on: date,
    state: State,
) -> Document:
    if level is not None and level in scheme.ranks:
        return engine.lock(facet, scheme, calendar, now, level=level, joined_on=joined_on, state=state)[0]
    return engine.release(facet, scheme, calendar, now, joined_on=joined_on, state=state)[0]


def _facts(
    entry: Mapping[str, Any], purchases: Mapping[str, Mapping[str, Any]], calendar: Calendar
) -> Iterable[tuple[date, dict[str, Any]]]:
    """What the entry counts for, each with its local day."""
    evidence = entry["evidence"]
    event, award = evidence.get("event"), evidence.get("award")
    if event is not None and award is not None and "earning_blocked" not in award.get("limits", ()):
        earned: dict[str, int] = {}
        for posting in entry["postings"]:
            if posting["from"] == "issuance":
                earned[posting["wallet"]] = earned.get(posting["wallet"], 0) + posting["points"]
        spend = event.get("amount", 0) if event["type"] == "purchase" else 0
        visits = int(event["type"] == "visit")
        yield calendar.day(entry["occurred_at"]), {"earned": earned, "spend": spend, "visits": visits}
    refunds = [evidence["refund"]] if "refund" in evidence else evidence.get("refunds", ())
    for refund in refunds:
        purchase = purchases.get(refund["of"]["entry"])
        if purchase is None:
            continue
        taken: dict[str, int] = {}
        for credit in refund["credits"]:
            taken[credit["wallet"]] = taken.get(credit["wallet"], 0) - credit["points"]
        bought = purchase["evidence"]["event"]["type"] == "purchase"
        spend = -to_minor(refund["amount"], refund["currency"]) if bought and "amount" in refund else 0
        yield calendar.day(purchase["occurred_at"]), {"earned": taken, "spend": spend, "visits": 0}
