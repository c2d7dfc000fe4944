"""A dump is the database as of one moment, the same that a restore makes of that moment, and can be loaded."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import json_util
from pymongo import MongoClient

from loyalty.backup.dump import DumpError, dump, dump_from_archives, load
from loyalty.backup.manifest import read_catalogue
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full
from loyalty.backup.records import alarms
from loyalty.backup.restore import restore
from loyalty.backup.scratch import Client, Scratch
from loyalty.backup.sealed import Damaged
from tests.integration.backup.conftest import Site
from tests.servers import Mongod, ReplicaSet

Document = dict[str, Any]

NAMES = ("orders", "strict", "new")


@pytest.fixture
def shop(lone_member: Mongod) -> Iterator[Client]:
    """A database with all that a dump keeps, and a collection that it cannot."""
    with lone_member.connect() as client:
        client.shop.create_collection("strict", validator={"n": {"$type": "int"}})
        client.shop.strict.insert_one({"n": 1})
        client.shop.command("insert", "strict", documents=[{"n": "old"}], bypassDocumentValidation=True)
        client.shop.orders.create_index([("till", 1), ("number", -1)], unique=True, name="number")
        client.shop.create_collection("new", viewOn="orders", pipeline=[{"$match": {"number": {"$gt": 10}}}])
        client.shop.create_collection("recent", capped=True, size=4096)
        client.shop.recent.insert_one({})
        client.admin.command("createUser", "anna", pwd="first", roles=["root"])
        client.admin.command("createRole", "seller", privileges=[], roles=["readWriteAnyDatabase"])
        yield client
        client.admin.command("dropUser", "anna")
        client.admin.command("dropRole", "seller")
        client.drop_database("shop")


@contextmanager
def writing(client: Client) -> Iterator[None]:
    """Two tills that write all the while, each order with its counter in a transaction."""
    over = threading.Event()

    def till(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            with client.start_session() as session, session.start_transaction():
                client.shop.orders.insert_one({"till": number, "number": count, "text": "x" * 500}, session=session)
                client.shop.counters.update_one({"_id": number}, {"$inc": {"n": 1}}, upsert=True, session=session)

    for number in (1, 2):  # so that no transaction makes them
        client.shop.counters.insert_one({"_id": number, "n": 0})
    threads = [threading.Thread(target=till, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def content(client: Client) -> Document:
    """Hashes, options and indexes of what a dump holds."""
    hashes = client.shop.command("dbHash")["collections"]
    return {
        each["name"]: (
            hashes.get(each["name"]),
            each["options"],
            None if each["type"] == "view" else client.shop[each["name"]].index_information(),
        )
        for each in client.shop.list_collections()
        if not each["options"].get("capped") and each["name"] != "system.views"
    }


def test_a_dump_is_the_moment_that_a_restore_makes(site: Site, shop: Client, tmp_path: Path) -> None:
    full(site.settings, site.target)
    with writing(shop):
        while shop.shop.orders.estimated_document_count() < 300:
            pass
        made = dump(site.settings, site.target)
        seen = shop.shop.orders.estimated_document_count()
        while shop.shop.orders.estimated_document_count() < seen + 100:
            pass
    archive_log(site.settings, site.target)
    assert made.left_out == ("shop.recent",)
    assert read_catalogue(site.target).dumps == (made.archive,)
    assert made.archive.counts["shop.orders"] < shop.shop.orders.count_documents({})

    load(site.settings, site.target, made.archive, tmp_path / "loaded")
    with Scratch.in_folder(site.settings, tmp_path / "loaded").replica_set("fresh") as client:
        loaded = content(client)
        assert sum(each["n"] for each in client.shop.counters.find()) == made.archive.counts["shop.orders"]
        host, port = client.address or ("", 0)
        with MongoClient[Document](host, port, username="anna", password="first", directConnection=True) as anna:
            assert anna.admin.command("rolesInfo", "seller")["roles"]
    restore(site.settings, made.archive.to, tmp_path / "restored")
    with Scratch.in_folder(site.settings, tmp_path / "restored").replica_set("fresh") as client:
        assert content(client) == loaded


def test_rule_5_a_dump_has_users_and_no_keys(site: Site, shop: Client, tmp_path: Path) -> None:
    """Not even root may read the keys by which members sign the time, and a new set makes its own."""
    assert "system.keys" in shop.admin.list_collection_names()
    shop.admin.command("createUser", "berta", pwd="second", roles=["root"])
    made = dump(site.settings, site.target)
    shop.admin.command("dropUser", "berta")
    files = {path.name for path in (site.target.dumps / made.archive.id).iterdir()}
    assert {name for name in files if name.startswith("admin.")} == {
        "admin.system.users.bson.age",
        "admin.system.roles.bson.age",
    }
    load(site.settings, site.target, made.archive, tmp_path / "loaded")
    with Scratch.in_folder(site.settings, tmp_path / "loaded").replica_set("fresh") as client:
        host, port = client.address or ("", 0)
        with MongoClient[Document](host, port, username="berta", password="second", directConnection=True) as berta:
            assert berta.admin.command("ping")["ok"]


def test_a_dump_is_written_as_the_servers_own_tools_write_one(site: Site, shop: Client, tmp_path: Path) -> None:
    shop.shop.orders.insert_many([{"till": 1, "number": number} for number in range(100)])
    shop.shop["50 % off"].insert_one({})
    made = dump(site.settings, site.target).archive
    into = tmp_path / "exported"
    done = site.run("export", "latest", "--into", str(into))
    assert done.returncode == 0, done.stderr
    files = {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}
    assert files == {
        *(f"shop/{name}.{kind}" for name in ("strict", "orders", "50+%25+off") for kind in ("bson", "metadata.json")),
        "shop/new.metadata.json",
        *(f"admin/system.{name}.{kind}" for name in ("users", "roles") for kind in ("bson", "metadata.json")),
        "admin/system.version.bson",
    }
    assert {path.stat().st_mode & 0o77 for path in into.rglob("*")} == {0}
    assert bson.decode_all((into / "shop/orders.bson").read_bytes()) == list(shop.shop.orders.find({}))
    orders, strict, new = (json_util.loads((into / f"shop/{name}.metadata.json").read_text()) for name in NAMES)
    assert [index["key"] for index in orders["indexes"]] == [{"_id": 1}, {"till": 1, "number": -1}]
    assert (orders["indexes"][1]["unique"], orders["collectionName"], orders["type"]) == (True, "orders", "collection")
    assert strict["options"]["validator"] == {"n": {"$type": "int"}}
    assert (new["type"], new["options"]["viewOn"], new["indexes"]) == ("view", "orders", [])
    assert "anna" in {user["user"] for user in bson.decode_all((into / "admin/system.users.bson").read_bytes())}
    (version,) = bson.decode_all((into / "admin/system.version.bson").read_bytes())
    assert version == shop.admin["system.version"].find_one({"_id": "authSchema"})

    again = site.run("export", made.id, "--into", str(into))
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    path = site.target.dumps / made.id / "shop.orders.bson.age"
    path.write_bytes(path.read_bytes()[:-1])
    assert site.run("export", made.id, "--into", str(tmp_path / "damaged")).returncode == 1
    assert not (tmp_path / "damaged").exists()


def test_a_dump_from_archives_needs_no_server(site: Site, shop: Client, tmp_path: Path) -> None:
    shop.shop.orders.insert_many([{"till": 1, "number": number} for number in range(100)])
    full(site.settings, site.target)
    shop.shop.orders.delete_many({"number": {"$lt": 50}})
    archive_log(site.settings, site.target)
    made = dump_from_archives(site.settings, site.target, progress=lambda step, done, whole: None)
    assert made.archive.counts["shop.orders"] == 50
    assert made.archive.to == read_catalogue(site.target).slices[-1].to
    assert not site.settings.drill.directory.exists()


def test_rule_6_a_dump_of_a_hidden_member(tmp_path: Path) -> None:
    """The driver has no sessions there, so the moment is asked for without one."""
    servers = ReplicaSet(tmp_path / "set", members=2)
    servers.start()
    try:
        primary = servers.primary()
        (other,) = servers.secondaries()
        configuration = primary.ask("replSetGetConfig")["config"]
        for member in configuration["members"]:
            if member["host"] == other.address:
                member |= {"hidden": True, "priority": 0}
        configuration["version"] += 1
        primary.ask({"replSetReconfig": configuration}, timeout_s=15)
        with MongoClient[Document](servers.uri, w=2) as client:
            client.shop.orders.insert_many([{"_id": number} for number in range(10)])
            site = Site(tmp_path / "host", servers.members)
            made = dump(site.settings, site.target)
        assert (made.archive.server, made.archive.role) == (other.address, "secondary")
        assert made.archive.counts == {"shop.orders": 10}
    finally:
        servers.stop()


def test_rule_6_a_moment_that_the_server_has_not_kept(site: Site, shop: Client) -> None:
    shop.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=0)

    def dump_often() -> None:
        for _ in range(20):
            dump(site.settings, site.target)

    try:
        with writing(shop), pytest.raises(DumpError, match="did not keep the moment"):
            dump_often()
    finally:
        shop.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=300)
    found = read_catalogue(site.target).dumps
    assert len(list(site.target.dumps.iterdir())) == len(found)


def test_where_no_server_keeps_the_moment_the_dump_is_taken_from_the_archives(site: Site, shop: Client) -> None:
    """As its timer does it: a week without a dump is no answer to a database that has grown."""
    full(site.settings, site.target)
    shop.shop.orders.insert_many([{"till": 0, "number": number} for number in range(100)])
    archive_log(site.settings, site.target)
    until = read_catalogue(site.target).slices[-1].to
    shop.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=0)
    try:
        with writing(shop):
            runs = (site.run("dump") for _ in range(20))
            done = next(run for run in runs if "from the archives" in run.stderr)
    finally:
        shop.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=300)
    assert done.returncode == 0, done.stderr
    assert until in {dump.to for dump in read_catalogue(site.target).dumps}
    assert alarms(site.target) == {}
    assert not site.settings.drill.directory.exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_damaged_dump_is_not_loaded(site: Site, shop: Client, tmp_path: Path, damage: str) -> None:
    shop.shop.orders.insert_many([{"till": 1, "number": number} for number in range(100)])
    made = dump(site.settings, site.target)
    path = site.target.dumps / made.archive.id / "shop.orders.bson.age"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(Damaged, match=r"shop\.orders\.bson\.age"):
        load(site.settings, site.target, made.archive, tmp_path / "loaded")
    shutil.rmtree(tmp_path / "loaded")
