"""Forgetting a person.

What is open is forfeited by a last entry, which closes the chain, and in the same transaction everything that tells who
the member was is removed: names, identities, attributes, and the answers that are kept for repetitions. The chain
stays, verifies, and belongs to a number. Digests of the identities stay too, so that nobody comes back by accident when
an old list or a late event names them.
"""

from __future__ import annotations

from datetime import datetime

from pymongo.client_session import ClientSession

from loyalty.infra.http import idempotency
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.problems import IdempotencyConflict, NotFound, Problem, Unavailable
from loyalty.infra.services import Services
from loyalty.ledger.entry import SEQUENCE_BITS, Draft, business_key, request_digest
from loyalty.ledger.movements import forfeit
from loyalty.ledger.state import Document, Posting, State, fold
from loyalty.members import service as members
from loyalty.members.model import Member, MemberErased
from loyalty.points import acts
from loyalty.points.acts import ERASED, Act, Decide, Done, Refused
from loyalty.programs.model import Program
from loyalty.transfers.model import OpenHolds

_MOST_ROUNDS = 10


def erase(services: Services, program: Program, member: str, *, key: tuple[str, ...], by: str) -> Done:
    """Forget who the member is. `key` makes it happen once; `by` is who asks. NotFound, OpenHolds, MemberErased."""
    name = business_key(program.id, *key)
    reused = IdempotencyConflict("The Idempotency-Key was used with another request.")
    instant: list[datetime] = []

    def decide(found: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            instant[:] = [now]
            postings = _everything(found, state, sequence)
            facets: dict[str, Document | None] = dict.fromkeys(state.facets)
            facets[ERASED] = {"at": now}
            lapses = {wallet: None for wallet, have in state.wallets.items() if have.lapses_at is not None}
            return Draft("erase", now, postings, {"by": by}, facets, lapses)

        return draft

    request = request_digest({"erase": business_key(program.id, "erased", member)})
    act = Act(program, member, ((name, reused),), request, decide, minds_tier=True)
    for _ in range(_MOST_ROUNDS):
        before = acts.done_before(services.db, act)
        if before is not None:
            return before
        person = members.resolve(services.db, program.id, [member]).get(member)
        if person is None:
            raise NotFound(f"There is no member {member}.")

        def forget(session: ClientSession, person: Member = person) -> None:
            try:
                members.forget(services.db, person, now=instant[0], session=session)
            except Problem as problem:
                raise Refused(problem) from None
            idempotency.forget(
                services.db,
                program=program.id,
                names=[*map(member_id, (person.number, *person.absorbed)), *person.handles],
                refusal=MemberErased("Nobody stands behind the member of this answer any more."),
                session=session,
            )

        try:
            (done,) = acts.perform_jointly(services.db, [act], clock=services.clock, also=forget)
        except PreconditionFailed:
            continue  # the member has changed since it was read
        return done
    raise Unavailable("The member changes faster than it can be erased. Send the request again.")


def _everything(member: Member, state: State, sequence: int) -> list[Posting]:
    """What is open is gone. Refused while points are held."""
    held = [hold.id for wallet in state.wallets.values() for hold in wallet.holds]
    if held:
        names = [entry_id(member.number << SEQUENCE_BITS | number) for number in sorted(held)]
        raise Refused(
            OpenHolds(f"Points are set aside in {', '.join(names)}. Capture or void that first.", holds=names)
        )
    postings: list[Posting] = []
    for wallet in state.wallets:
        forfeited = forfeit(state, wallet, sequence=sequence)
        state = fold(state, forfeited)
        postings += forfeited
    return postings
