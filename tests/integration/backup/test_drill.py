"""A ledger that is written all the while: copied, its log archived, restored to a second, and proved to be right."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from loyalty.backup.certificate import check
from loyalty.backup.drill import drill
from loyalty.backup.errors import BackupError
from loyalty.backup.files import Source, take
from loyalty.backup.manifest import Archive, ClusterTime, read_catalogue, write_manifest
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full, incremental
from loyalty.backup.records import alarms
from loyalty.backup.restore import restore
from loyalty.backup.scratch import Scratch
from loyalty.files.store import BlobStore
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft
from loyalty.ledger.movements import credit
from loyalty.ledger.projection import rebuild
from loyalty.ledger.seal import Sealer
from loyalty.ledger.state import State
from loyalty.ledger.verify import verify
from loyalty.migrations import migrate
from tests.chains import fill
from tests.integration.backup.conftest import Site
from tests.servers import Mongod, wait_until

SEALER = Ed25519PrivateKey.generate()
WRITERS = 3


@pytest.fixture
def ledger(lone_member: Mongod) -> Iterator[Mongo]:
    """A ledger with entries of every kind and seals, in the database that the site's settings name."""
    db = connect(lone_member.uri, "loyalty", serves_requests=False)
    migrate(db, release="test", clock=system_clock)
    for first in (1, 21):
        fill(db, members=20, length=15, first=first)
        seal(db)
    yield db
    db.client.drop_database(db.name)
    db.client.close()


def seal(db: Mongo) -> None:
    rebuild(db)
    sealer = Sealer(db, SEALER)
    while sealer.seal(system_clock()) is not None:
        pass


class Tills:
    """Writers that remember what was acknowledged to them, by the entry's number."""

    def __init__(self, db: Mongo) -> None:
        self.db = db
        self.acknowledged: list[int] = []

    def write(self, seconds: float) -> None:
        """Let them write for so long."""
        end = time.monotonic() + seconds

        def till(number: int) -> None:
            while time.monotonic() < end:
                members = range(1000 * number, 1000 * number + 20)
                keys = [secrets.token_bytes(16) for _ in members]
                operations = [
                    Operation("main", member, (key,), b"request", earn)
                    for member, key in zip(members, keys, strict=True)
                ]
                for outcome in append(self.db.ledger, operations, clock=system_clock):
                    assert outcome.status == "applied"
                self.acknowledged.extend(
                    entry["_id"] for entry in self.db.ledger.find({"keys": {"$in": keys}}, {"_id": 1})
                )

        threads = [threading.Thread(target=till, args=(number,)) for number in range(1, WRITERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def earn(state: State, sequence: int, now: object) -> Draft:
    return Draft("earn", system_clock(), credit(state, "points", 10, source="issuance", sequence=sequence), {})


def test_all_that_was_acknowledged_is_there_and_nothing_after_the_second(
    site: Site, ledger: Mongo, tmp_path: Path
) -> None:
    tills = Tills(ledger)
    tills.write(1)
    full(site.settings, site.target)
    tills.write(1)
    seal(ledger)
    chosen = int(time.time())
    wait_until(lambda: time.time() >= chosen + 1, timeout_s=5, failure=lambda: "the clock stands still")
    before = list(tills.acknowledged)
    tills.write(1)
    archive_log(site.settings, site.target)
    after = set(tills.acknowledged) - set(before)
    assert len(after) > WRITERS

    for moment, expected, missing in (
        (ClusterTime(chosen, 0xFFFFFFFF), set(before), after),
        (None, set(tills.acknowledged), set()),
    ):
        into = tmp_path / f"restored-{moment.hex if moment else 'latest'}"
        restore(site.settings, moment, into)
        scratch = Scratch(site.settings.restore.mongod, into / "data", into / "work", cache_gb=0.25)
        with scratch.replica_set("fresh") as client:
            db = connect(scratch.uri(client), "loyalty", serves_requests=False)
            with db.client:
                there = {entry["_id"] for entry in db.ledger.find({}, {"_id": 1})}
                assert expected <= there
                assert not missing & there
                rebuild(db)
                found = verify(db, seal_key=SEALER.public_key())
                assert found.ok, found.defects
                assert found.entries == len(there)


def put(db: Mongo, storage: Path, content: bytes) -> str:
    """A file and its record, as the application makes them; its SHA-256."""
    with BlobStore(storage / "files", reserve_bytes=0).receive(1 << 20, expected_bytes=len(content)) as incoming:
        incoming.write(content)
        incoming.place(lambda: None)
        digest = incoming.content().sha256
    db.files.insert_one({"program": "main", "sha256": digest, "created_at": system_clock()})
    return digest


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "storage" / "files").mkdir(parents=True)
    return tmp_path / "storage"


def snapshot_files(site: Site, db: Mongo, storage: Path) -> Archive:
    """Once the last record is older than the second up to which the log is archived."""
    now = int(time.time())
    wait_until(lambda: time.time() >= now + 1, timeout_s=5, failure=lambda: "the clock stands still")
    earn_one(db)
    archive_log(site.settings, site.target)
    return take(site.target, Source(str(storage)), now=system_clock()).snapshot


def test_a_drill_proves_and_signs(site: Site, ledger: Mongo, storage: Path) -> None:
    full(site.settings, site.target)
    for content in (b"one", b"two"):
        put(ledger, storage, content)
    snapshot = snapshot_files(site, ledger, storage)
    Tills(ledger).write(1)
    incremental(site.settings, site.target)
    earn_one(ledger)
    seal(ledger)
    archive_log(site.settings, site.target)
    entries = ledger.ledger.count_documents({})
    ended = site.run("drill", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["ok"], told["verified"], told["entries"], told["defects"]) == (True, True, entries, [])
    assert told["sealed_entries"] == entries
    assert (told["files"], told["snapshot"]) == (2, snapshot.id)
    (last,) = ledger.seals.find({}, {"hash": 1}, sort=[("_id", -1)], limit=1)
    assert told["source"]["seal"] == {"number": last["_id"], "hash": bytes(last["hash"]).hex()}
    assert (told["source"]["entries"], told["source"]["members"]) == (entries, ledger.wallets.count_documents({}))
    assert told["source"]["available"].keys() == {"main/points", "main/stamps"}
    assert told["source"]["available"]["main/points"] == sum(
        wallet["wallets"]["points"]["available"] for wallet in ledger.wallets.find()
    )
    assert told["archive"].endswith("-incremental")
    assert 0 < told["rto_seconds"] < 120
    assert 0 <= told["rpo_seconds"] < 120
    (line,) = (site.target.root / "restore_drills.jsonl").read_text().splitlines()
    assert json.loads(line) == told
    assert not site.settings.drill.directory.exists()
    assert alarms(site.target) == {}

    file = (site.target.root / "certificates" / f"{told['id']}.json").read_bytes()
    certificate = check(file)
    assert certificate.entries == entries
    with pytest.raises(BackupError, match="not as it was signed"):
        check(file.replace(b'"verified": true', b'"verified": false'))
    with pytest.raises(BackupError, match="was signed by"):
        check(file, public_key="00" * 32)
    assert site.run("certificate", str(site.target.root / "certificates" / f"{told['id']}.json")).returncode == 0


def test_a_drill_names_what_is_wrong(site: Site, ledger: Mongo, storage: Path) -> None:
    """An entry is changed behind the application's back, and the last seal, which a manifest knows, is gone. Of two
    files one has rotted, of another there never was more than the record."""
    full(site.settings, site.target)
    rotten, _ = put(ledger, storage, b"one"), put(ledger, storage, b"two")
    ledger.files.insert_one({"program": "main", "sha256": "ab" * 32, "created_at": system_clock()})
    snapshot = snapshot_files(site, ledger, storage)
    (site.target.files / snapshot.id / "files" / BlobStore.relative(rotten)).write_bytes(b"eno")
    entry = ledger.ledger.find_one({"kind": "earn"}, sort=[("_id", 1)])
    last = ledger.seals.find_one({}, sort=[("_id", -1)])
    assert entry is not None
    assert last is not None
    ledger.ledger.update_one({"_id": entry["_id"]}, {"$set": {"kind": "adjust"}})
    ledger.seals.delete_one({"_id": last["_id"]})
    archive_log(site.settings, site.target)
    ended = site.run("drill", "--json")
    assert ended.returncode == 1
    told = json.loads(ended.stdout)
    assert (told["ok"], told["verified"]) == (False, False)
    assert any("it is missing, but the archive" in defect for defect in told["defects"])
    assert any(f"{rotten} is not as it was written" in defect for defect in told["defects"])
    assert f"files {'ab' * 32}: the snapshot {snapshot.id} does not have it" in told["defects"]
    assert "drill" in alarms(site.target)
    assert check((site.target.root / "certificates" / f"{told['id']}.json").read_bytes()).ok is False


def test_what_was_kept_of_a_past_that_was_undone_is_no_witness(site: Site, ledger: Mongo) -> None:
    """The site was restored to an earlier moment: another ledger went on from there, with other seals."""
    full(site.settings, site.target)
    earn_one(ledger)
    archive_log(site.settings, site.target)
    (abandoned,) = read_catalogue(site.target).physical
    assert abandoned.seal is not None
    ledger.client.drop_database(ledger.name)
    migrate(ledger, release="test", clock=system_clock)
    fill(ledger, members=20, length=15, seed=2)
    seal(ledger)
    # As if the log had been torn here: the restored set's does not go on from what was archived.
    for piece in read_catalogue(site.target).slices:
        site.target.manifest(piece).unlink()
    made = full(site.settings, site.target)
    assert made.seal is not None
    assert made.seal.hash != abandoned.seal.hash
    ended = site.run("drill", "--json")
    assert ended.returncode == 0, ended.stdout


def earn_one(db: Mongo) -> None:
    operation = Operation("main", 1, (secrets.token_bytes(16),), b"request", earn)
    append(db.ledger, [operation], clock=system_clock)


def test_a_drill_holds_what_came_back_against_what_the_source_said(site: Site, ledger: Mongo) -> None:
    """Exactly at that moment, at which the projection lags: what was archived later is not restored."""
    full(site.settings, site.target)
    earn_one(ledger)
    seal(ledger)
    earn_one(ledger)
    (stated,) = archive_log(site.settings, site.target)
    said = stated.holdings
    assert said is not None
    earn_one(ledger)
    (later,) = archive_log(site.settings, site.target, sparing=True)
    assert later.holdings is None  # it has said so a moment ago
    found = drill(site.settings, site.target, now=system_clock(), progress=lambda *_: None)
    assert (found.ok, found.defects, found.source) == (True, (), said)
    assert found.restored_to == stated.to.instant.isoformat()
    assert found.entries == said.entries + 1 == ledger.ledger.count_documents({}) - 1
    other = replace(
        said,
        entries=said.entries + 1,
        available={**said.available, "main/points": said.available["main/points"] - 7},
        seal=None,
    )
    write_manifest(site.target, replace(stated, holdings=other))
    found = drill(site.settings, site.target, now=system_clock(), progress=lambda *_: None)
    assert not found.ok
    assert found.defects[0] == f"entries: the source had {said.entries + 1:,}, {said.entries:,} came back"
    assert found.defects[1].startswith("points of main/points: the source had")
    assert found.defects[2].startswith("seals: the last of the source was none, the last that came back is 3")
    assert len(found.defects) == 3


def test_a_drill_looks_first_whether_the_files_have_room(site: Site, ledger: Mongo, storage: Path) -> None:
    full(site.settings, site.target)
    put(ledger, storage, b"one")
    write_manifest(site.target, replace(snapshot_files(site, ledger, storage), bytes=1 << 60))
    ended = site.run("drill")
    assert ended.returncode == 1
    assert "the files of the snapshot need 1,152,921,504.6 GB" in ended.stderr
    assert not (site.target.root / "certificates").exists()
    assert not site.settings.drill.directory.exists()


def test_a_drill_without_archives_fails_and_alarms(site: Site) -> None:
    ended = site.run("drill")
    assert ended.returncode == 1
    assert "There is no archive to restore from." in ended.stderr
    assert "drill" in alarms(site.target)
    assert not os.path.exists(site.settings.drill.directory)
