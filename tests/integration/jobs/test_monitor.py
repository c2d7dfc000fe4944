"""The monitor: a damaged entry freezes its own member's spending, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loyalty.config import load_settings
from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_id, entry_number, member_id
from loyalty.infra.mongo import Mongo, connect
from loyalty.jobs import monitor
from loyalty.jobs.lease import Lease, LeaseLost, Turn
from loyalty.jobs.model import Work
from loyalty.jobs.monitor import Unsound, watch
from loyalty.jobs.sealing import SealEveryMinute
from loyalty.ledger.entry import entry_hash, entry_key
from loyalty.ledger.projection import rebuild
from loyalty.members import service as members
from loyalty.proofs import service as proofs
from loyalty.status import gather
from tests.chains import fill
from tests.servers import REPOSITORY, Application, Mongod

SEAL_KEY = "A" * 43 + "="


def work_on(db: Mongo, mongo_uri: str, storage: Path) -> Work:
    settings = load_settings(
        mongo_uri=mongo_uri,
        mongo_database=db.name,
        secret_key="s" * 32,
        seal_key=SEAL_KEY,
        storage_path=storage,
        node_name="box1",
    )
    lease = Lease(db, "jobs", node="box1", seconds=600)
    assert lease.acquire()
    return Work(db, settings, system_clock, Turn(lease, lease.term))


def minute(work: Work) -> None:
    """What the jobs do in a minute."""
    rebuild(work.db)
    SealEveryMinute()(work, system_clock())
    watch(work, system_clock())


@pytest.fixture
def work(database: Mongo, mongo_uri: str, tmp_path: Path) -> Work:
    """A ledger of two members with entries of every kind."""
    fill(database, members=2, length=30)
    for number in (1, 2):
        assert members.enrol(database, "main", handles=[f"ext:{number}"], clock=system_clock).number == number
    return work_on(database, mongo_uri, tmp_path)


def frozen(db: Mongo) -> dict[int, str]:
    return {member["_id"]: member["frozen"]["entry"] for member in db.members.find({"frozen": {"$ne": None}})}


def test_a_sound_ledger_freezes_nobody(work: Work) -> None:
    for _ in range(3):
        minute(work)
    assert frozen(work.db) == {}
    assert proofs.open_violations(work.db) == []
    position = work.db.positions.find_one({"_id": "monitor"})
    assert position is not None
    assert (position["seal"], position["member"]) == (1, 0)


def test_a_new_entry_is_checked_as_it_comes(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    minute(work)
    monkeypatch.setattr(monitor, "_next_part", lambda *_: pytest.fail("the seals came first"))
    fill(work.db, members=2, length=8, first=11)
    number = entry_key(11, 4)
    entry = work.db.ledger.find_one({"_id": number})
    assert entry is not None
    entry["state"]["wallets"]["points"]["available"] += 1000  # a forger who can compute hashes
    entry["hash"] = entry_hash(entry)
    work.db.ledger.replace_one({"_id": number}, entry)
    rebuild(work.db)
    SealEveryMinute()(work, system_clock())
    with pytest.raises(pytest.fail.Exception, match="the seals came first"):
        watch(work, system_clock())
    (violation,) = proofs.open_violations(work.db)
    assert (violation["_id"], violation["member"], violation["program"]) == (number, 11, "main")
    assert "state" in violation["what"]


def test_the_predecessor_of_a_new_entry_is_looked_at_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    minute(work)
    last = work.db.ledger.find_one({"_id": {"$lt": 2 << 24}}, sort=[("_id", -1)])
    assert last is not None
    work.db.ledger.update_one({"_id": last["_id"]}, {"$set": {"evidence.note": "x"}})
    follower = {**last, "_id": entry_key(1, (last["_id"] & 0xFFFFFF) + 1), "keys": [b"n" * 16], "prev": last["hash"]}
    follower["postings"] = []
    follower.pop("lapses", None)
    follower.pop("touches", None)
    follower["hash"] = entry_hash(follower)
    work.db.ledger.insert_one(follower)
    rebuild(work.db)
    SealEveryMinute()(work, system_clock())
    assert [number for number, _ in monitor._broken(work.db, [follower["_id"]])] == [last["_id"]]


def test_what_was_sound_yesterday_is_found_by_the_patrol(work: Work) -> None:
    minute(work)
    number = entry_key(2, 3)
    work.db.ledger.update_one({"_id": number}, {"$set": {"evidence.note": "x"}})
    minute(work)
    assert frozen(work.db) == {2: entry_id(number)}


def test_the_patrol_comes_round(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(work.db, members=6, length=25, first=21)
    monkeypatch.setattr(monitor, "_PATROL", 25)
    seen = []
    while 0 not in seen:
        minute(work)
        seen.append(work.db.positions.find_one({"_id": "monitor"}, {"member": 1})["member"])  # type: ignore[index]
    assert len(seen) > 2
    assert seen[:-1] == sorted(set(seen[:-1]))
    for member in (1, 2, *range(21, 27)):
        work.db.ledger.update_one({"_id": entry_key(member, 1)}, {"$set": {"evidence.note": "x"}})
    for _ in seen:
        minute(work)
    assert len(proofs.open_violations(work.db)) == 8  # no chain is left out between two parts


def test_a_deleted_entry_is_missed(work: Work) -> None:
    minute(work)
    work.db.ledger.delete_one({"_id": entry_key(1, 2)})
    minute(work)
    assert frozen(work.db) == {1: entry_id(entry_key(1, 3))}


def test_a_wrong_projection_fails_the_job_and_freezes_nobody(work: Work) -> None:
    minute(work)
    work.db.wallets.update_one({"_id": 1}, {"$set": {"wallets.points.available": 1}})
    with pytest.raises(Unsound, match=f"wallets of {member_id(1)}"):
        watch(work, system_clock())
    assert frozen(work.db) == {}


def test_a_resolved_violation_does_not_freeze_again_unless_it_is_another(work: Work) -> None:
    db = work.db
    minute(work)
    number = entry_key(2, 3)
    db.ledger.update_one({"_id": number}, {"$set": {"evidence.note": "x"}})
    minute(work)
    db.violations.update_one({"_id": number}, {"$set": {"resolved_at": system_clock(), "reason": "seen"}})
    db.members.update_one({"_id": 2}, {"$unset": {"frozen": ""}})
    minute(work)
    assert frozen(db) == {}
    db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": 1}})
    minute(work)
    assert frozen(db) == {2: entry_id(number)}


def test_whoever_took_over_a_broken_chain_is_frozen_too(work: Work) -> None:
    work.db.members.update_one({"_id": 1}, {"$set": {"absorbed": [2]}})
    work.db.ledger.update_one({"_id": entry_key(2, 3)}, {"$set": {"evidence.note": "x"}})
    minute(work)
    assert frozen(work.db) == dict.fromkeys((1, 2), entry_id(entry_key(2, 3)))
    thawed = proofs.unfreeze(work.db, "main", "ext:1", reason="seen", by="test", clock=system_clock)
    assert (thawed.frozen, proofs.open_violations(work.db)) == (None, [])


def test_a_later_term_is_not_undone(work: Work) -> None:
    minute(work)
    work.db.positions.update_one({"_id": "monitor"}, {"$inc": {"term": 1}})
    with pytest.raises(LeaseLost):
        watch(work, system_clock())


# -- with the application ---------------------------------------------------------------------------------------------


@pytest.fixture
def site(application: Application, mongod: Mongod, tmp_path: Path) -> Iterator[Work]:
    """The jobs of the running application. Other tests' programs are in the same database."""
    db = connect(mongod.uri, "application", serves_requests=False)
    work = work_on(db, mongod.uri, tmp_path)
    yield work
    work.turn.lease.release()
    db.client.close()


def purchase(api: httpx.Client, member: str, number: int) -> httpx.Response:
    event = {"source": "t", "id": f"{member}{number}", "type": "purchase", "member": {"external_id": member}}
    return api.post("/v1/events", json={**event, "currency": "USD", "amount": "50.00"})


def redeem(api: httpx.Client, member: str, reward: str) -> httpx.Response:
    return api.post("/v1/redemptions", json={"member": {"external_id": member}, "reward": reward})


def test_a_frozen_member_earns_but_does_not_spend(api: httpx.Client, site: Work, application: Application) -> None:
    db = site.db
    for name in ("eve", "bob"):
        api.post("/v1/members", json={"external_id": name})
        given = api.post("/v1/adjustments", json={"member": {"external_id": name}, "points": 100, "reason": "start"})
        assert given.status_code == 201, given.text
    reward = api.post("/v1/rewards", json={"name": "Coffee", "cost": 10}).json()["id"]
    assert redeem(api, "eve", reward).status_code == 201
    entry = api.get("/v1/members/ext:eve/entries").json()["data"][-1]["id"]
    number = entry_number(entry)
    db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": 5}})  # as somebody with rights in mongod would
    try:
        minute(site)
        refused = redeem(api, "eve", reward)
        assert refused.status_code == 409, refused.text
        assert (refused.json()["code"], refused.json()["entry"]) == ("spending_frozen", entry)
        held = api.post("/v1/holds", json={"member": {"external_id": "eve"}, "points": 1})
        assert (held.status_code, held.json()["code"]) == (409, "spending_frozen")
        assert purchase(api, "eve", 1).status_code == 201
        more = api.post("/v1/adjustments", json={"member": {"external_id": "eve"}, "points": 7, "reason": "more"})
        assert more.status_code == 201
        assert redeem(api, "bob", reward).status_code == 201
        assert api.get("/v1/members/ext:bob").json()["frozen"] is None
        mark = api.get("/v1/members/ext:eve").json()["frozen"]
        assert mark["entry"] == entry
        (violation,) = api.get("/v1/ledger/verification").json()["violations"]
        assert (violation["entry"], violation["resolved_at"]) == (entry, None)
        assert "loyalty_ledger_violations 1.0" in httpx.get(f"{application.url}/metrics", timeout=30).text
        status = gather(site.settings, db, now=system_clock())
        assert any(entry in problem for problem in status["problems"])
        assert not status["ok"]
        thawed = api.post("/v1/members/ext:eve/unfreeze", json={"reason": "looked at"})
        assert (thawed.status_code, thawed.json()["frozen"]) == (200, None)
        minute(site)
        assert redeem(api, "eve", reward).status_code == 201
        assert api.get("/v1/ledger/verification").json()["violations"] == []
        assert "loyalty_ledger_violations 0.0" in httpx.get(f"{application.url}/metrics", timeout=30).text
    finally:
        db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": -5}})


def test_the_command_line_lets_a_member_spend_again(database: Mongo, mongo_uri: str, tmp_path: Path) -> None:
    number = members.enrol(database, "main", handles=["ext:7"], clock=system_clock).number
    entry = entry_key(number, 1)
    proofs.record_violation(database, entry=entry, program="main", what="why", at=system_clock())
    assert frozen(database) == {number: entry_id(entry)}
    done = subprocess.run(
        [sys.executable, "-m", "loyalty", "member", "unfreeze", "main", "ext:7", "--reason", "restored"],
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "LOYALTY_MONGO_URI": mongo_uri,
            "LOYALTY_MONGO_DATABASE": database.name,
            "LOYALTY_SECRET_KEY": "s" * 32,
            "LOYALTY_STORAGE_PATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{member_id(number)} may spend again.\n"), done.stderr
    assert frozen(database) == {}
    assert database.violations.find_one({}, {"_id": 0, "reason": 1}) == {"reason": "restored"}
