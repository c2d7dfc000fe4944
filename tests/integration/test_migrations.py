"""Migrations: everything once, nothing the second time, and a fence that the database itself keeps."""

from __future__ import annotations

import hashlib
import json

import pytest
from bson.int64 import Int64
from pymongo.errors import WriteError

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger import VALIDATORS
from loyalty.migrations import SCHEMA, migrate


def test_a_second_run_adds_nothing(empty_database: Mongo) -> None:
    added = migrate(empty_database, release="r1", clock=system_clock)
    assert {"collection ledger", "index ledger.keys", "validator of ledger"} <= set(added)
    assert migrate(empty_database, release="r2", clock=system_clock) == []
    assert [run["release"] for run in empty_database.migrations.find()] == ["r1"]


def test_a_validator_that_was_changed_is_put_back(database: Mongo) -> None:
    database.command("collMod", "ledger", validator={})
    assert migrate(database, release="r2", clock=system_clock) == ["validator of ledger"]
    assert database.ledger.options()["validator"] == VALIDATORS["ledger"]


def test_an_older_release_leaves_the_validator_of_a_newer_one(database: Mongo) -> None:
    database.migrations.insert_one({"release": "r9", "schema": SCHEMA + 1, "added": ["validator of ledger"]})
    newer = {"$jsonSchema": {"bsonType": "object", "required": ["_id"]}}
    database.command("collMod", "ledger", validator=newer)
    assert migrate(database, release="r1", clock=system_clock) == []
    assert database.ledger.options()["validator"] == newer


def test_a_changed_validator_is_a_new_schema() -> None:
    digest = hashlib.sha256(json.dumps(VALIDATORS, sort_keys=True).encode()).hexdigest()
    assert (SCHEMA, digest[:16]) == (1, "465a8b4deaeacfbf"), "raise SCHEMA, and write both here"


def entry() -> Document:
    now = system_clock()
    return {
        "_id": Int64(1 << 24 | 1),
        "program": "main",
        "keys": [b"k" * 16],
        "kind": "earn",
        "occurred_at": now,
        "recorded_at": now,
        "postings": [],
        "evidence": {"request": b"r" * 16},
        "state": {"wallets": {}},
        "prev": bytes(32),
        "hash": bytes(32),
    }


@pytest.mark.parametrize(
    "damage",
    [{"_id": "1"}, {"keys": []}, {"keys": ["text"]}, {"recorded_at": "2026-01-01"}, {"state": {}}, {"hash": None}],
    ids=lambda damage: next(iter(damage)),
)
def test_the_database_refuses_what_is_no_entry(database: Mongo, damage: Document) -> None:
    with pytest.raises(WriteError) as refusal:
        database.ledger.insert_one({**entry(), **damage})
    assert refusal.value.code == 121
    database.ledger.insert_one(entry())
