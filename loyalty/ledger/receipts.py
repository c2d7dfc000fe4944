"""Receipts: one entry with the proof that it is in the sealed ledger, checkable by anybody, offline.

A receipt is JSON. `entry` is the content that the entry's hash is over, `path` leads from that hash to the root of the
seal's Merkle tree (RFC 6962), `seal` is the content that the seal's hash is over, and the signature is over that hash.
Whoever checks it needs SHA-256, Ed25519 and JSON with sorted names, and the installation's public key from elsewhere:
the one in the receipt says who claims to have signed it, not who that is.

Pure: nothing here asks a database, a setting or the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from loyalty.ledger.entry import canonical, entry_content
from loyalty.ledger.seal import audit_path, root_of_path, seal_content
from loyalty.ledger.state import Document

FORMAT: Final = "loyalty-receipt-1"
LONGEST: Final = 32 * 1024 * 1024
"""Bytes of a receipt: the largest entry that MongoDB holds, as JSON."""

_FIELDS: Final = {"format": str, "entry": dict, "hash": str, "index": int, "path": list, "seal": dict}
_FIELDS_OF_SIGNATURE: Final = {"seal_hash": str, "signature": str, "public_key": str}
_LONGEST_PATH: Final = 64


class BadReceipt(Exception):
    """The receipt proves nothing: the message says which check failed and what that means."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a good receipt proves, and the sentences that say how."""

    entry: Document
    seal: Document
    public_key: bytes
    checks: tuple[str, ...]


def make_receipt(
    entry: Mapping[str, Any], seal: Mapping[str, Any], hashes: Sequence[bytes], index: int, public_key: bytes
) -> bytes:
    """The receipt of `entry`, which is the leaf `index` among the `hashes` of the entries of `seal`."""
    return canonical(
        {
            "format": FORMAT,
            "entry": entry_content(entry),
            "hash": entry["hash"],
            "index": index,
            "path": audit_path(hashes, index),
            "seal": seal_content(seal),
            "seal_hash": seal["hash"],
            "signature": seal["signature"],
            "public_key": public_key,
        }
    )


def check_receipt(receipt: bytes, *, public_key: bytes | None = None) -> Proven:
    """Check a receipt. BadReceipt if anything about it is wrong.

    `public_key` is the installation's, known from elsewhere; without it the receipt is only consistent in itself, which
    the last of the `checks` says.
    """
    document = _read(receipt)
    entry, seal = document["entry"], document["seal"]
    leaf = _digest(entry)
    if leaf != _bytes(document, "hash", 32):
        _bad("The entry is not the one that was sealed: its content does not have the hash that the receipt names.")
    size = seal.get("count")
    root = _text_bytes(seal.get("root"))
    path = [_text_bytes(node) for node in document["path"]]
    if type(size) is not int or any(node is None or len(node) != 32 for node in path) or len(path) > _LONGEST_PATH:
        _bad("The path or the size of the tree has not the form it should have.")
    if root is None or root_of_path(leaf, document["index"], size, [node for node in path if node]) != root:
        _bad("The path does not lead from the entry to the root of the seal: the entry is not in that seal.")
    digest = _digest(seal)
    if digest != _bytes(document, "seal_hash", 32):
        _bad("The seal was changed: its content does not have the hash that was signed.")
    named = _bytes(document, "public_key", 32)
    if seal.get("public_key", document["public_key"]) != document["public_key"]:
        _bad("The seal names another public key than the receipt.")
    if public_key is not None and public_key != named:
        _bad(f"The receipt is signed with the key {named.hex()}, which is not the one you trust.")
    try:
        Ed25519PublicKey.from_public_bytes(named).verify(_bytes(document, "signature", 64), digest)
    except InvalidSignature:
        _bad("The signature is not that of the key.")
    checks = (
        f"The entry {entry.get('_id')} has the hash {leaf.hex()}.",
        f"It is leaf {document['index']} of the {size} in the tree of seal {seal.get('_id')}, root {root.hex()}.",
        f"Seal {seal.get('_id')}, made at {seal.get('sealed_at')}, has the hash {digest.hex()}.",
        f"That hash is signed with the key {named.hex()}.",
        "That is the key you trust."
        if public_key is not None
        else "NOT checked: whose key that is. Compare it with the one that the operator has published.",
    )
    return Proven(entry, seal, named, checks)


def _read(receipt: bytes) -> Document:
    if len(receipt) > LONGEST:
        _bad("It is too long to be a receipt.")
    try:
        document = orjson.loads(receipt)
    except orjson.JSONDecodeError:
        _bad("It is not a receipt: it is not JSON. Take it as GET /v1/entries/{entry}/receipt answered it.")
    wanted = {**_FIELDS, **_FIELDS_OF_SIGNATURE}
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        _bad(f"It is not a receipt of the form {FORMAT}. A newer release may know it.")
    wrong = sorted(document.keys() ^ wanted.keys()) or [
        name for name, kind in wanted.items() if type(document[name]) is not kind
    ]
    if wrong:
        _bad(f"Its field {wrong[0]!r} is missing, unknown, or has not the form it should have.")
    return document


def _digest(content: Document) -> bytes:
    try:
        return hashlib.sha256(canonical(content)).digest()
    except TypeError:
        _bad("It is nested deeper than any entry.")


def _bytes(document: Document, name: str, length: int) -> bytes:
    value = _text_bytes(document[name])
    if value is None or len(value) != length:
        _bad(f"Its field {name!r} is not {length} bytes in hexadecimal.")
    return value


def _text_bytes(value: object) -> bytes | None:
    """The bytes that lowercase hexadecimal stands for; None for anything else, so that there is one way to write it."""
    if not isinstance(value, str):
        return None
    try:
        found = bytes.fromhex(value)
    except ValueError:
        return None
    return found if found.hex() == value else None


def _bad(why: str) -> NoReturn:
    raise BadReceipt(why)
