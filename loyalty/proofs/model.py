"""How proofs look on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from loyalty.infra.http.model import Out, Page, Timestamp, format_instant
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.problems import Problem

Json = dict[str, Any]


class NotSealedYet(Problem):
    """Entries are sealed every minute, and this one has not been. Ask again after `Retry-After`."""

    code = "not_sealed_yet"
    status = 409
    title = "The entry is not sealed yet"


class SealBroken(Problem):
    """The seal of the entry does not fit the ledger any more, so nothing can be proven with it.

    The operator finds out more with `loyalty ledger verify`."""

    code = "seal_broken"
    status = 409
    title = "The seal does not verify"


class DefectOut(Out):
    """One thing that is wrong."""

    where: str = Field(description="An entry, a seal, a sum or a wallet.", examples=["ent_0000000g00001"])
    what: str = Field(description="What is wrong with it.", examples=["its content was changed"])


class VerificationRunOut(Out):
    """One verification of the whole ledger."""

    id: str = Field(description="Its id.", examples=["ver_01k0c0c0c0c0c0c0c0c0c0c0c0"])
    status: Literal["waiting", "running", "whole", "broken", "failed"] = Field(
        description="whole: nothing is wrong; broken: see `defects`; failed: it could not be finished, see `error`."
    )
    requested_at: Timestamp = Field(description="When it was asked for.")
    started_at: Timestamp | None = Field(description="When the jobs began with it.")
    finished_at: Timestamp | None = Field(description="When it ended.")
    entries: int = Field(description="Entries checked so far.", examples=[120000])
    entries_expected: int | None = Field(description="About how many there are.")
    chains: int | None = Field(description="Members whose chain was checked.")
    seals: int | None = Field(description="Seals that were checked.")
    sealed_entries: int | None = Field(description="Entries that seals name.")
    defects: list[DefectOut] = Field(description="What is wrong; the first broken entry of each chain, then the rest.")
    error: str | None = Field(description="Why it could not be finished.")


class ViolationOut(Out):
    """Something that the monitor found broken in a member's chain, and what became of it."""

    member: str = Field(description="Whose chain it is.", examples=["mem_00000001"])
    entry: str = Field(description="The entry that does not verify.", examples=["ent_0000000g00001"])
    what: str = Field(description="What is wrong with it.")
    found_at: Timestamp = Field(description="When it was found. Since then the member spends nothing.")
    resolved_at: Timestamp | None = Field(description="When somebody let the member spend again.")
    reason: str | None = Field(description="Why.")


class VerificationOut(Out):
    """What is known of the ledger's soundness."""

    latest: list[VerificationRunOut] = Field(description="The last verifications of the whole ledger, newest first.")
    violations: list[ViolationOut] = Field(
        description="What the monitor has found in this program's chains and nobody has resolved."
    )


class SealOut(Out):
    """A signed statement of which entries became part of the ledger, chained to the one before."""

    number: int = Field(description="Seals count from 1.", examples=[17])
    sealed_at: Timestamp = Field(description="When it was made.")
    entries: int = Field(description="How many entries it seals.", examples=[240])
    root: str = Field(description="Root of the Merkle tree (RFC 6962) over the hashes of the entries.")
    prev: str = Field(description="Hash of the seal before; zeros for the first.")
    hash: str = Field(description="SHA-256 of its content.")
    signature: str = Field(description="Ed25519 signature over the hash.")
    public_key: str | None = Field(description="The key that verifies it; null for seals of older releases.")


class SealPage(Page[SealOut]):
    """One page of seals, newest first."""


class ReceiptOut(Out):
    """One entry with the proof that it is in the sealed ledger. `loyalty receipt verify FILE` checks it offline."""

    format: Literal["loyalty-receipt-1"] = Field(description="The form of the receipt.")
    entry: Json = Field(description="Everything that the entry's hash is over: SHA-256 of it as RFC 8785 JSON.")
    hash: str = Field(description="The hash of the entry: a leaf of the seal's Merkle tree.")
    index: int = Field(description="Which leaf, from 0.")
    path: list[str] = Field(description="The audit path (RFC 6962) from the leaf to the root.")
    seal: Json = Field(description="Everything that the seal's hash is over; `root` and `count` are those of the tree.")
    seal_hash: str = Field(description="The hash of the seal: SHA-256 of it as RFC 8785 JSON.")
    signature: str = Field(description="Ed25519 signature over the hash of the seal.")
    public_key: str = Field(
        description="The key that it was made with. Compare it with the one the operator published."
    )


def run_json(document: Mapping[str, Any]) -> Json:
    """A `VerificationRunOut`."""
    return {
        "id": document["_id"],
        "status": document["status"],
        "requested_at": format_instant(document["requested_at"]),
        "started_at": _instant(document.get("started_at")),
        "finished_at": _instant(document.get("finished_at")),
        "entries": document.get("entries", 0),
        "entries_expected": document.get("entries_expected"),
        "chains": document.get("chains"),
        "seals": document.get("seals"),
        "sealed_entries": document.get("sealed_entries"),
        "defects": document.get("defects", []),
        "error": document.get("error"),
    }


def violation_json(document: Mapping[str, Any]) -> Json:
    """A `ViolationOut`."""
    return {
        "member": member_id(document["member"]),
        "entry": entry_id(document["_id"]),
        "what": document["what"],
        "found_at": format_instant(document["found_at"]),
        "resolved_at": _instant(document.get("resolved_at")),
        "reason": document.get("reason"),
    }


def seal_json(seal: Mapping[str, Any]) -> Json:
    """A `SealOut`."""
    return {
        "number": seal["_id"],
        "sealed_at": format_instant(seal["sealed_at"]),
        "entries": seal["count"],
        "root": bytes(seal["root"]).hex(),
        "prev": bytes(seal["prev"]).hex(),
        "hash": bytes(seal["hash"]).hex(),
        "signature": bytes(seal["signature"]).hex(),
        "public_key": bytes(seal["public_key"]).hex() if "public_key" in seal else None,
    }


def _instant(value: datetime | None) -> str | None:
    return None if value is None else format_instant(value)
