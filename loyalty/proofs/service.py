"""Verifications that were asked for, what the monitor found, seals, and receipts. Nothing here needs the seal's key."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from bson.int64 import Int64
from pymongo import DESCENDING, IndexModel

from loyalty.infra.clock import Clock
from loyalty.infra.ids import entry_id, entry_number, new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound
from loyalty.ledger.entry import member_of
from loyalty.ledger.heads import read_entry
from loyalty.ledger.receipts import BadReceipt, check_receipt, make_receipt
from loyalty.ledger.seal import unpack
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.proofs.model import NotSealedYet, SealBroken

RUNS: Final = "verifications"
VIOLATIONS: Final = "violations"
INDEXES: Final = {
    RUNS: [IndexModel("status", name="status")],
    VIOLATIONS: [IndexModel([("resolved_at", 1), ("program", 1)], name="open"), IndexModel("member", name="member")],
}

_SHOWN: Final = 10
_MOST_VIOLATIONS_SHOWN: Final = 100
_CLOCKS: Final = timedelta(minutes=5)
"""How far the clocks of two servers may be apart: an entry and its seal are dated by different ones."""
_BATCH: Final = 1000


# -- verifications ----------------------------------------------------------------------------------------------------


def request_verification(db: Mongo, *, by: str, clock: Clock) -> Document:
    """The verification that waits or runs, or a new one, which the jobs process begins within seconds."""
    pending: Document = {"status": {"$in": ["waiting", "running"]}}
    present = db[RUNS].find_one(pending, sort=[("_id", 1)])
    if present is not None:
        return present
    now = clock()
    run: Document = {"_id": new_id("ver", now), "status": "waiting", "requested_at": now, "requested_by": by}
    db[RUNS].insert_one(run)
    return run


def latest_runs(db: Mongo) -> list[Document]:
    """The last verifications, newest first."""
    return list(db[RUNS].find({}, sort=[("_id", DESCENDING)], limit=_SHOWN))


# -- violations -------------------------------------------------------------------------------------------------------


def record_violation(db: Mongo, *, entry: int, program: str | None, what: str, at: datetime) -> bool:
    """Keep that an entry does not verify, and freeze its member's spending. False if that is known already.

    What somebody has resolved stays resolved, unless something else is wrong with the entry now.
    """
    number = member_of(entry)
    known = db[VIOLATIONS].find_one({"_id": Int64(entry)})
    if known is not None and known["what"] == what:
        if known.get("resolved_at") is None:  # the last run may have ended between its two writes
            members.freeze(db, number, entry=entry_id(entry), why=what, at=at)
        return False
    violation: Document = {"member": Int64(number), "program": program, "what": what, "found_at": at}
    db[VIOLATIONS].replace_one({"_id": Int64(entry)}, {**violation, "resolved_at": None}, upsert=True)
    members.freeze(db, number, entry=entry_id(entry), why=what, at=at)
    return True


def open_violations(db: Mongo, program: str | None = None) -> list[Document]:
    """What is not resolved, of one program or of all; the oldest first, at most a hundred."""
    wanted: Document = {"resolved_at": None}
    if program is not None:
        wanted["program"] = program
    return list(db[VIOLATIONS].find(wanted, sort=[("found_at", 1)], limit=_MOST_VIOLATIONS_SHOWN))


def count_open_violations(db: Mongo) -> int:
    """How many are not resolved."""
    return db[VIOLATIONS].count_documents({"resolved_at": None})


def unfreeze(db: Mongo, program: str, text: str, *, reason: str, by: str, clock: Clock) -> Member:
    """Let a member spend again, and resolve its violations with the reason. NotFound. Again changes nothing."""
    member = members.find(db, program, text)
    resolution = {"resolved_at": clock(), "reason": reason, "by": by}
    chains = [Int64(number) for number in (member.number, *member.absorbed)]
    db[VIOLATIONS].update_many({"member": {"$in": chains}, "resolved_at": None}, {"$set": resolution})
    return members.unfreeze(db, member, clock=clock)


# -- seals and receipts -----------------------------------------------------------------------------------------------


def list_seals(db: Mongo, *, limit: int, before: int | None) -> list[Document]:
    """Seals, newest first, without their lists of entries."""
    wanted: Document = {} if before is None else {"_id": {"$lt": before}}
    return list(db.seals.find(wanted, {"entries": 0}, sort=[("_id", DESCENDING)], limit=limit))


def read_seal(db: Mongo, number: int) -> Document:
    """One seal, without its list of entries. NotFound."""
    seal = db.seals.find_one({"_id": number}, {"entries": 0})
    if seal is None:
        raise NotFound(f"There is no seal {number}. GET /v1/ledger/seals lists them.")
    return seal


def receipt(db: Mongo, program: str, public_id: str) -> bytes:
    """The receipt of an entry, checked. NotFound, NotSealedYet, SealBroken."""
    number = entry_number(public_id)
    entry = read_entry(db.ledger, number) if number is not None else None
    if entry is None or entry["program"] != program:
        raise NotFound(f"There is no entry {public_id!r} in this program.")
    seal = _seal_of(db, entry)
    numbers = unpack(seal["entries"])
    stored: dict[int, bytes] = {}
    for start in range(0, len(numbers), _BATCH):
        found = db.ledger.find({"_id": {"$in": list(numbers[start : start + _BATCH])}}, {"hash": 1})
        stored.update((leaf["_id"], bytes(leaf["hash"])) for leaf in found)
    try:
        hashes = [stored[number] for number in numbers]
        made = make_receipt(entry, seal, hashes, numbers.index(entry["_id"]), _public_key(db, seal))
        check_receipt(made)
    except (BadReceipt, KeyError) as error:
        raise SealBroken(
            f"Seal {seal['_id']} does not prove the entry: {error} Have the operator run `loyalty ledger verify`.",
            seal=seal["_id"],
        ) from None
    return made


def _seal_of(db: Mongo, entry: Mapping[str, Any]) -> Document:
    """The seal that names the entry: one of the first after it was recorded."""
    packed = struct.pack(">q", entry["_id"])
    since = entry["recorded_at"] - _CLOCKS
    for seal in db.seals.find({"sealed_at": {"$gte": since}}, sort=[("sealed_at", 1)], batch_size=10):
        place = seal["entries"].find(packed)
        while place >= 0 and place % len(packed):
            place = seal["entries"].find(packed, place + 1)
        if place >= 0:
            return seal
    raise NotSealedYet("Seals are made every minute. Ask again in a minute.", headers={"Retry-After": "60"})


def _public_key(db: Mongo, seal: Mapping[str, Any]) -> bytes:
    """The key that signed the seal; seals of older releases do not name it, but later ones do."""
    if "public_key" in seal:
        return bytes(seal["public_key"])
    later = db.seals.find_one({"public_key": {"$exists": True}}, {"public_key": 1}, sort=[("_id", DESCENDING)])
    if later is None:
        raise NotSealedYet("No seal names its key yet. Ask again in a minute.", headers={"Retry-After": "60"})
    return bytes(later["public_key"])
