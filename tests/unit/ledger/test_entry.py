"""Numbers, keys, canonical bytes and hashes of entries."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.entry import (
    GENESIS,
    Draft,
    Head,
    business_key,
    canonical,
    entry_hash,
    entry_key,
    make_entry,
    member_of,
    request_digest,
    sequence_of,
)
from loyalty.ledger.movements import credit
from loyalty.ledger.state import State, fold

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
TIMED: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


def example(member: int = 7, points: int = 11) -> dict[str, object]:
    postings = credit(State(), "points", points, source="issuance", sequence=1)
    draft = Draft("earn", NOON, postings, {"event": {"source": "till", "id": "1"}, "request": b"r" * 16})
    state = fold(State(), postings)
    return make_entry(
        Head.empty(member),
        draft,
        program="main",
        keys=[b"k" * 16],
        state=state,
        postings=postings,
        lapses={},
        recorded_at=NOON,
    )


@given(st.integers(1, (1 << 39) - 1), st.integers(1, (1 << 24) - 1))
def test_the_number_holds_member_and_sequence(member: int, sequence: int) -> None:
    number = entry_key(member, sequence)
    assert (member_of(number), sequence_of(number)) == (member, sequence)


@pytest.mark.parametrize("sequence", [0, 1 << 24])
def test_a_chain_has_a_first_and_a_last_place(sequence: int) -> None:
    with pytest.raises(ValueError, match="full"):
        entry_key(1, sequence)


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_different_parts_make_different_keys(one: list[str], other: list[str]) -> None:
    assert (business_key("main", "event", *one) == business_key("main", "event", *other)) == (one == other)


def test_a_request_is_the_same_in_any_order_of_its_fields() -> None:
    assert request_digest({"a": "1", "b": {"c": 2, "d": 3}}) == request_digest({"b": {"d": 3, "c": 2}, "a": "1"})
    assert request_digest({"a": "1"}) != request_digest({"a": 1})


def test_the_hash_is_the_same_after_the_database_has_had_the_entry() -> None:
    entry = example()
    stored = bson.decode(bson.encode(entry), TIMED)
    assert entry_hash(stored) == entry["hash"] == stored["hash"]


@pytest.mark.parametrize(
    "field", ["program", "keys", "kind", "occurred_at", "recorded_at", "postings", "evidence", "prev"]
)
def test_every_field_is_under_the_hash(field: str) -> None:
    entry = example()
    changed = {**entry, field: "something else"}
    assert entry_hash(changed) != entry["hash"]


def test_the_predecessor_is_under_the_hash() -> None:
    assert example()["prev"] == GENESIS
    assert entry_hash({**example(), "prev": b"\1" * 32}) != example()["hash"]


def test_the_canonical_form_can_be_made_without_this_code() -> None:
    entry = {"b": 1, "a": {"z": NOON, "y": b"\x00\xff"}, "c": ["ü", None, True]}
    by_hand = {"a": {"y": "00ff", "z": "2026-03-01T12:00:00Z"}, "b": 1, "c": ["ü", None, True]}
    assert canonical(entry) == json.dumps(by_hand, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def test_the_head_is_read_from_an_entry() -> None:
    head = Head.of(example(member=9))
    assert (head.member, head.sequence, head.recorded_at) == (9, 1, NOON)
    assert head.state.wallet("points").available == 11
