"""The ends of many chains are right however far the projection, which says where to look, is behind or ahead."""

from __future__ import annotations

from datetime import datetime

import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.ledger import INDEXES
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.heads import read_head, read_heads
from loyalty.ledger.movements import credit
from loyalty.ledger.projection import project
from loyalty.ledger.state import State

LENGTHS = range(13)


@pytest.fixture
def db(empty_database: Mongo) -> Mongo:
    """Chains of 0 to 12 entries, of members 1 to 13."""
    for collection, indexes in INDEXES.items():
        empty_database[collection].create_indexes(indexes)
    for length in LENGTHS:
        append(empty_database.ledger, [earn(length + 1, place) for place in range(length)], clock=system_clock)
    return empty_database


def earn(member: int, place: int) -> Operation:
    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("earn", now, credit(state, "points", 1, source="issuance", sequence=sequence), {})

    key = business_key("main", "test", str(member), str(place))
    return Operation("main", member, (key,), request_digest({"place": place}), decide)


@pytest.mark.parametrize("behind", range(8))
def test_the_ends_are_right_when_the_projection_is_behind(db: Mongo, behind: int) -> None:
    entries = [entry for entry in db.ledger.find() if (entry["_id"] & 0xFFFFFF) <= 12 - behind]
    project(db, entries)
    members = [length + 1 for length in LENGTHS]
    heads = read_heads(db.ledger, members)
    assert heads == {member: read_head(db.ledger, member) for member in members}
    assert [heads[member].sequence for member in members] == list(LENGTHS)


def test_the_ends_are_right_when_the_projection_is_of_another_ledger(db: Mongo) -> None:
    db.wallets.insert_many([{"_id": length + 1, "sequence": 1000} for length in LENGTHS])
    heads = read_heads(db.ledger, [length + 1 for length in LENGTHS])
    assert [heads[length + 1].sequence for length in LENGTHS] == list(LENGTHS)


def test_no_members_have_no_ends(db: Mongo) -> None:
    assert read_heads(db.ledger, []) == {}
