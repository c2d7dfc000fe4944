"""What time alone has done to a member by an instant: to points, and to the tier. A pure function.

The job that writes such changes down, and every read that cannot wait for it, go by the same functions; so an answer
does not depend on the job having run. At one instant things happen in the order of a program's midnight: points
activate, tiers that count what was earned are reviewed, points expire, holds time out, and tiers that look at a balance
come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from loyalty.ledger.movements import due_steps, lapsed
from loyalty.ledger.state import Document, Posting, State, fold, with_facets, with_lapses
from loyalty.programs.calendar import Calendar
from loyalty.tiers import engine as tiers
from loyalty.tiers.engine import Scheme, Transition

_ACTIVATE, _TIER, _EXPIRE, _BALANCE_TIER = range(4)
_WHAT: Final = {("pending", "available"): ("activate", _ACTIVATE), ("held", "available"): ("release", _EXPIRE)}


@dataclass(frozen=True, slots=True)
class Tiering:
    """What a member's tier is reviewed by. `joined_on` is the local day on which the member joined."""

    scheme: Scheme
    calendar: Calendar
    joined_on: date


@dataclass(frozen=True, slots=True)
class Settled:
    """The state as time has made it.

    `happened` says what and when, in order; `facets` are those that changed, `transitions` the changes of the tier.
    `since` is the first instant at which anything was due, None where nothing was.
    """

    state: State
    since: datetime | None
    happened: tuple[Document, ...]
    facets: Mapping[str, Document]
    transitions: tuple[Transition, ...]


def settle(state: State, now: datetime, tiering: Tiering | None = None) -> Settled:
    """The member's state at `now`, if nobody does anything until then; the tier stays as it is without `tiering`."""
    steps = due_steps(state, now)
    over = lapsed(state, now)
    instants = [instant for instant, _ in steps]
    instants += [instant for name in over if (instant := state.wallet(name).lapses_at) is not None]
    happened = [movement for instant, postings in steps for movement in _movements(instant, postings)]
    settled = with_lapses(fold(state, [posting for _, postings in steps for posting in postings]), over)
    facets: dict[str, Document] = {}
    transitions: list[Transition] = []
    before = state.facets.get(tiers.FACET)
    if tiering is not None and before is not None:
        due_at = before.get("due_at")
        scheme, calendar = tiering.scheme, tiering.calendar
        after, transitions = tiers.settle(before, scheme, calendar, now, joined_on=tiering.joined_on, state=settled)
        if after != before:
            facets[tiers.FACET] = after
            if due_at is not None and due_at <= now:
                instants.append(due_at)
        rank = _BALANCE_TIER if scheme.looks_at_balance else _TIER
        happened += [((change.at, rank), _transition(change)) for change in transitions]
    happened.sort(key=lambda found: found[0])
    return Settled(
        with_facets(settled, facets),
        min(instants, default=None),
        tuple([document for _, document in happened]),
        facets,
        tuple(transitions),
    )


def _movements(instant: datetime, postings: list[Posting]) -> list[tuple[tuple[datetime, int], Document]]:
    """What happened to the points of each wallet at the instant, in order; the lots are in the entry's postings."""
    moved: dict[tuple[str, int, str], int] = {}
    for posting in postings:
        what, rank = _WHAT.get((posting.source, posting.target), ("expire", _EXPIRE))
        key = (what, rank, posting.wallet)
        moved[key] = moved.get(key, 0) + posting.points
    return [
        ((instant, rank), {"at": instant, "what": what, "wallet": wallet, "points": points})
        for (what, rank, wallet), points in moved.items()
    ]


def _transition(change: Transition) -> Document:
    return {"at": change.at, "what": "tier", "from": change.before, "to": change.after}
