"""Changing points by hand. Above the program's threshold it takes two: one who asks and another one who approves.

A request that waits is a document of `adjustments`. Its approval is a transaction over the ledger and that document,
so a request becomes one entry or is rejected, whatever comes together and whatever crashes in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.binary import Binary
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from loyalty.adjustments.model import AdjustmentRequestOut, AlreadyDecided, OwnRequest
from loyalty.auth import service as auth
from loyalty.infra.http.model import format_instant
from loyalty.infra.ids import entry_id, new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import IdempotencyConflict, NotFound, ValidationFailed
from loyalty.infra.services import Services
from loyalty.ledger.entry import Draft, business_key, entry_key, request_digest
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.state import State
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.points import acts, wallets
from loyalty.points.acts import Act, Decide, Done, Refused
from loyalty.programs.model import Program

COLLECTION = "adjustments"
INDEXES = {
    COLLECTION: [
        IndexModel([("key", ASCENDING)], name="key", unique=True),
        IndexModel([("program", ASCENDING), ("_id", DESCENDING)], name="program"),
        IndexModel([("program", ASCENDING), ("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    ]
}

_REUSED = IdempotencyConflict("The Idempotency-Key was used with another request.")


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What somebody wants: `points` of `wallet` given (above 0) or taken (below 0). `member` is a reference."""

    member: str
    wallet: str
    points: int
    expires_at: datetime | None
    reason: str

    @property
    def digest(self) -> bytes:
        """What tells a repeated request from another one."""
        request: Document = {"adjustment": self.points, "member": self.member, "reason": self.reason}
        if self.wallet != "points":
            request["wallet"] = self.wallet
        if self.expires_at is not None:
            request["expires_at"] = self.expires_at
        return request_digest(request)

    def draft(self, state: State, sequence: int, now: datetime, evidence: Document) -> Draft:
        """The entry that it becomes. InsufficientPoints when it takes more than there are."""
        if self.points > 0:
            postings = credit(
                state, self.wallet, self.points, source="adjusted", sequence=sequence, expires_at=self.expires_at
            )
        else:
            postings = debit(state, self.wallet, -self.points, target="adjusted")
        return Draft("adjust", now, postings, {"reason": self.reason, **evidence})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits for approval, or was decided since. `replayed`: its Idempotency-Key had asked before."""

    request: Document
    replayed: bool


def adjust(services: Services, program: Program, wanted: Adjustment, *, key: tuple[str, ...], by: str) -> Done | Asked:
    """Adjust at once, or ask for approval where the program's policy wants that. `key` makes it happen once."""
    _check(program, wanted, services.clock())
    name = business_key(program.id, *key)
    before = services.db[COLLECTION].find_one({"key": name})
    if before is not None:
        return _asked_before(before, wanted)

    def decide(_: Member) -> Decide:
        return lambda state, sequence, now: wanted.draft(state, sequence, now, {"by": by})

    act = Act(program, wanted.member, ((name, _REUSED),), wanted.digest, decide)
    threshold = program.policies.adjustment_approval_above
    if threshold is None or abs(wanted.points) <= threshold:
        return acts.perform_together(services, act)
    return acts.done_before(services.db, act) or _ask(services, program, wanted, name, by)


def find(db: Mongo, program: str, adjustment: str) -> Document:
    """The request. NotFound if there is none."""
    found = db[COLLECTION].find_one({"_id": adjustment, "program": program})
    if found is None:
        raise NotFound(
            f"There is no adjustment {adjustment!r} that needed approval in this program. One that did not is an entry "
            "of the ledger: read it at /v1/entries."
        )
    return found


def list_requests(db: Mongo, program: str, *, limit: int, after: str | None, status: str | None) -> list[Document]:
    """Up to `limit` requests, the newest first, beginning after the id `after`."""
    wanted: Document = {"program": program}
    if after is not None:
        wanted["_id"] = {"$lt": after}
    if status is not None:
        wanted["status"] = status
    return list(db[COLLECTION].find(wanted).sort("_id", DESCENDING).limit(limit))


def approve(services: Services, program: Program, adjustment: str, *, key: tuple[str, ...], by: str) -> Done:
    """Make the requested adjustment, once. OwnRequest for the key that asked, AlreadyDecided for a second decision."""
    db = services.db
    request = find(db, program.id, adjustment)
    if auth.is_same_or_successor(db, request["requested_by"], by):
        raise OwnRequest("The key that asked for the adjustment cannot approve it. Use the key of somebody else.")
    wanted = Adjustment(
        request["member"], request["wallet"], request["points"], request.get("expires_at"), request["reason"]
    )
    made = ""

    def decide(member: Member) -> Decide:
        def draft(state: State, sequence: int, now: datetime) -> Draft:
            nonlocal made
            made = entry_id(entry_key(member.number, sequence))
            evidence = {"adjustment": adjustment, "by": request["requested_by"], "approved_by": by}
            return wanted.draft(state, sequence, now, evidence)

        return draft

    def mark(session: ClientSession) -> None:
        decision = {"status": "approved", "decided_by": by, "decided_at": services.clock(), "entry": made}
        marked = db[COLLECTION].update_one(
            {"_id": adjustment, "status": "pending"}, {"$set": decision}, session=session
        )
        if not marked.modified_count:
            raise Refused(AlreadyDecided("The adjustment is not pending any more."))

    act = Act(
        program,
        request["member"],
        (
            (business_key(program.id, *key), _REUSED),
            (business_key(program.id, "adjustment", adjustment), AlreadyDecided("The adjustment was approved before.")),
        ),
        # With the key in it: an approval by another request is a second one, not a repetition.
        request_digest({"approve": adjustment, "key": list(key)}),
        decide,
    )
    try:
        (done,) = acts.perform_jointly(db, [act], clock=services.clock, also=mark)
    except AlreadyDecided:
        raise _decided(find(db, program.id, adjustment)) from None
    return done


def reject(db: Mongo, program: str, adjustment: str, *, by: str, reason: str | None, now: datetime) -> Document:
    """Decide that the adjustment is not made. AlreadyDecided for a second decision."""
    decision: Document = {"status": "rejected", "decided_by": by, "decided_at": now}
    if reason is not None:
        decision["rejection"] = reason
    found = db[COLLECTION].find_one_and_update(
        {"_id": adjustment, "program": program, "status": "pending"},
        {"$set": decision},
        return_document=ReturnDocument.AFTER,
    )
    if found is None:
        raise _decided(find(db, program, adjustment))
    return found


def request_json(request: Document) -> dict[str, Any]:
    """An `AdjustmentRequestOut`."""
    shown = {name: request.get(name) for name in AdjustmentRequestOut.model_fields if name != "id"}
    for name in ("expires_at", "requested_at", "decided_at"):
        instant = request.get(name)
        shown[name] = format_instant(instant) if instant is not None else None
    return {"id": request["_id"], **shown}


def _check(program: Program, wanted: Adjustment, now: datetime) -> None:
    wallets.known(program, wanted.wallet)
    if wanted.expires_at is None:
        return
    detail = None
    if wanted.points < 0:
        detail = "Points that are taken do not expire. Leave the field out."
    elif wanted.expires_at <= now:
        detail = "It lies in the past: the points would be gone at once."
    if detail is not None:
        raise ValidationFailed(detail, errors=[{"pointer": "/expires_at", "code": "invalid_value", "detail": detail}])


def _ask(services: Services, program: Program, wanted: Adjustment, key: bytes, by: str) -> Asked:
    now = services.clock()
    request: Document = {
        "_id": new_id("adj", now),
        "program": program.id,
        "key": Binary(key),
        "digest": Binary(wanted.digest),
        "member": members.find(services.db, program.id, wanted.member).id,
        "wallet": wanted.wallet,
        "points": wanted.points,
        "reason": wanted.reason,
        "requested_by": by,
        "requested_at": now,
        "status": "pending",
    }
    if wanted.expires_at is not None:
        request["expires_at"] = wanted.expires_at
    try:
        services.db[COLLECTION].insert_one(request)
    except DuplicateKeyError:
        before = services.db[COLLECTION].find_one({"key": key})
        if before is None:
            raise
        return _asked_before(before, wanted)
    return Asked(request, replayed=False)


def _asked_before(request: Document, wanted: Adjustment) -> Asked:
    if bytes(request["digest"]) != wanted.digest:
        raise _REUSED
    return Asked(request, replayed=True)


def _decided(request: Document) -> AlreadyDecided:
    at = format_instant(request["decided_at"])
    return AlreadyDecided(
        f"The adjustment was {request['status']} by {request['decided_by']} at {at}.",
        decision=request["status"],
        entry=request.get("entry"),
    )
