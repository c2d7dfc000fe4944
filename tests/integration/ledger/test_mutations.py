"""Whatever single field somebody with all rights in mongod corrupts, verification finds it.

CI takes a slice; `LOYALTY_MUTATIONS=1000` is the whole. Each corruption is undone again, and then the ledger is whole.
"""

from __future__ import annotations

import copy
import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson.int64 import Int64
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Mongo
from loyalty.ledger.entry import entry_hash, entry_key
from loyalty.ledger.projection import rebuild
from loyalty.ledger.seal import Sealer, merkle_root, seal_hash, unpack
from loyalty.ledger.verify import Verification, verify
from tests.chains import KINDS, fill

MUTATIONS = int(os.environ.get("LOYALTY_MUTATIONS", "150"))
KEY = Ed25519PrivateKey.generate()
MEMBERS = 6


@pytest.fixture
def db(database: Mongo) -> Mongo:
    """Members with entries of every kind, in three seals, and projected."""
    sealer = Sealer(database, KEY)
    for first in range(1, MEMBERS, 2):
        fill(database, members=2, length=30, first=first)
        rebuild(database)
        assert sealer.seal(system_clock()) is not None
    assert set(database.ledger.distinct("kind")) == set(KINDS)
    assert check(database).defects == []
    return database


def check(db: Mongo) -> Verification:
    return verify(db, seal_key=KEY.public_key())


def places(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to every value within a document that holds no other."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not inner and here:
        yield here
    for name, part in inner:
        yield from places(part, (*here, name))


def another(value: Any, random_: random.Random) -> Any:
    """A value of the same type, but another one; or of another type."""
    if random_.random() < 0.1:
        return random_.choice([7.5, "x", [], {"a": 1}, b"x", datetime(2020, 2, 2)])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return type(value)(value + random_.choice([1, -1, 10, -value - 1, 1 << 30]))
    if isinstance(value, str):
        return value + "x" if random_.random() < 0.5 or not value else value[:-1]
    if isinstance(value, bytes):
        place = random_.randrange(len(value))
        return value[:place] + bytes([value[place] ^ 1 << random_.randrange(8)]) + value[place + 1 :]
    if isinstance(value, datetime):
        return value + timedelta(milliseconds=random_.choice([1, -1, 86_400_000]))
    return "x"


def corrupt(document: dict[str, Any], random_: random.Random) -> tuple[dict[str, Any], str]:
    """The document with one field changed, added or removed, and which."""
    changed = copy.deepcopy(document)
    way = random_.choice([place for place in places(document) if place[0] != "_id"])
    parent: Any = changed
    for step in way[:-1]:
        parent = parent[step]
    how = random_.choices(["change", "remove", "add"], [8, 1, 1])[0]
    if how == "change":
        parent[way[-1]] = another(parent[way[-1]], random_)
    elif how == "remove":
        del parent[way[-1]]
    elif isinstance(parent, list):
        parent.append(random_.choice([1, "x", {"a": 1}]))
    else:
        parent["unknown"] = 1
    return changed, f"{how} {'.'.join(str(step) for step in way)}"


def test_every_corruption_of_a_field_is_detected(db: Mongo) -> None:
    random_ = random.Random(7)
    numbers = [entry["_id"] for entry in db.ledger.find({}, {"_id": 1})]
    seals = [seal["_id"] for seal in db.seals.find({}, {"_id": 1})]
    missed: list[str] = []
    where: Counter[str] = Counter()
    for _ in range(MUTATIONS):
        collection, wanted = (
            (db.ledger, random_.choice(numbers)) if random_.random() < 0.9 else (db.seals, random_.choice(seals))
        )
        before = collection.find_one({"_id": wanted})
        assert before is not None
        while True:
            changed, what = corrupt(before, random_)
            if changed != before:
                break
        db.command(
            "update", collection.name, updates=[{"q": {"_id": wanted}, "u": changed}], bypassDocumentValidation=True
        )
        found = check(db)
        name = entry_id(wanted) if collection.name == "ledger" else f"seal {wanted}"
        if not found.defects or found.defects[0].where != name:
            missed.append(f"{name}: {what}; found {[defect.where for defect in found.defects][:3]}")
        where[collection.name] += 1
        collection.replace_one({"_id": wanted}, before)
    assert missed == []
    assert min(where.values()) > 0
    assert check(db).defects == []


def resealed_by(key: Ed25519PrivateKey, db: Mongo) -> None:
    """All seals made anew over what the ledger holds now."""
    prev = bytes(32)
    for seal in db.seals.find({}, sort=[("_id", 1)]):
        stored = {entry["_id"]: entry["hash"] for entry in db.ledger.find({}, {"hash": 1})}
        seal["root"] = merkle_root([stored[number] for number in unpack(seal["entries"])])
        seal["prev"], seal["public_key"] = prev, key.public_key().public_bytes_raw()
        seal["hash"] = prev = seal_hash(seal)
        seal["signature"] = key.sign(seal["hash"])
        db.seals.replace_one({"_id": seal["_id"]}, seal)
    db.positions.update_one({"_id": "seals"}, {"$set": {"hash": prev}})


def forge_from(db: Mongo, number: int, points: int) -> None:
    """Give a member points in the entry `number`, and make all that follows fit: what only the seals can tell."""
    prev = None
    for entry in db.ledger.find({"_id": {"$gte": number, "$lt": (number >> 24) + 1 << 24}}, sort=[("_id", 1)]):
        if prev is None:
            entry["evidence"]["points"] = points
        else:
            entry["prev"] = prev
        entry["hash"] = prev = entry_hash(entry)
        db.ledger.replace_one({"_id": entry["_id"]}, entry)
    rebuild(db)


def test_a_forged_tail_is_named_by_the_seals(db: Mongo) -> None:
    forge_from(db, entry_key(3, 5), 1000)
    assert [defect.where for defect in check(db).defects] == ["seal 2"]


def test_seals_signed_by_a_stranger_do_not_help_the_forger(db: Mongo) -> None:
    forge_from(db, entry_key(3, 5), 1000)
    resealed_by(Ed25519PrivateKey.generate(), db)
    found = check(db)
    assert {defect.where for defect in found.defects} == {"seal 1", "seal 2", "seal 3"}
    assert all("signature is not the installation's" in defect.what for defect in found.defects)


def test_two_swapped_entries(db: Mongo) -> None:
    one, other = (db.ledger.find_one({"_id": entry_key(1, sequence)}) for sequence in (4, 7))
    assert one is not None
    assert other is not None
    db.ledger.delete_many({"_id": {"$in": [one["_id"], other["_id"]]}})
    db.ledger.insert_many([{**one, "_id": other["_id"]}, {**other, "_id": one["_id"]}])
    assert check(db).defects[0].where == entry_id(one["_id"])


@pytest.mark.parametrize("sequence", [1, 2, 9])
def test_a_deleted_entry(db: Mongo, sequence: int) -> None:
    db.ledger.delete_one({"_id": entry_key(1, sequence)})
    (chain, *others) = check(db).defects
    assert chain.where == entry_id(entry_key(1, sequence + 1))
    assert f"entry {sequence} of the chain is missing" in chain.what
    assert others[0].where == "seal 1"


def test_a_deleted_tail_and_a_deleted_chain(db: Mongo) -> None:
    db.ledger.delete_many({"_id": {"$gt": entry_key(5, 3), "$lt": 6 << 24}})
    assert check(db).defects[0].where == "seal 3"
    db.ledger.delete_many({"_id": {"$gt": 5 << 24, "$lt": 6 << 24}})
    db.wallets.delete_one({"_id": 5})
    assert check(db).defects[0].where == "seal 3"


@pytest.mark.parametrize(("seal", "where"), [(1, "seal 2"), (2, "seal 3"), (3, "seal 3")])
def test_a_deleted_seal(db: Mongo, seal: int, where: str) -> None:
    db.seals.delete_one({"_id": seal})
    assert where in [defect.where for defect in check(db).defects]


def test_what_is_no_entry_is_named(db: Mongo) -> None:
    strange: list[Any] = ["x", 1.5, None, Int64(-5), {"a": 1}]
    for number in strange:
        db.command(
            "insert", "ledger", documents=[{"_id": number, "keys": [repr(number)]}], bypassDocumentValidation=True
        )
    found = check(db)
    assert len(found.defects) == len(strange)
    assert all(defect.where.startswith(("ledger ", "ent_")) for defect in found.defects)


def test_points_that_nobody_gave(db: Mongo) -> None:
    """Half of a transfer that is not sealed yet: its chain is sound without it."""
    fill(db, members=2, length=40, first=11)
    rebuild(db)
    assert check(db).defects == []
    last = db.ledger.find_one({"kind": "transfer", "_id": {"$gt": 11 << 24, "$lt": 12 << 24}}, sort=[("_id", -1)])
    assert last is not None
    db.ledger.delete_many({"_id": {"$gte": last["_id"], "$lt": 12 << 24}})
    rebuild(db)
    (defect,) = check(db).defects
    assert defect.where == "transfers of main/points"
