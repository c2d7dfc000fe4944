"""The database users of a real site suffice for the application and its migrations, and for nothing more.

The roles are those that the Ansible role `mongodb` creates, read from its own file.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from loyalty.auth import service as auth
from loyalty.auth.model import ALL_SCOPES
from loyalty.backup.following import archive_what_is_new
from loyalty.backup.physical import full, incremental
from loyalty.backup.records import alarms
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import connect
from loyalty.ledger.heads import read_heads
from loyalty.migrations import declared, migrate
from loyalty.ops import demo
from loyalty.programs import service as programs
from tests.integration.backup.conftest import Site
from tests.servers import REPOSITORY, Application, GuardedMongod

VARIABLES = REPOSITORY / "roles" / "mongodb" / "vars" / "main.yml"
PASSWORDS = {name: secrets.token_urlsafe(16) for name in ("admin", "app", "migrator", "backup", "monitor")}


class SiteMongod(GuardedMongod):
    """With the users of a real site."""

    def uri_of(self, user: str) -> str:
        name = user if user == "admin" else f"loyalty_{user}"
        return self.uri.replace("mongodb://", f"mongodb://{name}:{PASSWORDS[user]}@") + "&authSource=admin"


def site_roles() -> list[dict[str, Any]]:
    """The roles, rendered by Ansible as it would for a server."""
    variables = {f"vault_mongodb_{name}_password": password for name, password in PASSWORDS.items()}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *(
                "-i",
                "localhost,",
                "-c",
                "local",
                "localhost",
                "-m",
                "ansible.builtin.debug",
                "-a",
                "var=__mongodb_roles",
            ),
            *("-e", f"@{VARIABLES}", "-e", json.dumps(variables)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    roles: list[dict[str, Any]] = yaml.safe_load(done.stdout.partition("=>")[2])["__mongodb_roles"]
    return roles


@pytest.fixture(scope="module")
def guarded(servers_directory: Path) -> Iterator[SiteMongod]:
    server = SiteMongod(servers_directory / "guarded")
    try:
        server.start()
        with server.connect() as client:  # the localhost exception: the first user, once
            client.admin.command("createUser", "admin", pwd=PASSWORDS["admin"], roles=["root"])
        with MongoClient[dict[str, Any]](server.uri_of("admin")) as client:
            for role in site_roles():
                client.admin.command("createRole", role["name"], privileges=role["privileges"], roles=role["roles"])
                user = role["name"].removeprefix("loyalty_")
                client.admin.command("createUser", role["name"], pwd=PASSWORDS[user], roles=[role["name"]])
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def key(guarded: SiteMongod) -> str:
    """A key, made as on a site: the migrator prepares the database, the program and the key."""
    db = connect(guarded.uri_of("migrator"), "loyalty", serves_requests=False)
    try:
        migrate(db, release="test", clock=system_clock)
        assert migrate(db, release="test", clock=system_clock) == []
        program = programs.create(db, id="main", name="Main", currency="USD", clock=system_clock)
        _, secret = auth.create_key(
            db, program=program.id, mode=program.mode, name="test", scopes=ALL_SCOPES, clock=system_clock
        )
        return secret
    finally:
        db.client.close()


@pytest.fixture(scope="module")
def site(guarded: SiteMongod, key: str, servers_directory: Path) -> Iterator[Application]:
    server = Application(
        servers_directory / "least",
        mongo_uri=guarded.uri_of("app"),
        database="loyalty",
        redis_url=None,
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_every_collection_can_be_used_by_the_application() -> None:
    """A collection that a release declares and the role does not name would be refused on a real site only."""
    variables = yaml.safe_load(VARIABLES.read_text())
    granted = [*variables["__mongodb_appended"], *variables["__mongodb_maintained"]]
    assert sorted(granted) == sorted(set(declared()) - {"migrations"})


def test_the_application_works_with_the_rights_that_it_gets(site: Application, key: str) -> None:
    event = {"source": "t", "id": "1", "type": "purchase", "member": {"external_id": "1"}, "currency": "USD"}
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as api:

        def post(path: str, body: Any, status: int = 201) -> Any:
            answer = api.post(path, json=body, headers={"Idempotency-Key": secrets.token_hex(8)})
            assert answer.status_code == status, answer.text + site.log.read_text()[-2000:]
            return answer.json()

        demo.configure(api)
        post("/v1/events", {**event, "amount": "50.00"})
        post("/v1/events/batch", [{**event, "id": str(number), "amount": "1.00"} for number in range(2, 20)], 200)
        post("/v1/members", {"external_id": "2"})
        member = {"external_id": "1"}
        reward = post("/v1/rewards", {"name": "Coffee", "cost": 10})["id"]
        post("/v1/redemptions", {"member": member, "reward": reward})
        post("/v1/adjustments", {"member": member, "points": 5, "reason": "goodwill"})
        limited = post("/v1/rewards", {"name": "Cup", "cost": 10, "stock": 1})["id"]
        bought = post("/v1/redemptions", {"member": member, "reward": limited})["entry"]["id"]
        post(f"/v1/redemptions/{bought}/cancel", {})
        post("/v1/members/ext:2/merge", {"into": member})
        post("/v1/programs", {"id": "second", "name": "Second", "currency": "EUR"})
        post("/v1/keys", {"name": "till", "scopes": ["events:write"]})
        uploaded = api.post("/v1/files", content=b"hello", headers={"Content-Type": "text/plain"})
        assert uploaded.status_code in (201, 415, 422), uploaded.text  # whichever form it takes, the store answered
        assert api.get("/v1/members/ext:1/balance").json()["wallets"]["points"]["available"] == 50 + 18 - 10 + 5
        assert len(api.get("/v1/members/ext:1/entries").json()["data"]) == 24
        assert api.get("/readyz").status_code == 200


def test_the_application_reads_the_ends_of_many_chains(site: Application, key: str, guarded: SiteMongod) -> None:
    """What a lost race makes it do, which a quiet test would not."""
    db = connect(guarded.uri_of("app"), "loyalty", serves_requests=False)
    try:
        heads = read_heads(db.ledger, [1, 2, 999])
        assert set(heads) == {1, 2, 999}
        assert heads[999].sequence == 0
    finally:
        db.client.close()


@pytest.mark.parametrize("collection", ["ledger", "seals"])
@pytest.mark.parametrize("operation", ["update", "delete", "drop", "drop_index", "drop_database", "write_elsewhere"])
def test_the_application_cannot_change_what_was_written(
    site: Application, guarded: SiteMongod, collection: str, operation: str
) -> None:
    with MongoClient[dict[str, Any]](guarded.uri_of("app")) as client:
        target = client.loyalty[collection]
        attempts: dict[str, Callable[[], object]] = {
            "update": lambda: target.update_one({}, {"$set": {"kind": "other"}}),
            "delete": lambda: target.delete_one({}),
            "drop": target.drop,
            "drop_index": lambda: target.drop_index("keys"),
            "drop_database": lambda: client.drop_database("loyalty"),
            "write_elsewhere": lambda: client.other[collection].insert_one({}),
        }
        with pytest.raises(OperationFailure) as refusal:
            attempts[operation]()
        assert refusal.value.code == 13, "not refused for want of rights"


@pytest.mark.parametrize("user", ["backup", "monitor", "migrator"])
def test_nobody_else_can_write_the_ledger(key: str, guarded: SiteMongod, user: str) -> None:
    with MongoClient[dict[str, Any]](guarded.uri_of(user)) as client, pytest.raises(OperationFailure) as refusal:
        client.loyalty.ledger.insert_one({"_id": 1})
    assert refusal.value.code == 13


def test_the_backup_user_suffices_for_every_archive(key: str, guarded: SiteMongod, tmp_path: Path) -> None:
    site = Site(tmp_path / "host", [guarded], password=PASSWORDS["backup"])
    assert full(site.settings, site.target).counts["loyalty.programs"] > 0
    with MongoClient[dict[str, Any]](guarded.uri_of("admin")) as client:
        client.loyalty.noted.insert_one({})
    assert incremental(site.settings, site.target).kind == "incremental"
    assert archive_what_is_new(site.settings, site.target)[-1].holdings is not None
    assert alarms(site.target) == {}


def test_a_wrong_password_of_the_backup_user_is_said_without_it(guarded: SiteMongod, tmp_path: Path) -> None:
    site = Site(tmp_path / "host", [guarded], password="a-wrong-password")
    for command in ("full", "log"):
        done = site.run(command)
        assert done.returncode == 1
        assert "uthentication failed" in done.stderr
        assert "a-wrong-password" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_the_monitor_cannot_read_members(key: str, guarded: SiteMongod) -> None:
    with MongoClient[dict[str, Any]](guarded.uri_of("monitor")) as client:
        for database, collection in (("loyalty", "members"), ("local", "oplog.rs")):
            with pytest.raises(OperationFailure) as refusal:
                client[database][collection].find_one()
            assert refusal.value.code == 13


def test_without_a_password_there_is_nothing(key: str, guarded: SiteMongod) -> None:
    with guarded.connect() as client, pytest.raises(OperationFailure) as refusal:
        client.loyalty.ledger.find_one()
    assert refusal.value.code == 13
