"""Reading the ledger: balances, entries, explanations. Always the chain itself, never a projection."""

from __future__ import annotations

from datetime import datetime

from loyalty.infra.ids import entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound
from loyalty.ledger.entry import Head
from loyalty.ledger.heads import head_lookup, head_of, read_entries, read_entry, read_head_at
from loyalty.ledger.movements import due
from loyalty.ledger.state import State, fold
from loyalty.members import service as members
from loyalty.members.model import Member


def find_with_head(db: Mongo, program: str, text: str) -> tuple[Member, Head]:
    """The member that `text` refers to and the end of its chain, in one command. NotFound if there is none."""
    name = members.reference(text)
    member = members.resolve(db, program, [name], stages=head_lookup()).get(name)
    if member is None:
        raise NotFound(f"There is no member {text!r} in this program.")
    return member, head_of(member.number, member.found)


def balance(db: Mongo, head: Head, *, now: datetime, at: datetime | None) -> tuple[State, datetime | None]:
    """What the member had at `at`, or has `now`, and since when.

    `at` asks for what was known at that instant. Time's own movements up to the instant count, whether or not a job
    has written them.
    """
    if at is not None:
        head = read_head_at(db.ledger, head.member, at)
    instant = at or now
    settled = fold(head.state, due(head.state, instant))
    crossed = [
        moment
        for wallet in head.state.wallets.values()
        for lot in wallet.lots
        for moment in (lot.activates_at, lot.expires_at)
        if moment is not None and moment <= instant
    ]
    if head.recorded_at is not None:
        crossed.append(head.recorded_at)
    return settled, max(crossed, default=None)


def entries(db: Mongo, member: Member, *, before: int | None, limit: int) -> list[Document]:
    """A page of the member's chain, newest first."""
    return read_entries(db.ledger, member.number, before=before, limit=limit)


def entry(db: Mongo, program: str, public_id: str) -> Document:
    """One entry of the program. NotFound if there is none."""
    number = entry_number(public_id)
    found = read_entry(db.ledger, number) if number is not None else None
    if found is None or found["program"] != program:
        raise NotFound(f"There is no entry {public_id!r} in this program.")
    return found
