"""Making points available that wait for a person, or for an event that will not be told."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from loyalty.events import refunds
from loyalty.events.model import NothingWaits, Overtaken
from loyalty.events.references import find, ordinal_key
from loyalty.events.refunds import Purchase
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, Problem, Unavailable
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft, business_key, member_of, request_digest
from loyalty.ledger.state import SOMEDAY, State
from loyalty.members.model import Member
from loyalty.points import acts
from loyalty.points import service as points
from loyalty.points.acts import Act, Decide, Done
from loyalty.points.terms import Terms

_MOST_ROUNDS: Final = 50


def activate(services: Services, terms: Terms, entry: str, *, key: tuple[str, ...], by: str) -> Done:
    """Make available what of an award still waits for an event or a person. Its time begins to run now.

    `key` makes it happen once; `by` is who asks. NotFound, NothingWaits.
    """
    awarded = points.entry(services.db, terms.program.id, entry)
    for _ in range(_MOST_ROUNDS):
        try:
            return acts.perform_together(services, _act(services.db, terms, awarded, key, by))
        except Overtaken:
            continue  # a refund or an event about the same purchase was faster
    raise Unavailable("Too many refunds of the same purchase at once. Send the request again.")


def _act(db: Mongo, terms: Terms, awarded: Document, key: tuple[str, ...], by: str) -> Act:
    program, name = terms.program, entry_id(awarded["_id"])
    event: Document = awarded["evidence"].get("event", {})
    keys: list[tuple[bytes, Problem]] = [
        (business_key(program.id, *key), IdempotencyConflict("The Idempotency-Key was used with another request."))
    ]
    purchase = None
    if "award" in awarded["evidence"]:
        reference = (event["source"], event["id"])
        found = find(db, program.id, [reference])[reference]
        purchase = Purchase.of(found.entry, found.latest)
        again = Overtaken("Another entry about the same purchase was faster.")
        keys.append((ordinal_key(program.id, reference, purchase.progress.ordinal + 1), again))

    def decide(_: Member) -> Decide:
        places = [] if purchase is None else _waiting(purchase)
        if purchase is None or not places:
            raise NothingWaits(f"No points of {name} wait for an event or a person.")

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            effect = refunds.activate(
                purchase, places, calendar=terms.calendar, active_at=now, state=state, sequence=sequence, now=now
            )
            evidence = {"activated": {**effect.evidence, "refunded": effect.progress.document()}, "by": by}
            return Draft("activate", now, effect.postings, evidence)

        return draft

    # With the key in it: an activation by another request is a second one, not a repetition.
    request = request_digest({"activate": name, "key": list(key)})
    return Act(program, member_id(member_of(awarded["_id"])), tuple(keys), request, decide)


def _waiting(purchase: Purchase) -> list[int]:
    """The places of the awards that wait until somebody makes them available."""
    return [place for place, credit in enumerate(purchase.credits) if credit.activates_at == SOMEDAY]
