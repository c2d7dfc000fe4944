"""Receipts: the audit path of RFC 6962, and that nothing in a receipt can be changed."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.ledger.receipts import BadReceipt, check_receipt, make_receipt
from loyalty.ledger.seal import audit_path, merkle_root, root_of_path, seal_hash
from tests.chains import BEGIN, make

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ENTRIES = list(make(members=4, length=12, seed=5))

leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def tree_hash(hashes: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if len(hashes) == 1:
        return hashlib.sha256(b"\0" + hashes[0]).digest()
    split = largest_power_below(len(hashes))
    return hashlib.sha256(b"\1" + tree_hash(hashes[:split]) + tree_hash(hashes[split:])).digest()


def path_by_definition(index: int, hashes: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1, word by word."""
    if len(hashes) == 1:
        return []
    split = largest_power_below(len(hashes))
    if index < split:
        return [*path_by_definition(index, hashes[:split]), tree_hash(hashes[split:])]
    return [*path_by_definition(index - split, hashes[split:]), tree_hash(hashes[:split])]


def largest_power_below(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


@given(leaves, st.data())
def test_the_path_is_that_of_the_rfc_and_leads_to_the_root(hashes: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(hashes) - 1))
    path = audit_path(hashes, index)
    assert path == path_by_definition(index, hashes)
    assert root_of_path(hashes[index], index, len(hashes), path) == merkle_root(hashes) == tree_hash(hashes)


@given(leaves, st.data())
def test_another_place_leaf_or_size_leads_elsewhere(hashes: list[bytes], data: st.DataObject) -> None:
    hashes = list(dict.fromkeys(hashes))
    index, other = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(-1, len(hashes)))
    path, root = audit_path(hashes, index), merkle_root(hashes)
    if other != index:
        assert root_of_path(hashes[index], other, len(hashes), path) != root
        if 0 <= other < len(hashes):
            assert root_of_path(hashes[other], index, len(hashes), path) != root
    assert root_of_path(hashes[index], index, len(hashes), [*path, root]) != root
    assert root_of_path(hashes[index], index, len(hashes), path[:-1]) != root or not path


def seal_of(entries: list[dict[str, Any]], form: int | None) -> dict[str, Any]:
    seal: dict[str, Any] = {
        "_id": 7,
        "sealed_at": BEGIN,
        "count": len(entries),
        "entries": struct.pack(f">{len(entries)}q", *[entry["_id"] for entry in entries]),
        "root": merkle_root([entry["hash"] for entry in entries]),
        "prev": b"p" * 32,
    }
    if form:
        seal |= {"public_key": PUBLIC, "form": form}
    seal["hash"] = seal_hash(seal)
    seal["signature"] = KEY.sign(seal["hash"])
    return seal


def receipt_of(index: int = 3, form: int | None = 2) -> bytes:
    seal = seal_of(ENTRIES, form)
    return make_receipt(ENTRIES[index], seal, [entry["hash"] for entry in ENTRIES], index, PUBLIC)


@pytest.mark.parametrize("form", [None, 2])
def test_every_entry_of_a_seal_has_a_receipt_that_proves_it(form: int | None) -> None:
    """Seals of the first form, whose hash is over the whole list of entries, too."""
    for index in range(len(ENTRIES)):
        proven = check_receipt(receipt_of(index, form), public_key=PUBLIC)
        assert proven.entry["kind"] == ENTRIES[index]["kind"]
        assert proven.seal["_id"] == 7
        assert "trust" in proven.checks[-1]
    assert "NOT checked" in check_receipt(receipt_of()).checks[-1]
    assert len(receipt_of(form=2)) < 4000


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field and element of a JSON value, and the value itself."""
    if isinstance(value, dict):
        inner = [place for name, part in value.items() for place in places(part, (*here, name))]
    elif isinstance(value, list):
        inner = [place for number, part in enumerate(value) for place in places(part, (*here, number))]
    else:
        inner = []
    return [here, *inner]


DOCUMENT = json.loads(receipt_of())
PLACES = [place for place in places(DOCUMENT) if place]


@settings(max_examples=400)
@given(st.sampled_from(PLACES), st.data())
def test_no_field_can_be_changed_removed_or_added(place: tuple[Any, ...], data: st.DataObject) -> None:
    document = json.loads(receipt_of())
    parent = document
    for step in place[:-1]:
        parent = parent[step]
    value = parent[place[-1]]
    how = data.draw(st.sampled_from(["change", "remove", "add"]))
    if how == "remove":
        del parent[place[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent["unknown"] = 1
    elif isinstance(value, bool) or value is None:
        parent[place[-1]] = "x"
    elif isinstance(value, int):
        parent[place[-1]] = value + data.draw(st.sampled_from([1, -1, 1 << 20]))
    elif isinstance(value, str):
        at = data.draw(st.integers(0, max(0, len(value) - 1)))
        other = "1" if value[at : at + 1] == "0" else "0"
        parent[place[-1]] = value[:at] + other + value[at + 1 :]
    else:
        parent[place[-1]] = data.draw(st.sampled_from([[], {}, "", 0, None, [value]]))
        if parent[place[-1]] == value:
            return  # an empty list for an empty list
    with pytest.raises(BadReceipt):
        check_receipt(json.dumps(document).encode(), public_key=PUBLIC)


def test_a_stranger_can_sign_only_in_his_own_name() -> None:
    stranger = Ed25519PrivateKey.generate()
    document = json.loads(receipt_of(form=None))
    document["signature"] = stranger.sign(bytes.fromhex(document["seal_hash"])).hex()
    with pytest.raises(BadReceipt, match="signature"):
        check_receipt(json.dumps(document).encode())
    document["public_key"] = stranger.public_key().public_bytes_raw().hex()
    assert "NOT checked" in check_receipt(json.dumps(document).encode()).checks[-1]
    with pytest.raises(BadReceipt, match="not the one you trust"):
        check_receipt(json.dumps(document).encode(), public_key=PUBLIC)


@given(st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr)))
def test_anything_else_is_refused(junk: bytes | str) -> None:
    with pytest.raises(BadReceipt):
        check_receipt(junk if isinstance(junk, bytes) else junk.encode(errors="replace"))


@given(st.dictionaries(st.sampled_from(list(DOCUMENT)), st.recursive(st.none() | st.text() | st.integers(), st.lists)))
def test_a_receipt_of_wrong_types_is_refused(fields: dict[str, Any]) -> None:
    document = {**DOCUMENT, **fields}
    if document != DOCUMENT:
        with pytest.raises(BadReceipt):
            check_receipt(json.dumps(document).encode())


def test_depth_is_refused_too() -> None:
    for depth in (300, 2000):
        deep = receipt_of().replace(b'"kind":', b'"deep":' + b"[" * depth + b"]" * depth + b',"kind":')
        with pytest.raises(BadReceipt):
            check_receipt(deep)
