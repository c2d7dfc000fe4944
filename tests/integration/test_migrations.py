"""Migrations: everything once, nothing the second time, and a fence that the database itself keeps."""

from __future__ import annotations

import pytest
from bson.int64 import Int64
from pymongo.errors import WriteError

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger import VALIDATORS
from loyalty.migrations import migrate


def test_a_second_run_adds_nothing(empty_database: Mongo) -> None:
    added = migrate(empty_database, release="r1", clock=system_clock)
    assert {"collection ledger", "index ledger.keys", "validator of ledger"} <= set(added)
    assert migrate(empty_database, release="r2", clock=system_clock) == []
    assert [run["release"] for run in empty_database.migrations.find()] == ["r1"]


def test_a_validator_that_was_changed_is_put_back(database: Mongo) -> None:
    database.command("collMod", "ledger", validator={})
    assert migrate(database, release="r2", clock=system_clock) == ["validator of ledger"]
    assert database.ledger.options()["validator"] == VALIDATORS["ledger"]


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
