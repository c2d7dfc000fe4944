"""The Merkle tree of a seal and its signature."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.seal import merkle_root, seal_defects, seal_hash


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word: split at the largest power of two below the size."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = by_definition(leaves[:split]), by_definition(leaves[split:])
    return hashlib.sha256(b"\1" + left + right).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=40))
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == by_definition(leaves)


def make(key: Ed25519PrivateKey, hashes: list[bytes]) -> dict[str, object]:
    seal: dict[str, object] = {"_id": 1, "count": len(hashes), "entries": b"", "prev": bytes(32)}
    seal["root"] = merkle_root(hashes)
    seal["hash"] = seal_hash(seal)
    seal["signature"] = key.sign(seal["hash"])  # type: ignore[arg-type]
    return seal


def test_every_kind_of_damage_is_named() -> None:
    key = Ed25519PrivateKey.generate()
    hashes = [bytes([number]) * 32 for number in range(5)]
    seal, public = make(key, hashes), key.public_key()
    assert seal_defects(seal, hashes, bytes(32), public) == []
    assert seal_defects(seal, hashes, b"\1" * 32, public) == ["it does not follow the seal before it"]
    assert seal_defects(seal, hashes[::-1], bytes(32), public) == ["its entries are not those that it sealed"]
    assert seal_defects({**seal, "count": 6}, hashes, bytes(32), public) == ["its content was changed"]
    stranger = Ed25519PrivateKey.generate().public_key()
    assert seal_defects(seal, hashes, bytes(32), stranger) == ["its signature is not the installation's"]
