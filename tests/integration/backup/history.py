"""A database with a history: a copy of its folder, then all that a log can hold, an instant, and harm after it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson.timestamp import Timestamp
from pymongo import ASCENDING, MongoClient
from pymongo.database import Database

from loyalty.backup.manifest import ClusterTime
from loyalty.backup.raw import RAW, documents
from tests.servers import Mongod

Document = dict[str, Any]
Client = MongoClient[Document]
Hashes = dict[str, dict[str, str]]

OWN = ("local", "config")
"""Databases of a server itself."""


@dataclass(frozen=True)
class History:
    """`copy` is the folder as it was at `base`, `state` what it held at `to`, `log` what came from `older_base` on."""

    older: Path
    """A copy from before that."""
    older_base: ClusterTime
    copy: Path
    base: ClusterTime
    log: Path
    to: ClusterTime
    state: Document
    in_transaction: ClusterTime
    """When a large transaction had written some of its entries, and not the last."""
    in_index_build: ClusterTime
    """When the building of an index had begun."""

    def entries(self) -> Iterator[bytes]:
        """The log, raw."""
        with self.log.open("rb") as file:
            yield from documents(iter(lambda: file.read(1 << 16), b""))


class Roomy(Mongod):
    """One whose cache has room for large transactions, and that can be told to prepare one, as a shard is."""

    def command(self) -> list[str]:
        command = super().command()
        command[command.index("--wiredTigerCacheSizeGB") + 1] = "1"
        return [*command, "--setParameter", "enableTestCommands=1"]


def make(directory: Path) -> History:
    """Live through it, on a server of its own that has stopped at the end."""
    server = Roomy(directory / "source")
    server.start()
    try:
        with server.connect() as client:
            client.shop.old.insert_one({"_id": 1})
            older, older_base = copy_locked(client, server.data, directory / "older")
            _before(client)
            copy, base = copy_locked(client, server.data, directory / "copy")
            _meanwhile(client)
            to, state = top(client), state_of(client)
            _harm(client)
            log = directory / "log.bson"
            write_log(client, log, older_base)
            return History(
                older=older,
                older_base=older_base,
                copy=copy,
                base=base,
                log=log,
                to=to,
                state=state,
                in_transaction=_middle_of_transaction(client),
                in_index_build=_begin_of_index_build(client),
            )
    finally:
        server.stop()


def copy_locked(client: Client, data: Path, into: Path) -> tuple[Path, ClusterTime]:
    """Copy the folder of a server that takes no writes meanwhile, as the source program does."""
    client.admin.command("fsync", lock=True)
    try:
        base = top(client)
        shutil.copytree(data, into, ignore=shutil.ignore_patterns("mongod.lock"))
    finally:
        client.admin.command("fsyncUnlock")
    return into, base


def write_log(client: Client, path: Path, base: ClusterTime) -> None:
    """The log from `base` on, its entry included."""
    oplog = client.local["oplog.rs"].with_options(codec_options=RAW)
    with path.open("wb") as file:
        for entry in oplog.find({"ts": {"$gte": base.timestamp}}):
            file.write(entry.raw)


def top(client: Client) -> ClusterTime:
    """The last moment of the log."""
    entry = client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
    assert entry is not None
    return ClusterTime.of(entry["ts"])


def state_of(client: Client) -> Document:
    """What a database is: of each collection a hash over its documents, its identity, options and indexes."""
    found: Document = {"fcv": client.admin["system.version"].find_one({"_id": "featureCompatibilityVersion"})}
    for name in client.list_database_names():
        if name not in OWN:
            hashes = client[name].command("dbHash")["collections"]
            found[name] = {
                each["name"]: (
                    hashes.get(each["name"]),
                    each["info"].get("uuid"),
                    each["options"],
                    _indexes(client, name, each),
                )
                for each in client[name].list_collections()
            }
    return found


def _indexes(client: Client, database: str, collection: Mapping[str, Any]) -> list[Document]:
    if collection["type"] != "collection":
        return []
    return sorted(
        (dict(index) for index in client[database][collection["name"]].list_indexes()), key=lambda i: i["name"]
    )


def _before(client: Client) -> None:
    client.shop.orders.insert_many([{"_id": number, "state": "new", "text": "x" * 200} for number in range(3000)])
    client.shop.create_collection("strict", validator={"n": {"$type": "int"}})
    client.shop.create_collection("recent", capped=True, size=65536)
    client.shop.replaced.insert_one({"_id": "before"})
    client.gone.things.insert_one({"_id": 1})
    client.shop.sessions.create_index("at", expireAfterSeconds=86400)
    client.admin.command("createUser", "anna", pwd="first", roles=["root"])
    client.admin.command("createRole", "seller", privileges=[], roles=["readWriteAnyDatabase"])
    client.shop.command("createRole", "buyer", privileges=[], roles=["read"])


def _meanwhile(client: Client) -> None:
    _together(client)
    db = client.shop
    db.empty.create_index("n", unique=True)
    db.orders.create_index([("state", ASCENDING), ("text", ASCENDING)], name="states")
    db.command("collMod", "strict", validator={"n": {"$type": ["int", "string"]}})
    db.strict.insert_one({"n": "text"})
    db.command("collMod", "sessions", index={"name": "at_1", "expireAfterSeconds": 172800})
    db.sessions.insert_one({"at": client.admin.command("hello")["localTime"]})
    db.recent.insert_many([{"_id": number, "text": "y" * 300} for number in range(1000)])
    db.old.rename("renamed")
    db.replaced.drop()
    db.replaced.insert_one({"_id": "after"})
    db.drop_collection("nothing")
    client.drop_database("gone")
    db.orders.create_index("temporary")
    db.orders.drop_index("temporary_1")
    for megabytes in (20, 40):
        _transaction(db, f"large-{megabytes}", size=megabytes << 20)
    _transaction(db, "aborted", size=20 << 20, abort=True)
    for name in ("committed", "aborted"):
        prepared = Prepared(client, {"_id": f"prepared-{name}"})
        db.orders.update_one({"_id": 1}, {"$set": {"while": name}})
        prepared.commit() if name == "committed" else prepared.abort()
    client.admin.command("createUser", "berta", pwd="second", roles=[{"role": "readWrite", "db": "shop"}])
    client.admin.command("updateUser", "anna", pwd="third")
    db.create_collection("a_view", viewOn="orders", pipeline=[{"$match": {"state": "new"}}])
    client.fresh.things.insert_one({"_id": 1})


def _together(client: Client) -> None:
    """Several writers at once: plain writes, and transactions of which each fifth is taken back."""

    def work(number: int) -> None:
        db = client.shop
        for round_ in range(40):
            db.orders.update_many({"_id": {"$mod": [97, round_]}}, {"$inc": {"n": 1}, "$push": {"by": number}})
            db.log.insert_many([{"writer": number, "round": round_, "i": i} for i in range(20)])
            db.log.delete_one({"writer": number, "round": round_ - 3})
            with client.start_session() as session:
                session.start_transaction()
                db.pairs.insert_one({"writer": number, "round": round_}, session=session)
                db.totals.update_one({"_id": number}, {"$inc": {"n": 1}}, upsert=True, session=session)
                if round_ % 5 == 4:
                    session.abort_transaction()
                else:
                    session.commit_transaction()

    client.shop.pairs.insert_one({"_id": "first"})  # so that no transaction makes a collection
    client.shop.totals.insert_one({"_id": "first"})
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _transaction(db: Database[Document], name: str, *, size: int, abort: bool = False) -> None:
    piece = 4 << 20
    with db.client.start_session() as session:
        session.start_transaction()
        for number in range(size // piece):
            content = os.urandom(piece)
            db.pairs.insert_one({"_id": f"{name}-{number}", "content": content}, session=session)
        if abort:
            session.abort_transaction()
        else:
            session.commit_transaction()


class Prepared:
    """A transaction that has inserted a document into shop.pairs and can be prepared, as those over shards are."""

    def __init__(self, client: Client, document: Document) -> None:
        self._client = client
        self._session = client.start_session()
        self._session.start_transaction()
        client.shop.pairs.insert_one(document, session=self._session)
        self._at = client.admin.command("prepareTransaction", session=self._session)["prepareTimestamp"]

    def commit(self) -> None:
        self._client.admin.command({"commitTransaction": 1, "commitTimestamp": self._at}, session=self._session)
        self._session.end_session()

    def abort(self) -> None:
        self._session.abort_transaction()
        self._session.end_session()


def _harm(client: Client) -> None:
    """What a restore is for."""
    client.shop.orders.delete_many({"_id": {"$lt": 2000}})
    client.shop.orders.update_many({}, {"$set": {"state": "wrong"}})
    client.shop.strict.drop()
    client.shop.renamed.rename("lost")
    client.admin.command("dropUser", "berta")
    client.admin.command("updateUser", "anna", pwd="fourth")
    client.drop_database("fresh")
    client.shop.pairs.create_index("writer")


def _middle_of_transaction(client: Client) -> ClusterTime:
    parts = list(client.local["oplog.rs"].find({"o.partialTxn": True}))
    assert len(parts) > 2
    return ClusterTime.of(parts[-1]["ts"])


def _begin_of_index_build(client: Client) -> ClusterTime:
    begin = client.local["oplog.rs"].find_one({"o.startIndexBuild": "orders"})
    assert begin is not None
    at: Timestamp = begin["ts"]
    return ClusterTime.of(at)
