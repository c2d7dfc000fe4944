"""Setting points aside, taking them, letting them go.

A hold lives in the state of its member's chain, so whoever is first to resolve it changes that state, and whoever
comes second finds it gone: two resolutions cannot both happen. That it is over by time needs nobody either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loyalty.holds.model import Resolution
from loyalty.infra.http.model import format_instant
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound
from loyalty.infra.services import Services
from loyalty.ledger import movements
from loyalty.ledger.entry import Draft, business_key, member_of, request_digest, sequence_of
from loyalty.ledger.heads import read_first_after
from loyalty.ledger.state import Posting, State
from loyalty.members.model import Member
from loyalty.points import acts, wallets
from loyalty.points import service as points_service
from loyalty.points.acts import Act, Decide, Done
from loyalty.points.model import HoldAlreadyResolved, MemberBlocked
from loyalty.programs.model import Program

_REUSED = IdempotencyConflict("The Idempotency-Key was used with another request.")


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a hold ended. `entry` is the number of the entry that says so; None when so far only time does."""

    how: Resolution
    at: datetime
    entry: int | None
    captured: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold: `entry` is the one that made it."""

    entry: Document
    resolved: Resolved | None

    @property
    def evidence(self) -> Document:
        """What was asked for."""
        hold: Document = self.entry["evidence"]["hold"]
        return hold

    def document(self) -> dict[str, Any]:
        """A `HoldOut`."""
        resolved = self.resolved
        return {
            "id": entry_id(self.entry["_id"]),
            "member": member_id(member_of(self.entry["_id"])),
            "wallet": self.evidence["wallet"],
            "points": self.evidence["points"],
            "reference": self.evidence.get("reference"),
            "created_at": format_instant(self.entry["recorded_at"]),
            "until": format_instant(self.evidence["until"]),
            "status": resolved.how if resolved else "open",
            "captured_points": resolved.captured if resolved else 0,
            "resolved_at": format_instant(resolved.at) if resolved else None,
            "resolved_by": entry_id(resolved.entry) if resolved and resolved.entry is not None else None,
        }


def find(db: Mongo, program: str, hold: str, *, now: datetime) -> Hold:
    """The hold as it is at `now`. NotFound if there is none."""
    try:
        entry = points_service.entry(db, program, hold)
    except NotFound:
        entry = None
    if entry is None or entry["kind"] != "hold":
        raise NotFound(f"There is no hold {hold!r} in this program.")
    return Hold(entry, _resolution(db, entry, now))


def place(
    program: Program,
    *,
    member: str,
    wallet: str,
    points: int,
    seconds: int | None,
    reference: str | None,
    key: tuple[str, ...],
    by: str,
) -> Act:
    """The act of setting points aside for `seconds` (None: as the policy says). `key` makes it happen once."""
    policy = wallets.spendable(program, wallet)
    lives = timedelta(seconds=program.policies.hold_seconds if seconds is None else seconds)
    request = request_digest(
        {"hold": points, "member": member, "wallet": wallet, "seconds": seconds, "reference": reference}
    )

    def decide(found: Member) -> Decide:
        if not found.may_spend:
            raise MemberBlocked(f"The member's status is {found.status}.")

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            evidence: Document = {"wallet": wallet, "points": points, "until": now + lives}
            if reference is not None:
                evidence["reference"] = reference
            postings = movements.hold(
                state, wallet, points, sequence=sequence, until=now + lives, grace_days=policy.restore_grace_days
            )
            return Draft("hold", now, postings, {"hold": evidence, "by": by})

        return draft

    return Act(program, member, ((business_key(program.id, *key), _REUSED),), request, decide)


def capture(
    services: Services, program: Program, hold: Hold, *, points: int | None, key: tuple[str, ...], by: str
) -> Done:
    """Spend `points` of the hold (None: all); the rest returns. HoldAlreadyResolved, HoldTooSmall."""
    wallet, number = hold.evidence["wallet"], sequence_of(hold.entry["_id"])

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        postings = movements.capture(state, wallet, number, now, sequence=sequence, points=points)
        taken = sum(posting.points for posting in postings if posting.target == "spent")
        evidence = {"hold": {"id": entry_id(hold.entry["_id"])}, "captured": taken, "by": by}
        return Draft("capture", now, postings, evidence, lapses=wallets.lapses(program, state, wallet, now))

    return _resolve(services, program, hold, {"capture": points}, draft, key)


def void(services: Services, program: Program, hold: Hold, *, key: tuple[str, ...], by: str) -> Done:
    """Let the points of the hold go back to where they were. HoldAlreadyResolved."""
    wallet, number = hold.evidence["wallet"], sequence_of(hold.entry["_id"])

    def draft(state: State, sequence: int, now: datetime) -> Draft:
        postings = movements.release(state, wallet, number, now, sequence=sequence)
        return Draft("void", now, postings, {"hold": {"id": entry_id(hold.entry["_id"])}, "by": by})

    return _resolve(services, program, hold, {"void": True}, draft, key)


def _resolve(
    services: Services, program: Program, hold: Hold, what: Document, draft: Decide, key: tuple[str, ...]
) -> Done:
    name = entry_id(hold.entry["_id"])

    def decide(member: Member) -> Decide:
        if member.number != member_of(hold.entry["_id"]):
            raise HoldAlreadyResolved("The member was merged into another one, with no hold open.")
        return draft

    act = Act(
        program,
        member_id(member_of(hold.entry["_id"])),
        ((business_key(program.id, *key), _REUSED),),
        request_digest({**what, "hold": name}),
        decide,
    )
    try:
        return acts.perform_together(services, act)
    except HoldAlreadyResolved as problem:
        # Said with what the ledger knows of it by now, which was not known when the hold was read.
        resolved = _resolution(services.db, hold.entry, services.clock())
        if resolved is None:
            raise
        raise _already(hold, resolved) from problem


def _already(hold: Hold, resolved: Resolved) -> HoldAlreadyResolved:
    at = format_instant(resolved.at)
    said = {
        "captured": f"{resolved.captured} of its {hold.evidence['points']} points were captured at {at}.",
        "voided": f"It was voided at {at}; its points went back.",
        "timed_out": f"It was open until {at}; then its points went back. Place a new hold.",
    }
    return HoldAlreadyResolved(
        said[resolved.how],
        resolution=resolved.how,
        resolved_at=at,
        resolved_by=entry_id(resolved.entry) if resolved.entry is not None else None,
        captured_points=resolved.captured,
    )


def _resolution(db: Mongo, entry: Document, now: datetime) -> Resolved | None:
    """How the hold that `entry` made has ended by `now`; None while it is open."""
    number = sequence_of(entry["_id"])
    leaves = {"postings": {"$elemMatch": {"hold": number, "from": "held"}}}
    ended = read_first_after(db.ledger, entry["_id"], leaves)
    until = entry["evidence"]["hold"]["until"]
    if ended is None:
        return Resolved("timed_out", until, None, 0) if until <= now else None
    left = [Posting.of(posting) for posting in ended["postings"]]
    captured = sum(posting.points for posting in left if posting.hold == number and posting.target == "spent")
    if captured:
        return Resolved("captured", ended["recorded_at"], ended["_id"], captured)
    if ended["kind"] == "void" and ended["evidence"]["hold"]["id"] == entry_id(entry["_id"]):
        return Resolved("voided", ended["recorded_at"], ended["_id"], 0)
    return Resolved("timed_out", until, ended["_id"], 0)
