"""Verification of the whole ledger: every chain from its first entry, every seal, and the projection.

It reads the ledger once, in order, and keeps only one state in memory. What it reports first is where to look: the
first broken entry of each chain, in order of `_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.mongo import Mongo
from loyalty.ledger.entry import GENESIS, SEQUENCE_BITS, entry_hash, member_of, sequence_of
from loyalty.ledger.projection import wallet_document
from loyalty.ledger.seal import seal_defects, unpack
from loyalty.ledger.state import Document, LedgerDefect, Posting, State, fold

_BATCH = 1000
_PROGRESS = 5000


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong: `where` is an entry, a seal or a wallet by its public name."""

    where: str
    what: str


@dataclass(slots=True)
class Verification:
    """What a verification found. `available` and `kinds` are what the ledger says, to compare with other books."""

    entries: int = 0
    chains: int = 0
    seals: int = 0
    sealed_entries: int = 0
    available: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.defects


def verify(
    db: Mongo,
    *,
    seal_key: Ed25519PublicKey | None = None,
    most_defects: int = 20,
    progress: Callable[[int], None] = lambda entries: None,
) -> Verification:
    """Check chains, postings, states, seals and the projection. Safe while the ledger is written.

    `seal_key` is the public key of the installation; without it seals are not checked. `progress` is called with the
    number of entries read. Stops collecting after `most_defects`.
    """
    found = Verification()
    for entry in _verify_chains(db, found, progress):
        _add_totals(found, entry)
        if len(found.defects) >= most_defects:
            return found
    if seal_key is not None:
        _verify_seals(db, found, seal_key)
    _verify_projection(db, found)
    del found.defects[most_defects:]
    return found


def entry_defects(entry: Mapping[str, Any], sequence: int, prev: bytes, before: State) -> tuple[list[str], State]:
    """What is wrong with the entry that should stand at `sequence` after `before`, and the state after it."""
    defects = []
    if sequence_of(entry["_id"]) != sequence:
        defects.append(f"entry {sequence} of the chain is missing")
    if bytes(entry["prev"]) != prev:
        defects.append("it does not follow the entry before it")
    if entry_hash(entry) != bytes(entry["hash"]):
        defects.append("its content was changed")
    stored = State.of(entry["state"])
    try:
        folded = fold(before, [Posting.of(posting) for posting in entry["postings"]])
    except LedgerDefect as defect:
        defects.append(str(defect))
    else:
        if folded.document() != entry["state"]:
            defects.append("its state is not what its postings make of the state before")
    for name, wallet in stored.wallets.items():
        defects.extend(f"{name}: {defect}" for defect in wallet.defects())
    return defects, stored


def _verify_chains(db: Mongo, found: Verification, progress: Callable[[int], None]) -> Iterator[Document]:
    """Yields the last entry of each chain."""
    member, sequence, prev, state = -1, 0, GENESIS, State()
    recorded_at: datetime | None = None
    last: Document | None = None
    broken = False
    for entry in db.ledger.find({}, sort=[("_id", 1)], batch_size=_BATCH):
        if member_of(entry["_id"]) != member:
            if last is not None:
                yield last
            member, sequence, prev, state, recorded_at, broken = (
                member_of(entry["_id"]),
                0,
                GENESIS,
                State(),
                None,
                False,
            )
            found.chains += 1
        found.entries += 1
        found.kinds[entry["kind"]] = found.kinds.get(entry["kind"], 0) + 1
        sequence += 1
        defects, state = entry_defects(entry, sequence, prev, state)
        if recorded_at is not None and entry["recorded_at"] < recorded_at:
            defects.append("it was recorded before the entry it follows")
        if defects and not broken:
            broken = True  # what follows a broken entry is broken too: name the first
            found.defects.append(Defect(entry_id(entry["_id"]), "; ".join(defects)))
        sequence, prev, recorded_at = sequence_of(entry["_id"]), bytes(entry["hash"]), entry["recorded_at"]
        last = entry
        if found.entries % _PROGRESS == 0:
            progress(found.entries)
    progress(found.entries)
    if last is not None:
        yield last


def _add_totals(found: Verification, head: Mapping[str, Any]) -> None:
    for name, wallet in head["state"]["wallets"].items():
        found.available[name] = found.available.get(name, 0) + wallet["available"]


def _verify_seals(db: Mongo, found: Verification, key: Ed25519PublicKey) -> None:
    prev, expected = bytes(32), 1
    for seal in db.seals.find({}, sort=[("_id", 1)]):
        numbers = unpack(seal["entries"])
        stored = {
            entry["_id"]: bytes(entry["hash"])
            for start in range(0, len(numbers), _BATCH)
            for entry in db.ledger.find({"_id": {"$in": list(numbers[start : start + _BATCH])}}, {"hash": 1})
        }
        defects = [f"seal {expected} is missing"] if seal["_id"] != expected else []
        gone = [number for number in numbers if number not in stored]
        if gone:
            defects.append(f"{len(gone)} sealed entries are gone, the first is {entry_id(gone[0])}")
        else:
            defects += seal_defects(seal, [stored[number] for number in numbers], prev, key)
        if defects:
            found.defects.append(Defect(f"seal {seal['_id']}", "; ".join(defects)))
        found.seals += 1
        found.sealed_entries += len(numbers)
        prev, expected = bytes(seal["hash"]), seal["_id"] + 1


def _verify_projection(db: Mongo, found: Verification) -> None:
    """Each wallet document must be the projection of the entry it names. A lagging one is not wrong."""
    wallets = db.wallets.find({}, batch_size=_BATCH)
    for batch in _batches(wallets):
        numbers = [wallet["_id"] << SEQUENCE_BITS | wallet["sequence"] for wallet in batch]
        entries = {entry["_id"]: entry for entry in db.ledger.find({"_id": {"$in": numbers}})}
        for number, wallet in zip(numbers, batch, strict=True):
            entry = entries.get(number)
            if entry is None or wallet_document(entry) != wallet:
                where = f"wallets of {member_id(wallet['_id'])}"
                found.defects.append(
                    Defect(where, "not the projection of the ledger; `loyalty ledger rebuild` mends it")
                )


def _batches(documents: Any) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
