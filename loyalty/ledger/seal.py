"""Seals: signed statements of what the ledger held, each chained to the one before.

A seal names every entry that became part of the ledger since the last one, as the leaves of a Merkle tree
(RFC 6962, section 2.1), and signs root, predecessor and time with the installation's Ed25519 key. Somebody who keeps
one seal can later tell whether anything before it was changed.

The new entries are those of each chain beyond what was sealed of it. Chains only grow at their end, so for each member
one number says what is sealed, and a crash between two seals loses nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pymongo.errors import DuplicateKeyError

from loyalty.infra.mongo import Mongo
from loyalty.ledger.entry import SEQUENCE_BITS, canonical, member_of, sequence_of
from loyalty.ledger.state import Document

MOST_ENTRIES = 100_000
"""Entries in one seal: its list of them stays far below the 16 MB of a document."""

POSITION = "seals"
"""The document in `positions` that names the last seal."""

_FORM = 2
_GENESIS = bytes(32)
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class SealedUpTo:
    """How far each member's chain is sealed, and the seal that says so."""

    number: int
    hash: bytes
    sequences: dict[int, int]


def sealed_up_to(db: Mongo) -> SealedUpTo:
    """Read it from the seals themselves."""
    sequences: dict[int, int] = {}
    number, digest = 0, _GENESIS
    for seal in db.seals.find({}, {"entries": 1, "hash": 1}, sort=[("_id", 1)]):
        _advance(sequences, unpack(seal["entries"]))
        number, digest = seal["_id"], bytes(seal["hash"])
    return SealedUpTo(number, digest, sequences)


class Sealer:
    """Makes seals for one installation, remembering between them how far it has come.

    Only one process should seal at a time; a second one loses on the seal's number and nothing happens.
    """

    def __init__(self, db: Mongo, key: Ed25519PrivateKey) -> None:
        self.db = db
        self.key = key
        self._position: SealedUpTo | None = None

    def seal(self, now: datetime) -> Document | None:
        """Seal what is new, at most `MOST_ENTRIES`; None if there is nothing new or another process was faster."""
        position = self._position or sealed_up_to(self.db)
        self._position = None
        leaves = list(self._new_entries(position.sequences))
        if not leaves:
            self._position = position
            return None
        numbers = [number for number, _ in leaves]
        seal: Document = {
            "_id": position.number + 1,
            "sealed_at": now,
            "count": len(leaves),
            "entries": struct.pack(f">{len(numbers)}q", *numbers),
            "root": merkle_root([digest for _, digest in leaves]),
            "prev": position.hash,
            "public_key": self.key.public_key().public_bytes_raw(),
            "form": _FORM,
        }
        seal["hash"] = seal_hash(seal)
        seal["signature"] = self.key.sign(seal["hash"])
        try:
            self.db.seals.insert_one(seal)
        except DuplicateKeyError:
            return None
        _advance(position.sequences, numbers)
        self._note(seal)
        self._position = SealedUpTo(seal["_id"], seal["hash"], position.sequences)
        return seal

    def _note(self, seal: Document) -> None:
        """Keep beside the seals which is the last: nothing else would tell that it is gone."""
        noted = {"number": seal["_id"], "hash": seal["hash"]}
        with suppress(DuplicateKeyError):  # a later seal is noted already
            earlier = {"_id": POSITION, "number": {"$lt": seal["_id"]}}
            self.db.positions.update_one(earlier, {"$set": noted}, upsert=True)

    def _new_entries(self, sealed: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
        """Number and hash of what is not sealed. The projection says cheaply which chains have grown, and how far."""
        grown = (
            range(wallet["_id"] << SEQUENCE_BITS | known + 1, (wallet["_id"] << SEQUENCE_BITS | wallet["sequence"]) + 1)
            for wallet in self.db.wallets.find({}, {"sequence": 1})
            if wallet["sequence"] > (known := sealed.get(wallet["_id"], 0))
        )
        numbers = islice(chain.from_iterable(grown), MOST_ENTRIES)
        while batch := list(islice(numbers, _BATCH)):
            found = self.db.ledger.find({"_id": {"$in": batch}}, {"hash": 1}, sort=[("_id", 1)])
            for entry in found:
                yield entry["_id"], bytes(entry["hash"])


def seal_content(seal: Mapping[str, Any]) -> Document:
    """What the hash of a seal is over: all but the hash and the signature, and a digest for the list of entries.

    With the digest a receipt need not carry the list. Seals of the first form have the list itself under their hash.
    """
    content = {name: value for name, value in seal.items() if name not in ("hash", "signature")}
    if content.get("form") == _FORM:
        content["entries"] = hashlib.sha256(content["entries"]).digest()
    return content


def seal_hash(seal: Mapping[str, Any]) -> bytes:
    """SHA-256 over the canonical content of a seal."""
    return hashlib.sha256(canonical(seal_content(seal))).digest()


def seal_defects(seal: Mapping[str, Any], hashes: Sequence[bytes], prev: bytes, key: Ed25519PublicKey) -> list[str]:
    """What is wrong with a seal, given the stored hashes of its entries, in its order."""
    defects = []
    if bytes(seal["prev"]) != prev:
        defects.append("it does not follow the seal before it")
    if merkle_root(hashes) != bytes(seal["root"]):
        defects.append("its entries are not those that it sealed")
    if seal_hash(seal) != bytes(seal["hash"]):
        defects.append("its content was changed")
    try:
        key.verify(bytes(seal["signature"]), bytes(seal["hash"]))
    except InvalidSignature:
        defects.append("its signature is not the installation's")
    return defects


def unpack(entries: bytes) -> tuple[int, ...]:
    """The numbers of a seal's entries, in the order of the leaves."""
    return struct.unpack(f">{len(entries) // 8}q", entries)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962: leaves and nodes have different prefixes, an odd node moves up unchanged."""
    for level in _levels(leaves):
        if len(level) == 1:
            return level[0]
    return hashlib.sha256().digest()


def audit_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The Merkle audit path of RFC 6962, 2.1.1: the hashes that lead from the leaf at `index` to the root."""
    path = []
    for level in _levels(leaves):
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index >>= 1
    return path


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root to which an audit path leads in a tree of `size` leaves; None if it cannot be a path of that leaf.

    This is the verification of RFC 9162, 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    place, last = index, size - 1
    digest = hashlib.sha256(b"\0" + leaf).digest()
    for other in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            digest = hashlib.sha256(b"\1" + other + digest).digest()
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            digest = hashlib.sha256(b"\1" + digest + other).digest()
        place, last = place >> 1, last >> 1
    return digest if last == 0 else None


def _levels(leaves: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The tree, from its leaves to its root."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while level:
        yield level
        if len(level) == 1:
            return
        pairs = [
            hashlib.sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = pairs + level[len(pairs) * 2 :]


def _advance(sequences: dict[int, int], numbers: Iterable[int]) -> None:
    for number in numbers:
        sequences[member_of(number)] = sequence_of(number)
