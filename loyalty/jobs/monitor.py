"""The live monitor: checks what is new in the ledger minute by minute, and what is old little by little.

New entries are those of the seals that were made since the last run: each must follow its predecessor, and its state
must be what it makes of the one before. Besides, each run goes on with a patrol through all chains from their first
entry, so that damage to what was sound yesterday is found too. What does not verify is recorded, and its member spends
nothing until somebody has looked at it; it goes on earning, and nobody else notices.

A projection that differs is reported by failing the job: nothing is decided from it, so it freezes nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final

import structlog
from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError

from loyalty.infra.ids import entry_id, entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.jobs.lease import LeaseLost
from loyalty.jobs.model import Work
from loyalty.ledger.checks import MALFORMED, Chain
from loyalty.ledger.entry import SEQUENCE_BITS, entry_hash, member_of, sequence_of
from loyalty.ledger.seal import seal_hash, unpack
from loyalty.ledger.verify import DECODING, Defect, verify_range
from loyalty.proofs import service as proofs

POSITION: Final = "monitor"
_BATCH: Final = 500
_PATROL: Final = 5_000
"""Old entries checked in a run, roughly: seven millions a day, at a second of one processor a minute."""

log = structlog.get_logger(__name__)


class Unsound(Exception):
    """Something is wrong that no member can be frozen for; the operator has to look."""


def watch(work: Work, slot: datetime) -> None:
    """One run: the new seals and their entries, then a part of the patrol. Unsound for what belongs to no member."""
    db = work.db
    position = db.positions.find_one({"_id": POSITION}) or {"seal": _first_seal(db), "member": 0}
    unsound: list[str] = []
    for seal in db.seals.find({"_id": {"$gt": position["seal"]}}, sort=[("_id", 1)], batch_size=1):
        work.turn.check()
        if seal_hash(seal) != bytes(seal["hash"]):
            unsound.append(f"seal {seal['_id']}: its content was changed")
        for number, what in _broken(db, unpack(seal["entries"])):
            _report(work, number, what)
        position["seal"] = seal["_id"]
        _save(work, position)
    work.turn.check()
    lower, upper = _next_part(db, position["member"])
    for defect in verify_range(db, (lower, upper)).defects:
        unsound += _judge(work, defect)
    position["member"] = 0 if upper is None else member_of(upper)
    _save(work, position)
    if unsound:
        raise Unsound("; ".join(unsound[:5]))


def _first_seal(db: Mongo) -> int:
    """Where to begin on an installation that was never watched: the patrol finds what is older."""
    last = db.seals.find_one({}, {"_id": 1}, sort=[("_id", -1)])
    return max(last["_id"] - 1, 0) if last else 0


def _broken(db: Mongo, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The first broken entry of each chain among the entries of a seal, and what is wrong with it."""
    for start in range(0, len(numbers), _BATCH):
        part = numbers[start : start + _BATCH]
        runs = [list(run) for _, run in groupby(part, member_of)]
        wanted = [*part, *(run[0] - 1 for run in runs if sequence_of(run[0]) > 1)]
        ledger = db.ledger.with_options(codec_options=DECODING)
        entries = {entry["_id"]: entry for entry in ledger.find({"_id": {"$in": [Int64(each) for each in wanted]}})}
        for run in runs:
            found = _first_broken(run, entries)
            if found is not None:
                yield found


def _first_broken(run: Sequence[int], entries: dict[int, Document]) -> tuple[int, str] | None:
    chain = Chain(member_of(run[0]))
    if sequence_of(run[0]) > 1:
        before = entries.get(run[0] - 1)
        if before is None:
            return run[0] - 1, "it is gone"
        try:
            if entry_hash(before) != bytes(before["hash"]):
                return run[0] - 1, "its content was changed"
            chain = Chain.after(before)
        except MALFORMED as error:
            return run[0] - 1, f"it has not the form of an entry ({type(error).__name__})"
    for number in run:
        entry = entries.get(number)
        defects = ["it is gone"] if entry is None else chain.step(entry)
        if defects:
            return number, "; ".join(defects)
    return None


def _next_part(db: Mongo, member: int) -> tuple[int | None, int | None]:
    """The bounds of the chains from `member` on that the patrol checks now; open at both ends of the ledger."""
    lower = Int64(member << SEQUENCE_BITS) if member else None
    far = db.ledger.find_one(
        {"_id": {"$gte": lower or Int64(0)}}, {"_id": 1}, sort=[("_id", 1)], skip=_PATROL, hint=[("_id", 1)]
    )
    return lower, None if far is None else Int64((member_of(far["_id"]) + 1) << SEQUENCE_BITS)


def _judge(work: Work, defect: Defect) -> list[str]:
    number = entry_number(defect.where)
    if number is None:
        return [f"{defect.where}: {defect.what}"]
    _report(work, number, defect.what)
    return []


def _report(work: Work, number: int, what: str) -> None:
    entry = work.db.ledger.with_options(codec_options=DECODING).find_one({"_id": Int64(number)}, {"program": 1})
    member = work.db.members.find_one({"_id": Int64(member_of(number))}, {"program": 1})
    program = (member or entry or {}).get("program")
    if proofs.record_violation(work.db, entry=number, program=program, what=what, at=work.clock()):
        log.error("an entry does not verify; its member's spending is frozen", entry=entry_id(number), what=what)


def _save(work: Work, position: Document) -> None:
    """Store how far the monitor has come; LeaseLost when a later term has."""
    turn = work.turn
    fields = {"seal": position["seal"], "member": position["member"], "term": turn.term}
    try:
        work.db.positions.update_one({"_id": POSITION, "term": {"$lte": turn.term}}, {"$set": fields}, upsert=True)
    except DuplicateKeyError:
        raise LeaseLost("a later term watches the ledger") from None
