"""Acts on several members: all of it or none, exactly once, whoever else writes."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from pymongo.client_session import ClientSession

from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Mongo
from loyalty.ledger import INDEXES
from loyalty.ledger.append import Operation, append, append_together
from loyalty.ledger.entry import Draft, business_key, request_digest
from loyalty.ledger.heads import read_head
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.state import InsufficientPoints, Refusal, State


@pytest.fixture
def db(empty_database: Mongo) -> Mongo:
    for collection, indexes in INDEXES.items():
        empty_database[collection].create_indexes(indexes)
    empty_database.create_collection("stock")
    return empty_database


def give(member: int, points: int) -> Operation:
    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("earn", now, credit(state, "points", points, source="issuance", sequence=sequence), {})

    return Operation("main", member, (secrets.token_bytes(16),), b"give", decide)


def transfer(giver: int, taker: int, points: int, key: str = "") -> list[Operation]:
    """The two halves of a transfer."""
    name = key or secrets.token_hex(8)

    def leave(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("transfer", now, debit(state, "points", points, target="transferred"), {})

    def arrive(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("transfer", now, credit(state, "points", points, source="transferred", sequence=sequence), {})

    request = request_digest({"from": giver, "to": taker, "points": points})
    return [
        Operation("main", giver, (business_key("main", "out", name),), request, leave),
        Operation("main", taker, (business_key("main", "in", name),), request, arrive),
    ]


def available(db: Mongo, member: int) -> int:
    return read_head(db.ledger, member).state.wallet("points").available


def test_both_chains_grow_and_name_each_other(db: Mongo) -> None:
    append(db.ledger, [give(1, 100)], clock=system_clock)
    outcomes = append_together(db.ledger, transfer(1, 2, 30), clock=system_clock)
    left, arrived = [outcome.entry for outcome in outcomes]
    assert left is not None
    assert arrived is not None
    assert left["evidence"]["with"] == [entry_id(arrived["_id"])]
    assert arrived["evidence"]["with"] == [entry_id(left["_id"])]
    assert (available(db, 1), available(db, 2)) == (70, 30)


def test_a_repetition_has_the_answer_of_the_first_time(db: Mongo) -> None:
    append(db.ledger, [give(1, 100)], clock=system_clock)
    first = append_together(db.ledger, transfer(1, 2, 30, "k"), clock=system_clock)
    again = append_together(db.ledger, transfer(1, 2, 30, "k"), clock=system_clock)
    other = append_together(db.ledger, transfer(1, 2, 31, "k"), clock=system_clock)
    assert [outcome.status for outcome in again] == ["replayed", "replayed"]
    assert [outcome.entry for outcome in again] == [outcome.entry for outcome in first]
    assert {outcome.status for outcome in other} == {"conflict"}
    assert (available(db, 1), available(db, 2)) == (70, 30)


def test_a_refusal_of_one_half_leaves_the_other_undone(db: Mongo) -> None:
    append(db.ledger, [give(1, 10)], clock=system_clock)
    outcomes = append_together(db.ledger, transfer(1, 2, 30), clock=system_clock)
    assert [type(outcome.refusal) for outcome in outcomes] == [InsufficientPoints, InsufficientPoints]
    assert db.ledger.count_documents({}) == 1


def test_what_is_written_beside_it_shares_its_fate(db: Mongo) -> None:
    append(db.ledger, [give(1, 100)], clock=system_clock)
    db.stock.insert_one({"_id": "mug", "left": 1})

    def take_one(session: ClientSession) -> None:
        changed = db.stock.update_one({"_id": "mug", "left": {"$gt": 0}}, {"$inc": {"left": -1}}, session=session)
        if not changed.modified_count:
            raise Refusal("out of stock")

    def attempt(_: int) -> str:
        return append_together(db.ledger, transfer(1, 2, 10), clock=system_clock, also=take_one)[0].status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(attempt, range(8)))
    assert sorted(statuses) == ["applied"] + ["refused"] * 7
    assert db.stock.find_one({"_id": "mug"}) == {"_id": "mug", "left": 0}
    assert (available(db, 1), available(db, 2)) == (90, 10)


def test_crossing_transfers_and_single_acts_lose_and_double_nothing(db: Mongo) -> None:
    append(db.ledger, [give(member, 50) for member in (1, 2, 3)], clock=system_clock)

    def attempt(number: int) -> int:
        giver, taker = 1 + number % 3, 1 + (number + 1 + number // 3 % 2) % 3
        outcomes = append_together(db.ledger, transfer(giver, taker, 7), clock=system_clock)
        append(db.ledger, [give(1 + number % 3, 1)], clock=system_clock)
        return len([outcome for outcome in outcomes if outcome.status == "applied"])

    with ThreadPoolExecutor(8) as pool:
        applied = sum(pool.map(attempt, range(40)))
    assert db.ledger.count_documents({"kind": "transfer"}) == applied
    assert sum(available(db, member) for member in (1, 2, 3)) == 150 + 40
    assert all(not read_head(db.ledger, member).state.wallet("points").defects() for member in (1, 2, 3))
