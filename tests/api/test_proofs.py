"""Seals, receipts and verifications over HTTP; receipts checked by the command line, offline."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loyalty.config import load_settings
from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_number
from loyalty.infra.mongo import connect
from loyalty.jobs.lease import Lease, LeaseLost, Turn
from loyalty.jobs.model import Work
from loyalty.jobs.sealing import SealEveryMinute, seal_key
from loyalty.jobs.verification import run_verifications
from loyalty.ledger.projection import rebuild
from tests.servers import REPOSITORY, Application, Mongod, new_program

SEAL_KEY = "A" * 43 + "="


@pytest.fixture
def work(application: Application, mongod: Mongod, tmp_path: Path) -> Iterator[Work]:
    """The jobs of the running application. Its web processes do not have their key."""
    db = connect(mongod.uri, "application", serves_requests=False)
    settings = load_settings(
        mongo_uri=mongod.uri,
        mongo_database="application",
        secret_key="s" * 32,
        seal_key=SEAL_KEY,
        storage_path=tmp_path,
    )
    lease = Lease(db, "jobs", node="box1", seconds=600)
    assert lease.acquire()
    yield Work(db, settings, system_clock, Turn(lease, lease.term))
    lease.release()
    db.client.close()


def seal(work: Work) -> None:
    rebuild(work.db)
    SealEveryMinute()(work, system_clock())


def earn(api: httpx.Client, name: str) -> str:
    api.post("/v1/members", json={"external_id": name})
    given = api.post("/v1/adjustments", json={"member": {"external_id": name}, "points": 5, "reason": "test"})
    assert given.status_code == 201, given.text
    entry: str = api.get(f"/v1/members/ext:{name}/entries").json()["data"][0]["id"]
    return entry


def checked(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`loyalty receipt verify`, without any setting."""
    command = [sys.executable, "-m", "loyalty", "receipt", "verify", str(file), *options]
    return subprocess.run(command, cwd=REPOSITORY, env={}, capture_output=True, text=True, check=False)


def test_a_receipt_from_the_server_to_the_offline_checker(api: httpx.Client, work: Work, tmp_path: Path) -> None:
    entries = [earn(api, f"m{number}") for number in range(5)]
    early = api.get(f"/v1/entries/{entries[0]}/receipt")
    assert (early.status_code, early.json()["code"], early.headers["Retry-After"]) == (409, "not_sealed_yet", "60")
    seal(work)
    key = seal_key(work.settings).public_key().public_bytes_raw().hex()
    answer = api.get(f"/v1/entries/{entries[3]}/receipt")
    assert answer.status_code == 200, answer.text
    assert answer.json()["entry"]["_id"] == entries[3]
    again = api.get(f"/v1/entries/{entries[3]}/receipt", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    file = tmp_path / "receipt.json"
    file.write_bytes(answer.content)
    good = checked(file, "--public-key", key)
    assert (good.returncode, good.stderr) == (0, "")
    assert f"The entry {entries[3]} has the hash" in good.stdout
    assert good.stdout.endswith("That is the key you trust.\nThe receipt is good.\n")
    unknown = checked(file)
    assert (unknown.returncode, unknown.stdout.splitlines()[-1]) == (0, "The receipt is good if the key is.")
    assert "NOT checked" in unknown.stdout
    other = checked(file, "--public-key", secrets.token_hex(32))
    assert (other.returncode, "not the one you trust" in other.stderr) == (1, True)
    assert checked(file, "--public-key", "abc").returncode == 2
    assert checked(tmp_path / "none").returncode == 2
    document = answer.json()
    document["entry"]["postings"][0]["points"] += 1
    file.write_text(json.dumps(document))
    bad = checked(file, "--public-key", key)
    assert (bad.returncode, "proves nothing" in bad.stderr, "Traceback" in bad.stderr) == (1, True, False)


def test_a_receipt_of_a_changed_entry_is_refused(api: httpx.Client, work: Work) -> None:
    entry = earn(api, "eve")
    seal(work)
    number = entry_number(entry)
    work.db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": 1}})
    try:
        refused = api.get(f"/v1/entries/{entry}/receipt")
        assert (refused.status_code, refused.json()["code"]) == (409, "seal_broken")
    finally:
        work.db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": -1}})


@pytest.mark.parametrize("entry", ["ent_0000000000000", "ent_zzzzzzzzzzzzz", "x"])
def test_no_such_entry(api: httpx.Client, entry: str) -> None:
    assert api.get(f"/v1/entries/{entry}/receipt").status_code == 404


def test_another_program_gets_no_receipt(
    api: httpx.Client, work: Work, application: Application, mongod: Mongod
) -> None:
    entry = earn(api, "eve")
    seal(work)
    headers = {"Authorization": f"Bearer {new_program(mongod.uri, 'application')}"}
    assert httpx.get(f"{application.url}/v1/entries/{entry}/receipt", headers=headers, timeout=30).status_code == 404


def test_seals_are_listed_and_read(api: httpx.Client, work: Work) -> None:
    for name in ("a", "b", "c"):
        earn(api, name)
        seal(work)
    first = api.get("/v1/ledger/seals?limit=2").json()
    assert len(first["data"]) == 2
    assert first["data"][0]["prev"] == first["data"][1]["hash"]
    second = api.get("/v1/ledger/seals", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert second["data"][0]["number"] == first["data"][1]["number"] - 1
    number = first["data"][0]["number"]
    assert api.get(f"/v1/ledger/seals/{number}").json() == first["data"][0]
    for wrong in ("0", "x", "1" * 30, "-1", "²"):
        assert api.get(f"/v1/ledger/seals/{wrong}").status_code == 404


def verified(work: Work, wanted: str) -> None:
    """The job, until the verification has ended."""

    def beat(lag: float | None, items: int) -> None:
        run = work.db.verifications.find_one({"_id": wanted})
        if run is not None and "finished_at" in run:
            raise LeaseLost("the test is over")

    with pytest.raises(LeaseLost):
        run_verifications(work, beat)


def test_a_verification_is_asked_for_done_and_shown(api: httpx.Client, work: Work) -> None:
    work.db.verifications.delete_many({})
    entry = earn(api, "eve")
    seal(work)
    asked = api.post("/v1/ledger/verification")
    assert asked.status_code == 202, asked.text
    assert api.post("/v1/ledger/verification").json()["id"] == asked.json()["id"]
    verified(work, asked.json()["id"])
    (run,) = api.get("/v1/ledger/verification").json()["latest"]
    assert (run["status"], run["defects"], run["error"]) == ("whole", [], None)
    assert run["entries"] == work.db.ledger.count_documents({})
    assert run["sealed_entries"] == run["entries"]
    number = entry_number(entry)
    work.db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": 1}})
    try:
        verified(work, api.post("/v1/ledger/verification").json()["id"])
    finally:
        work.db.ledger.update_one({"_id": number}, {"$inc": {"postings.0.points": -1}})
    latest: list[dict[str, Any]] = api.get("/v1/ledger/verification").json()["latest"]
    assert [run["status"] for run in latest] == ["broken", "whole"]
    assert latest[0]["defects"][0]["where"] == entry


def test_a_verification_that_was_cut_off_begins_again(api: httpx.Client, work: Work) -> None:
    earn(api, "eve")
    seal(work)
    asked = api.post("/v1/ledger/verification").json()["id"]
    work.db.verifications.update_one({"_id": asked}, {"$set": {"status": "running", "entries": 3}})
    verified(work, asked)
    assert api.get("/v1/ledger/verification").json()["latest"][0]["status"] == "whole"


def test_without_the_key_it_fails_and_says_so(api: httpx.Client, work: Work, mongod: Mongod, tmp_path: Path) -> None:
    settings = load_settings(mongo_uri=mongod.uri, secret_key="s" * 32, storage_path=tmp_path)
    asked = api.post("/v1/ledger/verification").json()["id"]
    verified(Work(work.db, settings, work.clock, work.turn), asked)
    run = api.get("/v1/ledger/verification").json()["latest"][0]
    assert (run["status"], "LOYALTY_SEAL_KEY" in run["error"]) == ("failed", True)


def test_scopes(api: httpx.Client, application: Application) -> None:
    made = api.post("/v1/keys", json={"name": "reader", "scopes": ["ledger:read"]}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    with httpx.Client(base_url=application.url, headers=headers, timeout=30) as reader:
        assert reader.get("/v1/ledger/verification").status_code == 200
        assert reader.post("/v1/ledger/verification").json()["scope"] == "ledger:verify"
        refused = reader.post("/v1/members/ext:1/unfreeze", json={"reason": "x"})
        assert refused.json()["scope"] == "members:unfreeze"
