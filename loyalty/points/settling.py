"""What time alone has done to a member by an instant. A pure function.

The job that writes such changes down, and every read that cannot wait for it, go by the same function; so an answer
does not depend on the job having run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from loyalty.ledger.movements import due_steps, lapsed
from loyalty.ledger.state import Document, Posting, State, fold, with_lapses

_WHAT: Final = {("pending", "available"): "activate", ("held", "available"): "release"}


@dataclass(frozen=True, slots=True)
class Settled:
    """The state as time has made it. `happened` says what and when, in order.

    `since` is the first instant at which anything was due, None where nothing was.
    """

    state: State
    since: datetime | None
    happened: tuple[Document, ...]


def settle(state: State, now: datetime) -> Settled:
    """The member's state at `now`, if nobody does anything until then."""
    steps = due_steps(state, now)
    over = lapsed(state, now)
    instants = [instant for instant, _ in steps]
    instants += [instant for name in over if (instant := state.wallet(name).lapses_at) is not None]
    settled = with_lapses(fold(state, [posting for _, postings in steps for posting in postings]), over)
    happened = [movement for instant, postings in steps for movement in _movements(instant, postings)]
    return Settled(settled, min(instants, default=None), tuple(happened))


def _movements(instant: datetime, postings: list[Posting]) -> list[Document]:
    """What happened to the points of each wallet at the instant, in order; the lots are in the entry's postings."""
    moved: dict[tuple[str, str], int] = {}
    for posting in postings:
        what = _WHAT.get((posting.source, posting.target), "expire")
        moved[what, posting.wallet] = moved.get((what, posting.wallet), 0) + posting.points
    return [
        {"at": instant, "what": what, "wallet": wallet, "points": points} for (what, wallet), points in moved.items()
    ]
