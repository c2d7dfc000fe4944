"""One entry of the ledger: its number, its keys, its canonical bytes and its hash.

An entry is immutable and self-contained: it says what happened and what the member has afterwards. `_id` is the
member's number and the entry's place in the member's chain, so two writers of the same next entry collide, and the
insert is the whole commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from bson.int64 import Int64

from loyalty.infra.ids import entry_id
from loyalty.ledger.state import Document, Posting, State

SEQUENCE_BITS: Final = 24
"""A member can have 16,777,215 entries: 4,600 a day for ten years."""

GENESIS: Final = bytes(32)
"""What the first entry of a chain names as its predecessor's hash."""

KEY_BYTES: Final = 16
"""Keys are random to the index, which grows with their length; 128 bits leave no room for an accident."""


def entry_key(member: int, sequence: int) -> Int64:
    """The `_id` of a member's entry; sequences start at 1."""
    if not 0 < sequence < 1 << SEQUENCE_BITS:
        raise ValueError("the chain is full")
    return Int64(member << SEQUENCE_BITS | sequence)


def member_of(number: int) -> int:
    """The member's number in an `_id`."""
    return number >> SEQUENCE_BITS


def sequence_of(number: int) -> int:
    """The place in the chain in an `_id`."""
    return number & (1 << SEQUENCE_BITS) - 1


def business_key(program: str, kind: str, *parts: str) -> bytes:
    """The key that makes an operation happen once: `("event", source, id)`, `("request", client, Idempotency-Key)`.

    Parts are joined with their lengths, so no two different lists give the same key.
    """
    text = "".join(f"{len(part)}:{part}" for part in (program, kind, *parts))
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def request_digest(request: Mapping[str, Any]) -> bytes:
    """What tells a repeated request from another one under the same key: a digest of its canonical form."""
    return hashlib.sha256(canonical(request)).digest()[:KEY_BYTES]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a member's chain. `recorded_at` is None before the first entry."""

    member: int
    sequence: int
    hash: bytes
    state: State
    recorded_at: datetime | None

    @classmethod
    def empty(cls, member: int) -> Head:
        """The chain before its first entry."""
        return cls(member, 0, GENESIS, State(), None)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Head:
        """The chain that ends with `entry`."""
        number = entry["_id"]
        state = State.of(entry["state"])
        return cls(member_of(number), sequence_of(number), bytes(entry["hash"]), state, entry["recorded_at"])


@dataclass(frozen=True, slots=True)
class Draft:
    """What an operation wants to happen, decided from the state before it.

    `facets` are the documents that features keep from now on, by name, and None for one that is no longer needed.
    `lapses` are wallets and the instants at which they lapse from now on, None for never.
    """

    kind: str
    occurred_at: datetime
    postings: Sequence[Posting]
    evidence: Document
    facets: Mapping[str, Document | None] = field(default_factory=dict)
    lapses: Mapping[str, datetime | None] = field(default_factory=dict)


def make_entry(
    head: Head,
    draft: Draft,
    *,
    program: str,
    keys: Sequence[bytes],
    state: State,
    postings: Sequence[Posting],
    lapses: Mapping[str, datetime | None],
    recorded_at: datetime,
) -> Document:
    """The document of the entry after `head`.

    `state` is the fold of `postings` over the head's state, with `lapses` and the draft's facets. The entry names the
    facets that it `touches`, so that nobody can change another one.
    """
    entry: Document = {
        "_id": entry_key(head.member, head.sequence + 1),
        "program": program,
        "keys": list(keys),
        "kind": draft.kind,
        "occurred_at": draft.occurred_at,
        "recorded_at": recorded_at,
        "postings": [posting.document() for posting in postings],
        "evidence": draft.evidence,
        "state": state.document(),
        "prev": head.hash,
    }
    if lapses:
        entry["lapses"] = dict(sorted(lapses.items()))
    if draft.facets:
        entry["touches"] = sorted(draft.facets)
    entry["hash"] = entry_hash(entry)
    return entry


def entry_content(entry: Mapping[str, Any]) -> Document:
    """What the hash of an entry is over: everything but the hash itself, and the public id for the number."""
    content = dict(entry)
    content.pop("hash", None)
    content["_id"] = entry_id(entry["_id"])
    return content


def entry_hash(entry: Mapping[str, Any]) -> bytes:
    """SHA-256 over the canonical content; the predecessor's hash is a part of it."""
    return hashlib.sha256(canonical(entry_content(entry))).digest()


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted names and no spaces; instants as RFC 3339 in UTC, bytes as lowercase hexadecimal.

    Within what an entry can hold (no floats, ASCII names) this is RFC 8785, so any language can recompute a hash. An
    instant without a zone is UTC: so the driver gives it to a reader that has to be quick.
    """
    return orjson.dumps(value, default=_hexadecimal, option=_CANONICAL)


_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC


def _hexadecimal(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"an entry cannot hold a {type(value).__name__}")
