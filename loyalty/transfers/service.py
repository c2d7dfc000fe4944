"""Giving points to another member.

Two entries, one in each chain, in one transaction: no instant has the points twice or not at all. Each names the other
in its evidence. Points keep the expiry that they had, so that nobody can give them away to renew them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loyalty.infra.http.model import format_instant
from loyalty.infra.ids import entry_id, entry_number, member_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft, business_key, member_of, request_digest
from loyalty.ledger.heads import read_entry
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.state import Posting, State, fold
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.points import acts, wallets
from loyalty.points import service as points_service
from loyalty.points.acts import Act, Decide, Done, Refused
from loyalty.points.model import MemberBlocked, entry_json
from loyalty.programs.model import Program
from loyalty.transfers.model import BalanceLimit, SameMember

_REUSED = IdempotencyConflict("The Idempotency-Key was used with another request.")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer: the entries of both sides."""

    sent: Document
    received: Document

    def document(self) -> dict[str, Any]:
        """A `TransferOut`."""
        evidence = self.sent["evidence"]["transfer"]
        return {
            "id": entry_id(self.sent["_id"]),
            "sender": member_id(member_of(self.sent["_id"])),
            "recipient": member_id(member_of(self.received["_id"])),
            "wallet": evidence["wallet"],
            "points": evidence["points"],
            "note": evidence.get("note"),
            "transferred_at": format_instant(self.sent["recorded_at"]),
            "sent": entry_json(self.sent),
            "received": entry_json(self.received),
        }


def transfer(
    services: Services,
    program: Program,
    *,
    sender: str,
    recipient: str,
    wallet: str,
    points: int,
    note: str | None,
    key: tuple[str, ...],
    by: str,
) -> tuple[Transfer, Done]:
    """Move points from one member to another, with their expiry. `key` makes it happen once; `by` is who asks.

    The `Done` is that of the sender. SameMember, MemberBlocked, InsufficientPoints, BalanceLimit.
    """
    policy = wallets.transferable(program, wallet)
    giver, taker = find_two(services.db, program.id, sender, recipient)
    evidence: Document = {"wallet": wallet, "points": points}
    if note is not None:
        evidence["note"] = note
    given: list[Posting] = []

    def give(found: Member) -> Decide:
        if not found.may_spend:
            raise MemberBlocked(f"The status of the sender is {found.status}.")

        def draft(state: State, _: int, now: datetime) -> Draft:
            given[:] = debit(state, wallet, points, target="transferred")
            return Draft("transfer", now, list(given), {"transfer": {**evidence, "to": taker.id}, "by": by})

        return draft

    def take(found: Member) -> Decide:
        if not found.may_earn:
            raise MemberBlocked(f"The status of the recipient is {found.status}.")

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            have = state.wallet(wallet)
            room = (
                None if policy.max_balance is None else policy.max_balance - have.available - have.pending - have.held
            )
            if room is not None and room < points:
                raise Refused(_too_many(wallet, max(room, 0), policy.max_balance))
            postings = receive(state, given, sequence)
            return Draft("transfer", now, postings, {"transfer": {**evidence, "from": giver.id}, "by": by})

        return draft

    name = business_key(program.id, *key)
    request = request_digest({"transfer": points, "from": sender, "to": recipient, "wallet": wallet, "note": note})
    sent, received = acts.perform_jointly(
        services.db,
        [
            Act(program, giver.id, ((name, _REUSED),), request, give),
            Act(program, taker.id, ((business_key(program.id, "received", name.hex()), _REUSED),), request, take),
        ],
        clock=services.clock,
    )
    return Transfer(sent.entry, received.entry), sent


def receive(state: State, given: list[Posting], sequence: int) -> list[Posting]:
    """The arrivals of what another chain gave away, with the instants at which it activates and expires."""
    arrivals: list[Posting] = []
    for posting in given:
        arrived = credit(
            state,
            posting.wallet,
            posting.points,
            source="transferred",
            sequence=sequence,
            activates_at=posting.activates_at,
            expires_at=posting.expires_at,
        )
        state = fold(state, arrived)
        arrivals += arrived
    return arrivals


def find_two(db: Mongo, program: str, first: str, second: str) -> tuple[Member, Member]:
    """Two different members by their references in normal form. NotFound, SameMember."""
    found = members.resolve(db, program, [first, second])
    for name in (first, second):
        if name not in found:
            raise NotFound(f"There is no member {name}.")
    if found[first].number == found[second].number:
        raise SameMember(f"{first} and {second} are the same member, {found[first].id}.")
    return found[first], found[second]


def find(db: Mongo, program: str, transfer: str) -> Transfer:
    """The transfer by its id, or by the id of the entry of the other side. NotFound if there is none."""
    try:
        entry = points_service.entry(db, program, transfer)
    except NotFound:
        entry = {"kind": ""}
    if entry["kind"] != "transfer":
        raise NotFound(f"There is no transfer {transfer!r} in this program.")
    (other_id,) = entry["evidence"]["with"]
    other = read_entry(db.ledger, entry_number(other_id) or 0)
    if other is None:
        raise NotFound(f"The other side of {transfer} is missing: verify the ledger.")
    return Transfer(entry, other) if "to" in entry["evidence"]["transfer"] else Transfer(other, entry)


def _too_many(wallet: str, room: int, most: int | None) -> BalanceLimit:
    return BalanceLimit(
        f"The recipient's {wallet} holds at most {most} points, and {room} more fit in.", max_balance=most, room=room
    )
