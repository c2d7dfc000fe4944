"""A collection or a member's chain of an earlier moment: in a file, and beside the live data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import bson
import pytest

from loyalty.backup.dump import dump
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full
from loyalty.infra.clock import system_clock
from loyalty.infra.ids import member_id
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.entry import SEQUENCE_BITS
from loyalty.migrations import migrate
from tests.chains import fill
from tests.integration.backup.conftest import Site
from tests.servers import Mongod

MEMBER = 3


@pytest.fixture
def ledger(lone_member: Mongod) -> Iterator[Mongo]:
    db = connect(lone_member.uri, "loyalty", serves_requests=False)
    migrate(db, release="test", clock=system_clock)
    fill(db, members=6, length=10)
    yield db
    db.client.drop_database(db.name)
    db.client.close()


def chain(db: Mongo) -> list[int]:
    numbers = {"$gte": MEMBER << SEQUENCE_BITS, "$lt": (MEMBER + 1) << SEQUENCE_BITS}
    return [entry["_id"] for entry in db.ledger.find({"_id": numbers}, {"_id": 1}, sort=[("_id", 1)])]


def test_a_member_of_an_earlier_moment(site: Site, ledger: Mongo, tmp_path: Path) -> None:
    full(site.settings, site.target)
    archive_log(site.settings, site.target)
    before = chain(ledger)
    made = dump(site.settings, site.target)
    ledger.ledger.delete_many({"_id": {"$in": before[3:]}})

    wanted = ("extract", "--member", member_id(MEMBER))
    restored = site.run("restore", "--to", "latest", "--into", str(tmp_path / "restored"))
    assert restored.returncode == 0, restored.stderr
    for number, source in enumerate(
        (("--to", "latest"), ("--restored", str(tmp_path / "restored")), ("--dump", made.archive.id))
    ):
        out = tmp_path / f"{number}.bson"
        done = site.run(*wanted, *source, "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert [entry["_id"] for entry in bson.decode_all(out.read_bytes())] == before
        assert out.stat().st_mode & 0o777 == 0o600

    uri = tmp_path / "uri"
    uri.write_text(f"mongodb://{ledger.client.address[0]}:{ledger.client.address[1]}" if ledger.client.address else "")
    put = site.run("beside", str(tmp_path / "0.bson"), "--collection", "restored_ledger", "--uri-file", str(uri))
    assert put.returncode == 0, put.stderr
    assert [entry["_id"] for entry in ledger.restored_ledger.find(sort=[("_id", 1)])] == before
    assert len(chain(ledger)) == 3  # the live one is as it was
    again = site.run("beside", str(tmp_path / "0.bson"), "--collection", "restored_ledger", "--uri-file", str(uri))
    assert (again.returncode, "has a collection restored_ledger" in again.stderr) == (1, True)


def test_a_collection_as_lines(site: Site, ledger: Mongo, tmp_path: Path) -> None:
    made = dump(site.settings, site.target)
    out = tmp_path / "ledger.json"
    done = site.run("extract", "--collection", "ledger", "--dump", "latest", "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == made.archive.counts["loyalty.ledger"] == ledger.ledger.count_documents({})
    refused = site.run("extract", "--collection", "nothing", "--dump", "latest", "--out", str(tmp_path / "other"))
    assert (refused.returncode, "has no collection loyalty.nothing" in refused.stderr) == (1, True)
    assert site.run("extract", "--member", "3", "--dump", "latest", "--out", str(tmp_path / "x")).returncode == 1
    assert site.run("extract", "--collection", "ledger", "--out", str(tmp_path / "x")).returncode == 2
