"""The writer of the ledger against a real replica set: once, never lost, never overspent, whoever is faster."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.ledger import INDEXES
from loyalty.ledger.append import Operation, Outcome, append
from loyalty.ledger.entry import Draft, business_key, request_digest, sequence_of
from loyalty.ledger.heads import read_entries, read_head, read_head_at, read_heads
from loyalty.ledger.movements import credit, debit
from loyalty.ledger.projection import project, rebuild
from loyalty.ledger.state import InsufficientPoints, State
from loyalty.ledger.verify import verify


@pytest.fixture
def db(empty_database: Mongo) -> Mongo:
    for collection, indexes in INDEXES.items():
        empty_database[collection].create_indexes(indexes)
    return empty_database


def earn(member: int, points: int, key: str = "", **lot: datetime) -> Operation:
    def decide(state: State, sequence: int, now: datetime) -> Draft:
        postings = credit(state, "points", points, source="issuance", sequence=sequence, **lot)
        return Draft("earn", now, postings, {})

    return operation(member, f"earn {points}", key, decide)


def spend(member: int, points: int, key: str = "") -> Operation:
    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("spend", now, debit(state, "points", points, target="spent"), {})

    return operation(member, f"spend {points}", key, decide)


def operation(member: int, request: str, key: str, decide: Callable[[State, int, datetime], Draft]) -> Operation:
    unique = business_key("main", "test", key or secrets.token_hex(8))
    return Operation("main", member, (unique,), request_digest({"member": member, "act": request}), decide)


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def available(db: Mongo, member: int) -> int:
    return read_head(db.ledger, member).state.wallet("points").available


def test_entries_of_a_member_form_a_chain(db: Mongo) -> None:
    append(db.ledger, [earn(1, 10)], clock=system_clock)
    append(db.ledger, [earn(1, 5), spend(1, 12), earn(2, 7)], clock=system_clock)
    newest_first = read_entries(db.ledger, 1, before=None, limit=10)
    assert [sequence_of(entry["_id"]) for entry in newest_first] == [3, 2, 1]
    assert [entry["kind"] for entry in newest_first] == ["spend", "earn", "earn"]
    assert newest_first[0]["prev"] == newest_first[1]["hash"]
    assert (available(db, 1), available(db, 2)) == (3, 7)
    assert verify(db).ok


def test_the_same_key_gives_the_first_entry_again(db: Mongo) -> None:
    first = append(db.ledger, [earn(1, 10, "k")], clock=system_clock)[0]
    again = append(db.ledger, [earn(1, 10, "k")], clock=system_clock)[0]
    assert again.status == "replayed"
    assert again.entry is not None
    assert first.entry is not None
    assert again.entry["_id"] == first.entry["_id"]
    assert db.ledger.count_documents({}) == 1


def test_the_same_key_with_another_request_is_a_conflict(db: Mongo) -> None:
    append(db.ledger, [earn(1, 10, "k")], clock=system_clock)
    other = earn(1, 11, "k")
    outcome = append(db.ledger, [other], clock=system_clock)[0]
    assert (outcome.status, outcome.key) == ("conflict", other.keys[0])
    assert available(db, 1) == 10


def test_a_key_belongs_to_the_program_not_to_the_member(db: Mongo) -> None:
    append(db.ledger, [earn(1, 10, "k")], clock=system_clock)
    assert append(db.ledger, [earn(2, 10, "k")], clock=system_clock)[0].status == "conflict"
    assert available(db, 2) == 0


def test_the_same_key_twice_in_one_batch_counts_once(db: Mongo) -> None:
    outcomes = append(db.ledger, [earn(1, 10, "k"), earn(1, 10, "k"), earn(1, 11, "k")], clock=system_clock)
    assert statuses(outcomes) == ["applied", "replayed", "conflict"]
    assert available(db, 1) == 10


def test_a_repeated_spend_is_a_replay_although_nothing_is_left(db: Mongo) -> None:
    append(db.ledger, [earn(1, 10), spend(1, 10, "k")], clock=system_clock)
    assert statuses(append(db.ledger, [spend(1, 10, "k")], clock=system_clock)) == ["replayed"]


def test_a_batch_refuses_only_what_the_stored_chain_does_not_allow(db: Mongo) -> None:
    outcomes = append(db.ledger, [earn(1, 10), spend(1, 8), spend(1, 8), earn(1, 6), spend(1, 9)], clock=system_clock)
    # The third waits for the first two to be stored; by then the earn behind it has been stored as well.
    assert statuses(outcomes) == ["applied", "applied", "applied", "applied", "refused"]
    assert isinstance(outcomes[4].refusal, InsufficientPoints)
    assert available(db, 1) == 0
    assert verify(db).ok


def test_a_stale_head_is_noticed_and_read_again(db: Mongo) -> None:
    stale = read_heads(db.ledger, [1, 2])
    append(db.ledger, [earn(1, 10)], clock=system_clock)
    outcomes = append(db.ledger, [earn(1, 5), earn(2, 1)], clock=system_clock, heads=stale)
    assert statuses(outcomes) == ["applied", "applied"]
    assert available(db, 1) == 15
    assert verify(db).ok


def test_a_chain_built_on_a_stale_head_leaves_no_gap(db: Mongo) -> None:
    stale = read_heads(db.ledger, [1])
    append(db.ledger, [earn(1, 10)], clock=system_clock)
    append(db.ledger, [earn(1, 1), earn(1, 2), earn(1, 3)], clock=system_clock, heads=stale)
    assert available(db, 1) == 16
    assert verify(db).ok


@pytest.mark.parametrize("in_batches_of", [1, 5])
def test_concurrent_spends_never_overspend_and_none_is_refused_too_early(db: Mongo, in_batches_of: int) -> None:
    append(db.ledger, [earn(1, 1000)], clock=system_clock)

    def buy(_: int) -> list[Outcome]:
        return append(db.ledger, [spend(1, 70) for _ in range(in_batches_of)], clock=system_clock)

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for batch in pool.map(buy, range(40 // in_batches_of)) for outcome in batch]
    assert statuses(outcomes).count("applied") == 1000 // 70
    assert statuses(outcomes).count("refused") == 40 - 1000 // 70
    assert available(db, 1) == 1000 % 70
    assert verify(db).ok


def test_concurrent_attempts_with_one_key_count_once(db: Mongo) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: append(db.ledger, [earn(1, 50, "k")], clock=system_clock)[0], range(24)))
    assert sorted(statuses(outcomes)) == ["applied", *["replayed"] * 23]
    assert available(db, 1) == 50


def test_expired_points_are_settled_by_the_next_entry_whatever_the_jobs_do(db: Mongo) -> None:
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    append(db.ledger, [earn(1, 10, expires_at=start + timedelta(days=30)), earn(1, 4)], clock=lambda: start)
    refused, applied = append(db.ledger, [spend(1, 5), spend(1, 3)], clock=lambda: start + timedelta(days=30))
    assert refused.status == "refused"
    assert applied.entry is not None
    assert [(p["from"], p["to"], p["points"]) for p in applied.entry["postings"]] == [
        ("available", "expired", 10),
        ("available", "spent", 3),
    ]
    assert verify(db).ok


def test_time_never_runs_backwards_in_a_chain(db: Mongo) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    append(db.ledger, [earn(1, 10)], clock=lambda: noon)
    append(db.ledger, [earn(1, 10)], clock=lambda: noon - timedelta(hours=3))
    assert [entry["recorded_at"] for entry in read_entries(db.ledger, 1, before=None, limit=2)] == [noon, noon]
    assert read_head_at(db.ledger, 1, noon - timedelta(hours=1)).sequence == 0


def test_the_projection_follows_and_a_rebuilt_one_is_the_same(db: Mongo) -> None:
    append(db.ledger, [earn(member, 10 * member) for member in (1, 2, 3) for _ in range(4)], clock=system_clock)
    entries = list(db.ledger.find())
    project(db, entries[5:])
    project(db, entries[:8])  # again, and late
    followed = list(db.wallets.find(sort=[("_id", 1)]))
    assert [wallet["wallets"]["points"]["available"] for wallet in followed] == [40, 80, 120]
    assert rebuild(db) == 3
    assert list(db.wallets.find(sort=[("_id", 1)])) == followed
