"""Recording events: from what a source tells to an entry of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from pymongo.client_session import ClientSession

from loyalty.events import engine
from loyalty.events.engine import TooManyWait
from loyalty.events.fact import Fact
from loyalty.events.model import (
    NotRefundable,
    OfAnotherMember,
    Overtaken,
    RefundExceedsPurchase,
    TooManyParked,
)
from loyalty.events.reading import parse, read
from loyalty.events.references import Found, Reference, event_key, find, ordinal_key
from loyalty.events.refunds import Exceeds, Purchase
from loyalty.infra import money
from loyalty.infra.clock import Clock
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound, Problem
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft
from loyalty.ledger.state import State
from loyalty.members.model import Member
from loyalty.points import acts
from loyalty.points import service as points
from loyalty.points.acts import Act, Decide, Done, Refused
from loyalty.points.model import EventConflict, MemberBlocked
from loyalty.points.terms import Terms
from loyalty.rules import budgets
from loyalty.rules.engine import POINTS_PAYMENT

_ROUND: Final = 500
"""So many events of a batch are in memory at once."""

_MOST_ROUNDS: Final = 50
"""How often a refund is decided again that others were faster than."""


class _DrawsOnBudget(Problem):
    """The award draws on a campaign's budget: it has to be recorded in one transaction with it. Never answered."""

    code = "draws_on_budget"
    status = 500
    title = "The award draws on a budget"


class _Draw:
    """The budgets that one award is decided by, and what it draws of them."""

    def __init__(self, db: Mongo, terms: Terms) -> None:
        self._db = db
        self._program = terms.program.id
        self._budgets = terms.budgets
        self.left = budgets.left(db, self._program, self._budgets)
        self.drawn: Mapping[str, int] = {}

    def count(self, session: ClientSession) -> None:
        """Count what is drawn, in the transaction that stores the award. Refused, if others were faster."""
        if not budgets.draw(self._db, self._program, self.drawn, self._budgets, session):
            raise Refused(_overtaken())


def record(services: Services, terms: Terms, fact: Fact, *, client_key: bytes | None = None) -> Done:
    """Record one event together with those of concurrent requests. `client_key` is that of an Idempotency-Key.

    Raises Problem.
    """
    try:
        if fact.refers_to is None:
            return acts.perform_together(services, _act(terms, fact, client_key, None))
        for _ in range(_MOST_ROUNDS):
            try:
                return acts.perform_together(services, _follow_up(services.db, terms, fact, client_key))
            except Overtaken:
                continue
    except _DrawsOnBudget:
        return _record_with_budget(services.db, terms, fact, client_key, services.clock)
    raise _overtaken()


def _record_with_budget(db: Mongo, terms: Terms, fact: Fact, client_key: bytes | None, clock: Clock) -> Done:
    """Record an event in one transaction with the budgets that its award draws on. Raises Problem."""
    budgets.prepare(db, terms.program.id, terms.budgets)
    for _ in range(_MOST_ROUNDS):
        draw = _Draw(db, terms)
        try:
            (done,) = acts.perform_jointly(
                db, [_any_act(db, terms, fact, client_key, draw)], clock=clock, also=draw.count
            )
        except Overtaken:
            continue
        return done
    raise _overtaken()


def rehearse(db: Mongo, terms: Terms, fact: Fact, *, clock: Clock, client_key: bytes | None = None) -> Done:
    """What recording the event would do, by the very same functions, without doing it. Raises Problem."""
    draw = _Draw(db, terms) if terms.budgets else None
    return acts.rehearse(db, _any_act(db, terms, fact, client_key, draw), clock=clock)


def _any_act(db: Mongo, terms: Terms, fact: Fact, client_key: bytes | None, draw: _Draw | None) -> Act:
    if fact.refers_to is None:
        return _act(terms, fact, client_key, None, draw=draw)
    return _follow_up(db, terms, fact, client_key, draw)


def record_values(
    db: Mongo, terms: Terms, values: Sequence[bytes | memoryview], *, clock: Clock
) -> Iterator[Done | Problem]:
    """Record a batch of events in JSON, one result each, in order. What is no event is a refusal in its place.

    They are recorded in rounds, each when the results of the one before have been taken, so that the entries of a large
    batch are never in memory together.
    """
    now = clock()
    for start in range(0, len(values), _ROUND):
        results: dict[int, Done | Problem] = {}
        facts: dict[int, Fact] = {}
        for place, value in enumerate(values[start : start + _ROUND]):
            try:
                facts[place] = read(parse(value), terms.program, now=now)
            except Problem as problem:
                results[place] = problem
        for wave in _waves(facts):
            results.update(_record_wave(db, terms, wave, clock))
        for place in range(len(results)):
            yield results[place]


def _waves(facts: Mapping[int, Fact]) -> Iterable[dict[int, Fact]]:
    """The facts in groups to be recorded one after the other: nobody's event comes before one that the batch has before
    it, and an event that refers to another one comes in a later group."""
    waves: dict[int, dict[int, Fact]] = {}
    members: dict[str, int] = {}
    told: dict[Reference, int] = {}
    for place, fact in facts.items():
        member = fact.event.member.reference()
        number = members.get(member, 0)
        if fact.refers_to is not None:
            number = max(number, told.get(fact.refers_to, 0)) + 1
        members[member] = told[fact.event.source, fact.event.id] = number
        waves.setdefault(number, {})[place] = fact
    return [waves[number] for number in sorted(waves)]


def _record_wave(db: Mongo, terms: Terms, facts: Mapping[int, Fact], clock: Clock) -> dict[int, Done | Problem]:
    """Record facts of one wave, again while others are faster about the same purchase."""
    results: dict[int, Done | Problem] = {}
    waiting = dict(facts)
    for _ in range(_MOST_ROUNDS):
        references = [fact.refers_to for fact in waiting.values() if fact.refers_to is not None]
        known = find(db, terms.program.id, references)
        prepared: dict[int, Act] = {}
        for place, fact in waiting.items():
            found = None if fact.refers_to is None else known.get(fact.refers_to)
            try:
                prepared[place] = (
                    _follow_up(db, terms, fact, None)
                    if found is None and _can_wait(terms, fact)
                    else _act(terms, fact, None, found)
                )
            except Problem as problem:
                results[place] = problem
        results.update(zip(prepared, acts.perform(db, list(prepared.values()), clock=clock), strict=True))
        for place in prepared:
            if isinstance(results[place], _DrawsOnBudget):
                results[place] = _outcome(db, terms, waiting[place], clock)
        waiting = {place: fact for place, fact in waiting.items() if isinstance(results[place], Overtaken)}
        if not waiting:
            break
    return results


def _outcome(db: Mongo, terms: Terms, fact: Fact, clock: Clock) -> Done | Problem:
    try:
        return _record_with_budget(db, terms, fact, None, clock)
    except Problem as problem:
        return problem


def _follow_up(db: Mongo, terms: Terms, fact: Fact, client_key: bytes | None, draw: _Draw | None = None) -> Act:
    """The act of an event that refers to another one. NotFound, if nobody is known to whom a refund could belong."""
    reference = fact.refers_to
    if reference is None:
        raise ValueError("the event refers to no other")
    found = find(db, terms.program.id, [reference]).get(reference)
    if found is None and _can_wait(terms, fact):
        # Before it waits the chain is looked at, and then once more for the purchase: either that is found now, or
        # it is not in the chain yet, and the draft is decided on this very end of it.
        try:
            _, head = points.find_with_head(db, terms.program.id, fact.event.member.reference())
        except NotFound:
            sequence = 0
        else:
            sequence = head.sequence
        found = find(db, terms.program.id, [reference]).get(reference)
        if found is None:
            return _act(terms, fact, client_key, None, after=sequence, draw=draw)
    return _act(terms, fact, client_key, found, draw=draw)


def _can_wait(terms: Terms, fact: Fact) -> bool:
    """Whether the event means something for one that is not known yet."""
    return fact.refers_to is not None and (fact.is_refund or terms.awaits(fact.event.type))


def _act(
    terms: Terms,
    fact: Fact,
    client_key: bytes | None,
    found: Found | None,
    *,
    after: int | None = None,
    draw: _Draw | None = None,
) -> Act:
    """The act that records `fact`. `found` is the event that it refers to, where that is known; otherwise it waits for
    that one, if the chain has not grown past `after`. Without a `draw`, an award that draws on a budget is refused."""
    event, program = fact.event, terms.program
    keys: tuple[tuple[bytes, Problem], ...] = (
        (
            event_key(program.id, (event.source, event.id)),
            EventConflict(f"Event {event.source} {event.id} was recorded before with another content."),
        ),
    )
    if client_key is not None:
        keys = (*keys, (client_key, IdempotencyConflict("The Idempotency-Key was used with another event.")))
    purchase = None
    if found is not None and found.is_refundable:
        purchase = Purchase.of(found.entry, found.latest)
        if not fact.is_refund and not purchase.waiting_for(event.type):
            purchase = None
    if purchase is not None:
        key = ordinal_key(program.id, (purchase.source, purchase.id), purchase.progress.ordinal + 1)
        keys = (*keys, (key, _overtaken()))

    def decide(member: Member) -> Decide:
        if purchase is not None and not member.stands_for(purchase.member):
            raise OfAnotherMember(f"Event {event.refers_to} is not of the member {event.member.reference()}.")
        if not fact.is_refund:
            return _recording(terms, fact, member, purchase, after, draw)
        if found is None:
            return _waiting(lambda state, sequence, now: engine.park(fact, state, sequence, now), after or 0)
        if purchase is None:
            raise NotRefundable(f"Event {event.refers_to} is a {found.entry['kind']}: refund the purchase itself.")
        return _refunding(terms, fact, member, purchase)

    return Act(program, event.member.reference(), keys, fact.request, decide, enrols=True, minds_tier=True)


def _recording(
    terms: Terms, fact: Fact, member: Member, refers_to: Purchase | None, after: int | None, draw: _Draw | None
) -> Decide:
    pays = terms.policies.points_payment is not None and any(
        payment.method == POINTS_PAYMENT for payment in fact.payments
    )
    if pays and not member.may_spend:
        raise MemberBlocked(f"The member's status is {member.status}: points cannot pay.")

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        left = terms.budgets if draw is None else draw.left
        made = engine.record(
            terms, member, fact, state, sequence, now, refers_to=refers_to, waits=after is not None, budgets=left
        )
        drawn = made.evidence["award"].get("drawn", {})
        if draw is not None:
            draw.drawn = drawn
        elif drawn:
            raise Refused(_DrawsOnBudget("Record it in one transaction with the budget."))
        return made

    return draft if after is None else _waiting(draft, after)


def _waiting(decide: Decide, after: int) -> Decide:
    """The decision on an event that waits for another one, at the very end of the chain that was searched for it."""

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        if sequence != after + 1:
            raise Refused(_overtaken())
        try:
            return decide(state, sequence, now)
        except TooManyWait:
            detail = f"{engine.MOST_PARKED} events of the member wait for others that are not known."
            raise Refused(TooManyParked(detail, max_parked=engine.MOST_PARKED)) from None

    return draft


def _refunding(terms: Terms, fact: Fact, member: Member, purchase: Purchase) -> Decide:
    def draft(state: State, sequence: int, now: datetime) -> Draft:
        try:
            return engine.take_back(terms, member, fact, purchase, state, sequence, now)
        except Exceeds as left:
            amount = money.to_text(left.amount, terms.program.currency)
            raise Refused(
                RefundExceedsPurchase(
                    f"{amount} {terms.program.currency} is left of the purchase.",
                    left_amount=amount,
                    left_items=[{"line_id": line_id, "quantity": quantity} for line_id, quantity in left.items],
                )
            ) from None

    return draft


def _overtaken() -> Overtaken:
    return Overtaken("Other requests about the same purchase or budget were faster. Send the request again.")
