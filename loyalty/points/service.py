"""Reading the ledger: balances, entries, explanations. Always the chain itself, never a projection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from loyalty.infra.elections import as_of_now
from loyalty.infra.ids import entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound
from loyalty.ledger.as_of import Effect, happened, replay, view
from loyalty.ledger.entry import Head
from loyalty.ledger.heads import head_lookup, head_of, read_entries, read_entry, read_head_at, read_movements
from loyalty.ledger.state import Lot, State
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.points.lineage import Lineage, lineages
from loyalty.points.settling import settle


@dataclass(frozen=True, slots=True)
class OpenLot:
    """A lot of a wallet, and where its points came from and went."""

    wallet: str
    lot: Lot
    lineage: Lineage


def find_with_head(db: Mongo, program: str, text: str) -> tuple[Member, Head]:
    """The member that `text` refers to and the end of its chain, in one command. NotFound if there is none.

    Only what a majority has: what is shown to somebody must not be undone by the loss of a primary. And all of it: what
    was acknowledged before is in it.
    """
    name = members.reference(text)
    found = as_of_now(db, "ledger", lambda lasting: members.resolve(lasting, program, [name], stages=head_lookup()))
    member = found.get(name)
    if member is None:
        raise NotFound(f"There is no member {text!r} in this program.")
    return member, head_of(member.number, member.found)


def balance(
    db: Mongo, head: Head, *, now: datetime, at: datetime | None = None, happened_at: datetime | None = None
) -> tuple[State, datetime | None]:
    """What the member has `now`, and since when.

    `at` asks for what was known at that instant, `happened_at` for what had happened by that one (see `ledger.as_of`).
    Time's own movements up to the instant count, whether or not a job has written them.
    """
    if happened_at is not None:
        movements = happened(_movements(db, head.member, now=happened_at, known=at), happened_at)
        return view(movements), movements[-1].at if movements else None
    if at is not None:
        head = read_head_at(db.ledger, head.member, at)
    settled = settle(head.state, at or now)
    last = settled.happened[-1]["at"] if settled.happened else head.recorded_at
    return settled.state, last


def lots(
    db: Mongo, head: Head, *, now: datetime, at: datetime | None = None, happened_at: datetime | None = None
) -> list[OpenLot]:
    """The open lots with their lineage, in order of consumption. The instants are those of `balance`."""
    movements = _movements(db, head.member, now=happened_at or at or now, known=at)
    if happened_at is not None:
        movements = happened(movements, happened_at)
    found = lineages(movements)
    return [
        OpenLot(name, lot, found.get((name, lot.id), Lineage()))
        for name, wallet in view(movements).wallets.items()
        for lot in wallet.lots
    ]


def _movements(db: Mongo, member: int, *, now: datetime, known: datetime | None) -> list[Effect]:
    return replay(read_movements(db.ledger, member, known=known), now)


def entries(
    db: Mongo,
    member: Member,
    *,
    before: int | None,
    limit: int,
    at: datetime | None = None,
    happened_at: datetime | None = None,
) -> list[Document]:
    """A page of the member's chain, newest first: what was recorded by `at`, of what had happened by `happened_at`."""
    return read_entries(db.ledger, member.number, before=before, limit=limit, known=at, happened=happened_at)


def entry(db: Mongo, program: str, public_id: str) -> Document:
    """One entry of the program. NotFound if there is none."""
    number = entry_number(public_id)
    found = read_entry(db.ledger, number) if number is not None else None
    if found is None or found["program"] != program:
        raise NotFound(f"There is no entry {public_id!r} in this program.")
    return found
