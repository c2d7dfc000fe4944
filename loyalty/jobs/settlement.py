"""Writes down what time alone has done: points that activated, expired or lapsed, holds that ended, tiers that fell.

No read waits for this job: balances are always those of the instant (see `points.settling`). It makes the ledger say
so, for reports and for whoever follows it.

Which members to look at, the wallets' projection says (`due_at`); what is due is decided from their chains alone. An
entry of kind `settle` is bound to the entry that it follows. So the job can be killed anywhere and run again, and two
that run at once write one entry: whoever is late finds another entry in its place, and nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from loyalty.infra.clock import Clock
from loyalty.infra.ids import member_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.jobs import records
from loyalty.jobs.model import Work
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft, Head, business_key, request_digest
from loyalty.ledger.heads import read_heads
from loyalty.ledger.state import LedgerDefect, Refusal, State
from loyalty.points.settling import Tiering, settle
from loyalty.programs import service as programs
from loyalty.programs.calendar import Calendar
from loyalty.tiers import service as tiers
from loyalty.tiers.engine import FACET

NAME: Final = "settlement"
KIND: Final = "settle"
BATCH: Final = 1000

log = structlog.get_logger(__name__)


class NothingDue(Refusal):
    """Somebody else's entry has settled the member, or nothing is due after all."""


def settle_due(work: Work, slot: datetime) -> None:
    """The job: settle every member of whom something is due."""
    written, damaged = 0, []
    for batch in settlements(work.db, clock=work.clock, check=work.turn.check):
        written += batch.written
        damaged += batch.damaged
        records.progress(work.db, NAME, turn=work.turn, items=batch.written)
    if written:
        log.info("members settled", entries=written)
    if damaged:
        raise LedgerDefect(
            f"{len(damaged)} members could not be settled, the first is {member_id(damaged[0])}: "
            "their chains are damaged, see `loyalty ledger verify`"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """How many entries a batch of members took, and the members whose chains make no sense."""

    written: int
    damaged: list[int]


def settlements(db: Mongo, *, clock: Clock, check: Callable[[], None] = lambda: None) -> Iterator[Batch]:
    """Settle everybody of whom something is due, a batch at a time. `check` is called before each."""
    for due in _due(db, clock()):
        check()
        yield settle_members(db, due, clock=clock)


def settle_members(db: Mongo, members: Mapping[int, str], *, clock: Clock) -> Batch:
    """Settle these members, given by number with their programs."""
    heads = read_heads(db.ledger, members)
    tierings = _tierings(db, {member: members[member] for member, head in heads.items() if FACET in head.state.facets})
    now = clock()
    operations, damaged = [], []
    for member, head in heads.items():
        tiering = tierings.get(member)
        try:
            since = settle(head.state, now, tiering).since
        except LedgerDefect:  # one damaged chain must not keep all others waiting
            damaged.append(member)
            continue
        if since is not None:
            operations.append(operation_for(members[member], head, since, tiering))
    outcomes = append(db.ledger, operations, clock=clock, heads=heads)
    return Batch(sum(outcome.status == "applied" for outcome in outcomes), damaged)


def _tierings(db: Mongo, members: Mapping[int, str]) -> dict[int, Tiering]:
    """What the tiers of these members are reviewed by, of those whose programs have tiers."""
    if not members:
        return {}
    known = {program: programs.get(db, program) for program in set(members.values())}
    schemes = {name: tiers.current(db, program) for name, program in known.items()}
    found = {}
    for document in db.members.find({"_id": {"$in": list(members)}}, {"created_at": 1}):
        program = known[members[document["_id"]]]
        scheme, calendar = schemes[program.id], Calendar.of(program.timezone)
        if scheme is not None:
            found[document["_id"]] = Tiering(scheme, calendar, calendar.day(document["created_at"]))
    return found


def operation_for(program: str, head: Head, since: datetime, tiering: Tiering | None) -> Operation:
    """The act that settles the member at whose end `head` is, of whom something was due `since`."""
    parts = (member_id(head.member), str(head.sequence), since.isoformat())

    def decide(settled: State, sequence: int, now: datetime) -> Draft:
        found = settle(head.state, now, tiering)
        if sequence != head.sequence + 1 or found.since is None:
            raise NothingDue
        evidence: Document = {"settled": list(found.happened)}
        if found.transitions:
            evidence["tier"] = [transition.document() for transition in found.transitions]
        return Draft(KIND, found.since, [], evidence, facets=found.facets)

    request = request_digest({"settle": list(parts)})
    return Operation(program, head.member, (business_key(program, KIND, *parts),), request, decide)


def _due(db: Mongo, now: datetime) -> Iterator[dict[int, str]]:
    """The members of whom something was due by `now`, each once, by number with their programs, in batches.

    By instant and number, always onwards: the projection may not have followed what was settled a moment ago.
    """
    after: list[Document] = []
    while True:
        wanted: Document = {"due_at": {"$lte": now}}
        if after:
            last = after[-1]
            wanted = {
                "$and": [
                    wanted,
                    {
                        "$or": [
                            {"due_at": {"$gt": last["due_at"]}},
                            {"due_at": last["due_at"], "_id": {"$gt": last["_id"]}},
                        ]
                    },
                ]
            }
        after = list(
            db.wallets.find(wanted, {"program": 1, "due_at": 1}, sort=[("due_at", 1), ("_id", 1)], limit=BATCH)
        )
        if not after:
            return
        yield {wallet["_id"]: wallet["program"] for wallet in after}
