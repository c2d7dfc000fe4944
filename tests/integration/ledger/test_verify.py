"""Verification names what was tampered with, whatever it was."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pymongo.errors import PyMongoError

from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.mongo import Mongo
from loyalty.ledger import INDEXES
from loyalty.ledger import verify as module
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft, entry_hash, entry_key
from loyalty.ledger.leaves import Leaves
from loyalty.ledger.movements import credit
from loyalty.ledger.projection import rebuild
from loyalty.ledger.seal import Sealer
from loyalty.ledger.state import State
from loyalty.ledger.verify import Witness, verify
from tests.chains import fill

KEY = Ed25519PrivateKey.generate()


def earn(member: int) -> Operation:
    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("earn", now, credit(state, "points", 10, source="issuance", sequence=sequence), {})

    return Operation("main", member, (secrets.token_bytes(16),), b"r" * 16, decide)


@pytest.fixture
def db(empty_database: Mongo) -> Mongo:
    """Three members with four entries each, sealed in two seals, and projected."""
    db = empty_database
    for collection, indexes in INDEXES.items():
        db[collection].create_indexes(indexes)
    sealer = Sealer(db, KEY)
    for _ in range(2):
        append(db.ledger, [earn(member) for member in (1, 2, 3) for _ in range(2)], clock=system_clock)
        rebuild(db)
        sealer.seal(system_clock())
    return db


def test_a_sound_ledger_has_no_defects_and_is_counted(db: Mongo) -> None:
    found = verify(db, seal_key=KEY.public_key())
    assert found.defects == []
    assert (found.entries, found.chains, found.seals, found.sealed_entries) == (12, 3, 2, 12)
    assert found.available == {"points": 120}
    assert found.kinds == {"earn": 12}


def test_a_seal_covers_only_what_is_new(db: Mongo) -> None:
    assert [seal["count"] for seal in db.seals.find(sort=[("_id", 1)])] == [6, 6]
    assert Sealer(db, KEY).seal(system_clock()) is None


def test_two_sealers_cannot_fork_the_chain_of_seals(db: Mongo) -> None:
    one, other = Sealer(db, KEY), Sealer(db, KEY)
    assert one.seal(system_clock()) is other.seal(system_clock()) is None  # both know the chain's end now
    append(db.ledger, [earn(1)], clock=system_clock)
    rebuild(db)
    assert one.seal(system_clock()) is not None
    assert other.seal(system_clock()) is None
    append(db.ledger, [earn(1)], clock=system_clock)
    rebuild(db)
    assert other.seal(system_clock()) is not None
    assert verify(db, seal_key=KEY.public_key()).ok


def raise_points(db: Mongo) -> str:
    number = entry_key(2, 3)
    db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": 1}})
    return entry_id(number)


def forge_state(db: Mongo) -> str:
    """The forger even recomputes the hash of the entry."""
    entry = db.ledger.find_one({"_id": entry_key(1, 2)})
    assert entry is not None
    wallet = entry["state"]["wallets"]["points"]
    wallet["available"] = wallet["lifetime"]["earned"] = wallet["lots"][0]["points"] = 1000
    entry["hash"] = entry_hash(entry)
    db.ledger.replace_one({"_id": entry["_id"]}, entry)
    return entry_id(entry["_id"])


def remove_from_the_middle(db: Mongo) -> str:
    db.ledger.delete_one({"_id": entry_key(3, 2)})
    return entry_id(entry_key(3, 3))


def remove_the_end(db: Mongo) -> str:
    db.ledger.delete_one({"_id": entry_key(3, 4)})
    return "seal 2"


def drop_a_seal(db: Mongo) -> str:
    db.seals.delete_one({"_id": 1})
    return "seal 2"


def change_a_seal(db: Mongo) -> str:
    db.seals.update_one({"_id": 1}, {"$set": {"sealed_at": system_clock()}})
    return "seal 1"


def change_the_projection(db: Mongo) -> str:
    db.wallets.update_one({"_id": 2}, {"$set": {"wallets.points.available": 1}})
    return f"wallets of {member_id(2)}"


@pytest.mark.parametrize(
    "tamper",
    [
        raise_points,
        forge_state,
        remove_from_the_middle,
        remove_the_end,
        drop_a_seal,
        change_a_seal,
        change_the_projection,
    ],
)
def test_the_first_broken_thing_is_named(db: Mongo, tamper: Callable[[Mongo], str]) -> None:
    where = tamper(db)
    found = verify(db, seal_key=KEY.public_key())
    assert not found.ok
    assert found.defects[0].where == where


def test_a_whole_chain_made_anew_is_caught_by_the_seals(db: Mongo) -> None:
    db.ledger.delete_many({"_id": {"$gt": 1 << 24, "$lt": 2 << 24}})
    append(db.ledger, [earn(1) for _ in range(4)], clock=system_clock)
    rebuild(db)
    assert verify(db).ok  # the chain itself is sound
    assert [defect.where for defect in verify(db, seal_key=KEY.public_key()).defects] == ["seal 1", "seal 2"]


def test_several_processes_find_the_same_as_one(
    empty_database: Mongo, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = empty_database
    monkeypatch.setattr(module, "_RANGE", 60)  # many ranges of few entries
    fill(db, members=40, length=30)
    rebuild(db)
    sealer = Sealer(db, KEY)
    while sealer.seal(system_clock()) is not None:
        pass
    seen: list[int] = []
    whole = verify(db, uri=mongo_uri, processes=2, seal_key=KEY.public_key(), progress=seen.append)
    assert whole == verify(db, seal_key=KEY.public_key())
    assert (whole.defects, whole.chains) == ([], 40)
    assert whole.entries == whole.sealed_entries == db.ledger.count_documents({})
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen[-1] == whole.entries
    for member in (3, 17, 40):
        db.ledger.update_one({"_id": entry_key(member, 2)}, {"$inc": {"postings.0.points": 1}})
    db.ledger.delete_one({"_id": entry_key(9, 4)})
    broken = verify(db, uri=mongo_uri, processes=2, seal_key=KEY.public_key())
    first_of_each = [entry_id(entry_key(*key)) for key in ((3, 2), (9, 5), (17, 2), (40, 2))]
    assert [defect.where for defect in broken.defects] == [*first_of_each, "seal 1"]
    assert broken.defects == verify(db, seal_key=KEY.public_key()).defects


def test_the_hashes_under_seals_are_not_read_twice(db: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    stored = module._stored_hashes

    def ask(db: Mongo, numbers: Sequence[int]) -> dict[int, bytes]:
        asked.extend(numbers)
        return stored(db, numbers)

    monkeypatch.setattr(module, "_stored_hashes", ask)
    assert verify(db, seal_key=KEY.public_key()).ok
    assert asked == []
    db.ledger.update_one({"_id": entry_key(2, 3)}, {"$set": {"hash": "damaged"}})
    assert [found.where for found in verify(db, seal_key=KEY.public_key()).defects] == [
        entry_id(entry_key(2, 3)),
        "seal 2",
    ]
    assert asked == [entry_key(2, 3)]


def test_what_was_not_kept_is_looked_up(db: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaves, "keeper", lambda leaves: nullcontext(lambda number, digest: None))
    found = verify(db, seal_key=KEY.public_key())
    assert (found.defects, found.sealed_entries) == ([], 12)
    remove_the_end(db)
    assert verify(db, seal_key=KEY.public_key()).defects[0].where == "seal 2"


def test_a_process_that_fails_fails_the_verification(db: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ranges", lambda db: [(None, 2 << 24), (2 << 24, None)])
    with pytest.raises(PyMongoError):
        verify(db, uri="mongodb://127.0.0.1:1", processes=2)


def test_seals_that_others_keep_must_be_there(db: Mongo) -> None:
    kept = db.seals.find_one({"_id": 2})
    assert kept is not None
    witness = Witness(2, kept["hash"], "a file")
    assert verify(db, seal_key=KEY.public_key(), witnesses=[witness]).ok
    other = Witness(2, bytes(32), "a file")
    assert verify(db, seal_key=KEY.public_key(), witnesses=[other]).defects[0].where == "seal 2"
    db.seals.delete_one({"_id": 2})
    db.positions.delete_many({})  # even the position of the sealing job
    (defect,) = verify(db, seal_key=KEY.public_key(), witnesses=[witness]).defects
    assert (defect.where, defect.what) == ("seal 2", "it is missing, but a file has it")
