"""Two members who turn out to be one person: one goes on with the points of both, the other one's chain is closed.

Both chains keep all that they hold. A linked pair of entries moves what is open: lots with the instants at which they
activate and expire, debts, what was counted for caps, limits and the tier, refunds that wait for their purchase. The
identities follow in the same transaction, so that from one instant on everything that meant one member means the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pymongo.client_session import ClientSession

from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import entry_id, entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, Problem, Unavailable
from loyalty.infra.services import Services
from loyalty.ledger.entry import SEQUENCE_BITS, Draft, business_key, request_digest
from loyalty.ledger.heads import read_by_key, read_entry
from loyalty.ledger.movements import debit
from loyalty.ledger.state import DEFICIT, Posting, State, fold
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.points import acts
from loyalty.points import terms as terms_service
from loyalty.points.acts import CLOSED, Act, Decide, MergedMeanwhile, Refused
from loyalty.points.terms import Terms
from loyalty.programs.model import Program
from loyalty.rules import caps
from loyalty.tiers import engine as tiers
from loyalty.tiers.engine import Transition
from loyalty.transfers.model import OpenHolds
from loyalty.transfers.service import find_two, receive

_MOST_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge: the last entry of the chain that is closed, and the one in the chain that goes on."""

    closed: Document
    received: Document
    replayed: bool


def merge(services: Services, program: Program, *, source: str, into: str, key: tuple[str, ...], by: str) -> Merged:
    """Merge the member behind `source` into the one behind `into`. `key` makes it happen once; `by` is who asks.

    NotFound, SameMember, OpenHolds, TooManyIdentities, SpendingFrozen.
    """
    name = business_key(program.id, *key)
    request = request_digest({"merge": source, "into": into})
    for _ in range(_MOST_ROUNDS):
        before = _done_before(services.db, name, request)
        if before is not None:
            return before
        gone, stays = find_two(services.db, program.id, source, into)
        try:
            return _merge(services, terms_service.current(services.db, program.id), gone, stays, name, request, by)
        except (PreconditionFailed, MergedMeanwhile):
            continue  # one of the members has changed since it was read
    raise Unavailable("The members change faster than they can be merged. Send the request again.")


def _done_before(db: Mongo, name: bytes, request: bytes) -> Merged | None:
    """What the key has done before; the references may mean one member by now. IdempotencyConflict."""
    closed = read_by_key(db.ledger, name)
    if closed is None:
        return None
    if closed["kind"] != "merge" or bytes(closed["evidence"]["request"]) != request:
        raise _reused()
    (other,) = closed["evidence"]["with"]
    received = read_entry(db.ledger, entry_number(other) or 0)
    if received is None:
        raise Unavailable(f"The other side of {entry_id(closed['_id'])} is missing: verify the ledger.")
    return Merged(closed, received, replayed=True)


def _merge(
    services: Services, terms: Terms, gone: Member, stays: Member, name: bytes, request: bytes, by: str
) -> Merged:
    left: list[State] = []
    given: list[Posting] = []

    def close(_: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            left[:] = [state]
            given[:] = _everything(gone, state)
            facets: dict[str, Document | None] = dict.fromkeys(state.facets)
            facets[CLOSED] = {"into": stays.id}
            lapses = {wallet: None for wallet, have in state.wallets.items() if have.lapses_at is not None}
            return Draft("merge", now, list(given), {"merge": {"into": stays.id}, "by": by}, facets, lapses)

        return draft

    def go_on(_: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            (theirs,) = left
            postings = receive(state, [posting for posting in given if posting.source != "transferred"], sequence)
            after = fold(state, postings)
            for posting in given:
                if posting.source == "transferred":  # a debt
                    owed = debit(after, posting.wallet, posting.points, target="transferred", owing=True)
                    after = fold(after, owed)
                    postings += owed
            evidence: Document = {"merge": {"from": gone.id}, "by": by}
            facets, moves = _facets(terms, stays, gone, State(after.wallets, state.facets), theirs, now)
            if moves:
                evidence["tier"] = [move.document() for move in moves]
            return Draft("merge", now, postings, evidence, facets, _lapses(state, theirs))

        return draft

    def alias(session: ClientSession) -> None:
        try:
            members.absorb(services.db, gone, stays, now=services.clock(), session=session)
        except Problem as problem:
            raise Refused(problem) from None

    received_name = business_key(terms.program.id, "received", name.hex())
    closed, received = acts.perform_jointly(
        services.db,
        [
            Act(terms.program, gone.id, ((name, _reused()),), request, close, minds_tier=True),
            Act(terms.program, stays.id, ((received_name, _reused()),), request, go_on, minds_tier=True),
        ],
        clock=services.clock,
        also=alias,
    )
    return Merged(closed.entry, received.entry, closed.replayed)


def _reused() -> IdempotencyConflict:
    return IdempotencyConflict("The Idempotency-Key was used with another request.")


def _everything(gone: Member, state: State) -> list[Posting]:
    """What closes the chain: all open lots leave, and debts are paid from outside. Refused while points are held."""
    held = [hold.id for wallet in state.wallets.values() for hold in wallet.holds]
    if held:
        names = [entry_id(gone.number << SEQUENCE_BITS | number) for number in sorted(held)]
        raise Refused(
            OpenHolds(f"Points are set aside in {', '.join(names)}. Capture or void that first.", holds=names)
        )
    postings = []
    for name, wallet in state.wallets.items():
        postings += [
            Posting(
                name,
                "available" if lot.activates_at is None else "pending",
                "transferred",
                lot.points,
                lot.id,
                activates_at=lot.activates_at,
                expires_at=lot.expires_at,
            )
            for lot in wallet.lots
        ]
        if wallet.deficit:
            postings.append(Posting(name, "transferred", "available", wallet.deficit, DEFICIT))
    return postings


def _facets(
    terms: Terms, stays: Member, gone: Member, after: State, theirs: State, now: datetime
) -> tuple[dict[str, Document | None], list[Transition]]:
    """What features keep of the member who goes on, who is now both."""
    ours = after.facets
    facets: dict[str, Document | None] = {}
    moves: list[Transition] = []
    for name, facet in theirs.facets.items():
        if name == tiers.FACET:
            continue
        facets[name] = _COMBINED[name](ours[name], facet) if name in ours else facet
    if terms.tiers is not None:
        joined = [terms.calendar.day(member.created_at) for member in (stays, gone)]
        facets[tiers.FACET], moves = tiers.merge(
            ours.get(tiers.FACET),
            theirs.facets.get(tiers.FACET),
            terms.tiers,
            terms.calendar,
            now,
            joined_on=joined[0],
            others_joined_on=joined[1],
            state=after,
        )
    return facets, moves


def _lapses(state: State, theirs: State) -> dict[str, datetime | None]:
    """Both were active: a wallet lapses after whoever was so last."""
    return {
        name: max(wallet.lapses_at, state.wallet(name).lapses_at or wallet.lapses_at)
        for name, wallet in theirs.wallets.items()
        if wallet.lapses_at is not None
    }


def _counted_together(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Document:
    """The sums of two facets `counters`."""
    counters: Document = {key: dict(periods) for key, periods in ours.items()}
    for key, periods in theirs.items():
        both = counters.setdefault(key, {})
        for period, value in periods.items():
            both[period] = both.get(period, 0) + value
        for period in sorted(both)[: -caps.KEPT]:
            del both[period]
    return counters


def _waiting_together(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Document:
    return {"waiting": [*ours["waiting"], *theirs["waiting"]]}


def _had_together(ours: Mapping[str, int], theirs: Mapping[str, int]) -> Document:
    return {reward: ours.get(reward, 0) + theirs.get(reward, 0) for reward in {**ours, **theirs}}


_COMBINED: Final = {
    caps.FACET: _counted_together,
    "parked": _waiting_together,
    "redemptions": _had_together,
}
"""How the facets of two members become those of one."""
