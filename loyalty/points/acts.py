"""Acts: what changes a member's points, whoever asks for it.

An act names a member and says what should happen once that member's state is known. However it came in (one request,
a line of a batch, another feature), it goes the same way: all members of a round are looked up together with the ends
of their chains in one command, unknown customers are enrolled together, and all entries are appended together. So one
request needs two commands to the database, and a thousand need few more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from pymongo.client_session import ClientSession

from loyalty.infra.clock import Clock
from loyalty.infra.elections import as_of_now
from loyalty.infra.group_commit import GroupCommit
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.patience import attempt, persistently
from loyalty.infra.problems import IdempotencyConflict, NotFound, Problem, Unavailable
from loyalty.infra.services import Services
from loyalty.ledger import append as ledger
from loyalty.ledger.append import Contention, Operation, Outcome
from loyalty.ledger.entry import Draft, Head
from loyalty.ledger.heads import head_lookup, head_of, read_heads
from loyalty.ledger.state import HoldNotOpen, HoldTooSmall, InsufficientPoints, Refusal, State, fold, with_lapses
from loyalty.members import service as members
from loyalty.members.model import Member, MemberErased, SpendingFrozen
from loyalty.points import model
from loyalty.points.settling import Tiering
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.tiers import engine as tiers
from loyalty.tiers import service as tier_versions
from loyalty.tiers.engine import Scheme

_WORTH_READING_APART = 16
"""From so many members on, finding them and reading their chains' ends is cheaper in two steps than in one."""

_WORTH_LOOKING_FIRST = 100
"""A long batch may be a repetition after a lost answer: one question tells, and spares making entries in vain."""

_SPENDING = frozenset({"spent", "held", "transferred"})

CLOSED: Final = "merged"
"""The facet that closes a chain: its member was merged into another one."""

ERASED: Final = "erased"
"""The facet that closes a chain: nobody stands behind its member any more."""

Decide = Callable[[State, int, datetime], Draft]


class Refused(Refusal):
    """What a feature's act may not do in the state that it finds: `problem` is the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class MergedMeanwhile(Unavailable):
    """The member was merged into another one after it was looked up. Nothing happened; again, it is the other one."""

    code = "merged_meanwhile"
    title = "The member was merged into another one just now"


@dataclass(frozen=True, slots=True)
class Act:
    """One business act.

    `member` is a reference as in a path (`mem_…`, `ext:…`, `card:…`); `enrols` lets an unknown one in, where the
    program wants that. Each of `keys` makes the act happen once and comes with the problem to answer when it was used
    before with another request. `decide` gets the member and returns the decision on its state; it may raise a Problem.
    One that `minds_tier` has the tier right itself; after the others it is reviewed here.
    """

    program: Program
    member: str
    keys: tuple[tuple[bytes, Problem], ...]
    request: bytes
    decide: Callable[[Member], Decide]
    enrols: bool = False
    minds_tier: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The entry that an act made now, or had made before (`replayed`)."""

    entry: Document
    replayed: bool


def perform(db: Mongo, acts: Sequence[Act], *, clock: Clock) -> list[Done | Problem]:
    """Do each act or find out why not, in order.

    An exception of the driver leaves open what was done; the same acts may then be performed again.
    """
    results = _perform(db, acts, clock)
    moved = [place for place, result in enumerate(results) if isinstance(result, MergedMeanwhile)]
    if moved:
        for place, result in zip(moved, _perform(db, [acts[place] for place in moved], clock), strict=True):
            results[place] = result
    return results


def _perform(db: Mongo, acts: Sequence[Act], clock: Clock) -> list[Done | Problem]:
    """One round of `perform`, by whom the references mean at its beginning."""
    results: list[Done | Problem | None] = [None] * len(acts)
    if len(acts) >= _WORTH_LOOKING_FIRST:
        for place, outcome in ledger.find_done(
            db.ledger, {place: _asked(act) for place, act in enumerate(acts)}
        ).items():
            results[place] = _result(acts[place], outcome)
    found = _find_members(db, [act for act, result in zip(acts, results, strict=True) if result is None], clock)
    heads: dict[int, Head] = {}
    operations: list[Operation] = []
    places: list[int] = []
    refused: dict[int, Problem] = {}
    tierings = _Tierings(db)
    for place, act in enumerate(acts):
        if results[place] is not None:
            continue
        known = found.get((act.program.id, act.member))
        try:
            operation = _operation(act, known, tierings)
        except Problem as problem:
            refused[place] = problem
            continue
        if known is not None:
            heads[operation.member] = known[1]
        operations.append(operation)
        places.append(place)
    if refused:  # unless the act was done before, when nothing spoke against it yet
        done = ledger.find_done(db.ledger, {place: _asked(acts[place]) for place in refused})
        for place, refusal in refused.items():
            results[place] = _result(acts[place], done[place]) if place in done else refusal
    try:
        outcomes = ledger.append(db.ledger, operations, clock=clock, heads=heads)
    except Contention:
        raise Unavailable("Too many writers want the same members. Send the request again.") from None
    for place, outcome in zip(places, outcomes, strict=True):
        results[place] = _result(acts[place], outcome)
    return [result for result in results if result is not None]


def perform_together(services: Services, act: Act) -> Done:
    """Do one act in the same round as those of concurrent requests of this process. Raises Problem.

    While the database fails over it is done again: its keys make it happen once.
    """

    def do(acts: Sequence[Act]) -> list[Done | Problem]:
        with attempt():
            return perform(services.db, acts, clock=services.clock)

    committer = services.shared("points.acts", lambda: GroupCommit(do))
    result = persistently(lambda: committer.submit(act))
    if isinstance(result, Problem):
        raise result
    return result


def perform_jointly(
    db: Mongo, acts: Sequence[Act], *, clock: Clock, also: Callable[[ClientSession], None] = lambda session: None
) -> list[Done]:
    """Do all of the acts or none, in one transaction, in which `also` may write other documents. Raises Problem.

    `also` raises Refused for what forbids the acts. They are decided in order, so that a later one can build on what an
    earlier one has decided. An exception of the driver leaves open whether they were done. While the database fails
    over they are done again: their keys make them happen once.
    """

    def do() -> list[Done]:
        with attempt():
            return _perform_jointly(db, acts, clock, also)

    return persistently(do)


def _perform_jointly(db: Mongo, acts: Sequence[Act], clock: Clock, also: Callable[[ClientSession], None]) -> list[Done]:
    asked = {place: _asked(act) for place, act in enumerate(acts)}
    found = _find_members(db, acts, clock)
    try:
        tierings = _Tierings(db)
        operations = [_operation(act, found.get((act.program.id, act.member)), tierings) for act in acts]
        outcomes = ledger.append_together(db.ledger, operations, clock=clock, also=also)
    except Contention:
        raise Unavailable("Too many writers want the same members. Send the request again.") from None
    except Problem as problem:
        done = ledger.find_done(db.ledger, asked)
        if len(done) < len(acts):
            raise problem from None
        outcomes = [done[place] for place in asked]
    results = []
    for act, outcome in zip(acts, outcomes, strict=True):
        result = _result(act, outcome)
        if isinstance(result, Problem):
            raise result
        results.append(result)
    return results


def done_before(db: Mongo, act: Act) -> Done | None:
    """What a key of the act has done already. Raises Problem if that was another request."""
    outcome = ledger.find_done(db.ledger, {0: _asked(act)}).get(0)
    if outcome is None:
        return None
    result = _result(act, outcome)
    if isinstance(result, Problem):
        raise result
    return result


def rehearse(db: Mongo, act: Act, *, clock: Clock) -> Done:
    """What `perform` would do, without doing it: the entry that would be made, or the one that was. Raises Problem."""
    known = _find_members(db, [act], clock, enrol=False).get((act.program.id, act.member))
    lets_in = act.enrols and act.program.auto_enrol
    if known is None and not (lets_in and not members.erased(db, act.program.id, [act.member])):
        raise _nobody(act)
    member, head = known or (_unknown_customer(act, clock()), Head.empty(0))
    operation = _operation(act, (member, head), _Tierings(db))
    before = done_before(db, act)
    if before is not None:
        return before
    try:
        return Done(ledger.preview(head, operation, clock()), replayed=False)
    except Refusal as refusal:
        raise _refused(refusal) from None


def _with_heads(lasting: Mongo, *, program: str, references: Sequence[str]) -> dict[str, Member]:
    return members.resolve(lasting, program, references, stages=head_lookup())


def _find_members(
    db: Mongo, acts: Sequence[Act], clock: Clock, *, enrol: bool = True
) -> dict[tuple[str, str], tuple[Member, Head]]:
    """The members that the acts name, by program and reference, each with the end of its chain."""
    found: dict[tuple[str, str], tuple[Member, Head]] = {}
    programs = {act.program.id: act.program for act in acts}
    for program in programs.values():
        own = [act for act in acts if act.program.id == program.id]
        references = list(dict.fromkeys([act.member for act in own]))
        if len(references) < _WORTH_READING_APART:
            known = as_of_now(db, "ledger", partial(_with_heads, program=program.id, references=references))
            heads = {member.number: head_of(member.number, member.found) for member in known.values()}
        else:
            known = members.resolve(db, program.id, references)
            heads = read_heads(db.ledger, {member.number for member in known.values()})
        for name, member in known.items():
            found[program.id, name] = (member, heads[member.number])
        if enrol and program.auto_enrol:
            missing = list(dict.fromkeys([act.member for act in own if act.enrols and act.member not in known]))
            missing = [name for name in missing if not name.startswith("mem_")]
            if missing:
                for name, member in members.auto_enrol(db, program.id, missing, clock()).items():
                    found[program.id, name] = (member, Head.empty(member.number))
    return found


class _Tierings:
    """What the tiers of members are reviewed by; the scheme of a program is looked up once a round."""

    def __init__(self, db: Mongo) -> None:
        self._db = db
        self._schemes: dict[str, Scheme | None] = {}

    def of(self, program: Program, member: Member, state: State) -> Tiering | None:
        """None where no tier can change: there is none, or it has counted nothing and does not look at a balance."""
        if program.id not in self._schemes:
            self._schemes[program.id] = tier_versions.current(self._db, program)
        scheme = self._schemes[program.id]
        if scheme is None or not (scheme.looks_at_balance or tiers.FACET in state.facets):
            return None
        calendar = Calendar.of(program.timezone)
        return Tiering(scheme, calendar, calendar.day(member.created_at))


def _operation(act: Act, known: tuple[Member, Head] | None, tierings: _Tierings) -> Operation:
    """The act as the ledger does it. Raises Problem for what speaks against it whatever the member's points."""
    if known is None:
        raise _nobody(act)
    member, head = known
    decide = act.decide(member)
    if not act.minds_tier:
        tiering = tierings.of(act.program, member, head.state)
        if tiering is not None:
            decide = _reviewing(decide, tiering)
    decide = _in_an_open_chain(decide)
    if member.frozen is not None:
        decide = _spending_nothing(decide, member.frozen)
    return Operation(act.program.id, member.number, *_asked(act), decide)


def _nobody(act: Act) -> NotFound:
    detail = f"There is no member {act.member}."
    if act.enrols and act.program.auto_enrol and not act.member.startswith("mem_"):
        detail += " Who was erased is not enrolled again by an event: POST /v1/members, if the person wants that."
    return NotFound(detail)


def _in_an_open_chain(decide: Decide) -> Decide:
    """`decide`, unless its member was erased, or merged into another one after it was looked up."""

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        if CLOSED in state.facets:
            raise Refused(MergedMeanwhile("The member was merged into another one just now. Send the request again."))
        if ERASED in state.facets:
            raise Refused(MemberErased("Nobody stands behind the member any more: the person was forgotten."))
        return decide(state, sequence, now)

    return draft


def _spending_nothing(decide: Decide, frozen: Document) -> Decide:
    """`decide`, for a member whose ledger is in doubt: nothing is spent, set aside or given away. Asked here, once for
    every way in which points can leave."""

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        made = decide(state, sequence, now)
        if any(posting.target in _SPENDING for posting in made.postings):
            raise Refused(
                SpendingFrozen(
                    f"The entry {frozen['entry']} does not verify. The operator looks at it, and then lets the member "
                    "spend again.",
                    entry=frozen["entry"],
                )
            )
        return made

    return draft


def _reviewing(decide: Decide, tiering: Tiering) -> Decide:
    """`decide`, and then the tier by what the member has after it: a level that depends on a balance moves with it."""

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        made = decide(state, sequence, now)
        before = state.facets.get(tiers.FACET)
        scheme, calendar, joined_on = tiering.scheme, tiering.calendar, tiering.joined_on
        facet, moves = tiers.settle(before, scheme, calendar, now, joined_on=joined_on, state=state)
        if scheme.looks_at_balance:
            after = with_lapses(fold(state, made.postings), made.lapses)
            facet, more = tiers.settle(facet, scheme, calendar, now, joined_on=joined_on, state=after)
            moves = [*moves, *more]
        if facet == before:
            return made
        evidence = {**made.evidence, "tier": [move.document() for move in moves]} if moves else made.evidence
        return replace(made, evidence=evidence, facets={**made.facets, tiers.FACET: facet})

    return draft


def _asked(act: Act) -> tuple[tuple[bytes, ...], bytes]:
    return tuple([key for key, _ in act.keys]), act.request


def _unknown_customer(act: Act, now: datetime) -> Member:
    """Who would be enrolled. Number 0 is nobody's."""
    return Member(0, act.program.id, (act.member,), "active", {}, now, now, 1)


def _result(act: Act, outcome: Outcome) -> Done | Problem:
    if outcome.status == "conflict":
        for key, problem in act.keys:
            if key == outcome.key:
                return problem
        return IdempotencyConflict("A part of the request was done before, by another request.")
    if outcome.refusal is not None:
        return _refused(outcome.refusal)
    if outcome.entry is None:
        raise RuntimeError("an outcome without refusal has an entry")
    return Done(outcome.entry, replayed=outcome.status == "replayed")


def _refused(refusal: Refusal) -> Problem:
    if isinstance(refusal, Refused):
        return refusal.problem
    if isinstance(refusal, HoldNotOpen):
        return model.HoldAlreadyResolved("The hold is not open any more.")
    if isinstance(refusal, HoldTooSmall):
        return model.HoldTooSmall(f"The hold has {refusal.held} points.", held_points=refusal.held)
    if isinstance(refusal, InsufficientPoints):
        return model.InsufficientPoints(
            f"The member has {refusal.available} points available.",
            available_points=refusal.available,
            missing_points=refusal.missing,
        )
    return model.TooManyPoints(f"{refusal}.")
