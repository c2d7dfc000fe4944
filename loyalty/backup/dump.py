"""The weekly dump: every document as of one moment, in a format that does not depend on how a server keeps its files.

    dumps/<id>/<database.collection>.bson.age    its documents, BSON one after the other, zstd and age
    dumps/<id>/collections.bson.age              what the collections are: options, validators, indexes, views
    dumps/<id>/manifest.json                     written last

It is read from a secondary by snapshot reads of one cluster time, so the database as a whole is as it was at that
moment, while writers go on. A server keeps that moment for `minSnapshotHistoryWindowInSeconds`, 5 minutes: a database
that takes longer is dumped from the archives, restored on this host as for a drill. To have the servers keep it for
longer instead would cost every member of the set history in its cache and on its disk all week, for an hour of it.
Capped collections have no snapshots and are left out, by name; the application has none.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import bson
import pyrage  # type: ignore[import-untyped]
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from loyalty import __version__
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import (
    Archive,
    ClusterTime,
    Seal,
    Target,
    flush_folder,
    leftovers,
    read_catalogue,
    remove,
    write_manifest,
)
from loyalty.backup.members import Client, connect, in_order, standings
from loyalty.backup.raw import RAW, NotBson, batches, documents
from loyalty.backup.replay import detach
from loyalty.backup.restore import Progress, restore, room
from loyalty.backup.scratch import Document, Scratch
from loyalty.backup.sealed import Damaged, read_identity, read_sealed, write_sealed
from loyalty.backup.settings import Member, Settings
from loyalty.backup.target import hold, require_room

COLLECTIONS: Final = "collections"
"""The file that says what the collections are."""

_SERVERS_OWN: Final = frozenset({"admin", "config", "local"})
_USERS: Final = ("system.users", "system.roles")
_BATCH: Final = 2 << 20
_TOO_OLD: Final = 239  # the server's error codes
_CHANGED: Final = 246  # a collection was made, dropped or changed since that moment
_ATTEMPTS: Final = 3
_MAJORITY_WITHIN_S: Final = 60
_LENGTH: Final = struct.Struct("<i")
_STORED_SHARE: Final = 0.4


class DumpError(BackupError):
    """There is no dump, or it cannot be loaded."""


class NotKept(DumpError):
    """No server keeps a moment for as long as a dump takes. The archives do."""


class Dumped(NamedTuple):
    """A dump, and the collections that it has not."""

    archive: Archive
    left_out: tuple[str, ...]


class _Collection(NamedTuple):
    database: str
    name: str
    kind: str
    options: Mapping[str, Any]
    indexes: Sequence[Mapping[str, Any]]

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"


def dump(settings: Settings, target: Target, *, progress: Progress = lambda step, done, whole: None) -> Dumped:
    """Dump the replica set as of now. NotKept when it takes longer than the server keeps that moment."""
    with hold(target, "A dump"):
        remove(leftovers(target))
        for _ in range(_ATTEMPTS):
            found = standings(settings)
            now = max(standing.top for standing in found)
            standing = in_order(found, most_lag_s=settings.limits.most_lag_seconds)[0]
            _wait_for(settings, standing.member, now)
            facts = {"server": standing.member.address, "role": standing.role}
            with connect(settings, standing.member, patience_s=600) as client:
                try:
                    return _Dumping(settings, target, client, now, facts, progress).run(_At(now))
                except OperationFailure as error:
                    if error.code == _TOO_OLD:
                        break
                    if error.code != _CHANGED:
                        raise
    raise NotKept(
        f"{standing.member.address} did not keep the moment of the dump until it was over, or collections were "
        "made or dropped meanwhile, again and again.",
        "Dump without the servers: loyalty-backup dump --from-archives",
    )


def _wait_for(settings: Settings, member: Member, moment: ClusterTime) -> None:
    """Until the member knows that a majority has all up to that moment: no snapshot is read before."""
    deadline = time.monotonic() + _MAJORITY_WITHIN_S
    with connect(settings, member) as client:
        while ClusterTime.of(client.admin.command("hello")["lastWrite"]["majorityOpTime"]["ts"]) < moment:
            if time.monotonic() > deadline:
                raise DumpError(
                    f"For {_MAJORITY_WITHIN_S} s {member.address} has not got what a majority has.",
                    "Check the replica set: ./appliance status. Then try again.",
                )
            time.sleep(0.05)  # a poll: heartbeats tell it


def dump_from_archives(settings: Settings, target: Target, *, progress: Progress) -> Dumped:
    """Dump the last moment that can be restored, from a server on this host."""
    with hold(target, "A dump"), room(settings, target, "A dump") as directory:
        remove(leftovers(target))
        restored = restore(settings, None, directory, progress=progress)
        archive = next(one for one in read_catalogue(target).physical if one.id == restored.archive)
        with Scratch.in_folder(settings, directory).standalone() as client:
            facts = {"server": archive.server, "role": archive.role}
            return _Dumping(settings, target, client, restored.to, facts, progress).run(ReadConcern("local"))


class _At(ReadConcern):
    """Reads of one cluster time, without a session: the driver has none on a hidden member."""

    def __init__(self, at: ClusterTime) -> None:
        super().__init__("snapshot")
        self._at = at

    @property
    def document(self) -> dict[str, Any]:
        """As the command has it."""
        return {**super().document, "atClusterTime": self._at.timestamp}


class _Dumping:
    """One dump, of the server behind `client` as of `at`."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        client: Client,
        at: ClusterTime,
        facts: dict[str, Any],
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._target = target
        self._client = client
        self._at = at
        self._facts = facts
        self._progress = progress
        self._identity = read_identity(settings.identity_file)
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._stored = 0

    def run(self, read_concern: ReadConcern) -> Dumped:
        began = time.monotonic()
        self._progress("dump", 0, 0)
        every = list(_collections(self._client))
        left_out = tuple(one.full_name for one in every if one.options.get("capped"))
        wanted = [one for one in every if not one.options.get("capped")]
        size = sum(_size(self._client, one) for one in wanted if one.kind == "collection")
        require_room(self._settings, self._target, int(size * _STORED_SHARE))
        folder = self._target.dumps / self._name()
        folder.mkdir(mode=0o700)
        flush_folder(folder.parent)
        try:
            self._write(folder, COLLECTIONS, [bson.encode(one._asdict()) for one in wanted])
            for one in wanted:
                if one.kind == "collection":
                    collection = self._client[one.database].get_collection(one.name, read_concern=read_concern)
                    self._write(folder, one.full_name, self._documents(one.full_name, collection, size))
            archive = self._archive(folder.name, read_concern, began)
            write_manifest(self._target, archive)
        except BaseException:
            remove([folder])
            raise
        return Dumped(archive, left_out)

    def _documents(self, name: str, collection: Collection[Document], size: int) -> Iterator[bytes]:
        self._counts[name] = 0
        batch: Any
        for batch in collection.find_raw_batches({}):
            self._counts[name] += _count(batch)
            self._bytes += len(batch)
            self._progress("dump", self._bytes, max(size, 1))
            yield batch

    def _write(self, folder: Path, name: str, chunks: Sequence[bytes] | Iterator[bytes]) -> None:
        self._stored += write_sealed(folder / f"{name}.bson.age", chunks, self._identity).bytes

    def _archive(self, id: str, read_concern: ReadConcern, began: float) -> Archive:
        version = self._client.admin.command("getParameter", featureCompatibilityVersion=1)[
            "featureCompatibilityVersion"
        ]
        seals = self._client[self._settings.database.name].get_collection("seals", read_concern=read_concern)
        last = seals.find_one({}, {"hash": 1}, sort=[("_id", -1)])
        return Archive(
            kind="dump",
            id=id,
            from_=self._at,
            to=self._at,
            at=self._at.instant.isoformat(),
            server_version=self._client.server_info()["version"],
            fcv=version["version"],
            replica_set=self._settings.database.replica_set,
            counts=self._counts,
            seal=Seal(last["_id"], bytes(last["hash"]).hex()) if last else None,
            bytes=self._bytes,
            stored_bytes=self._stored,
            took_s=round(time.monotonic() - began, 3),
            agent=__version__,
            **self._facts,
        )

    def _name(self) -> str:
        """An id after the second of the state, numbered from the second one of that second on."""
        stamp = self._at.stamp
        names = (f"{stamp}.{number}" if number > 1 else stamp for number in count(1))
        return next(name for name in names if not (self._target.dumps / name).exists())


def read_dump(target: Target, archive: Archive, name: str, identity: pyrage.x25519.Identity) -> Iterator[bytes]:
    """The raw documents of `database.collection` in a dump. Damaged names the file that is not as it was written."""
    path = target.dumps / archive.id / f"{name}.bson.age"
    count = 0
    try:
        for document in documents(read_sealed(path, identity)):
            count += 1
            yield document
    except FileNotFoundError:
        raise Damaged(f"{path} is missing.", "Use another dump or the second copy.") from None
    except NotBson as error:
        raise Damaged(f"{path} holds something else than documents: {error}.", "Use another dump.") from None
    if name != COLLECTIONS and count != archive.counts.get(name):
        raise Damaged(f"{path} has {count:,} documents instead of {archive.counts.get(name):,}.", "Use another dump.")


def load(
    settings: Settings,
    target: Target,
    archive: Archive,
    into: Path,
    *,
    progress: Progress = lambda step, done, whole: None,
) -> Path:
    """Make a dump a data folder in a new or empty folder, on which mongod can begin a new replica set.

    Collections get their options, validators and indexes, and the set its users. Damaged or DumpError otherwise.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise DumpError(f"{into} is not empty.", "Name another folder, or remove it.")
    scratch = Scratch.in_folder(settings, into)
    for folder in (scratch.data, scratch.work):
        folder.mkdir(mode=0o700)
    identity = read_identity(settings.identity_file)
    progress("load", 0, 0)
    with scratch.replica_set("load") as client:
        found = [_Collection(**bson.decode(raw)) for raw in read_dump(target, archive, COLLECTIONS, identity)]
        loading = _Loading(client, lambda name: read_dump(target, archive, name, identity), archive.bytes, progress)
        for one in sorted(found, key=lambda one: one.kind == "view"):  # what they look at first
            loading.load(one)
        loading.merge_users()
    detach(scratch)
    return scratch.data


class _Loading:
    def __init__(self, client: Client, read: Callable[[str], Iterator[bytes]], size: int, progress: Progress) -> None:
        self._client = client
        self._read = read
        self._size = size
        self._progress = progress
        self._done = 0

    def load(self, one: _Collection) -> None:
        """Make the collection, fill it, then build its indexes."""
        name = f"temp_{one.name.removeprefix('system.')}" if one.name in _USERS else one.name
        database = self._client[one.database]
        if name == one.name:
            database.create_collection(name, check_exists=False, **one.options)
        if one.kind != "collection":
            return
        collection = database[name].with_options(codec_options=RAW)
        for batch in batches(self._read(one.full_name), size=_BATCH):
            # What the validator refuses today was accepted once, and is part of the record.
            collection.insert_many(batch, bypass_document_validation=True)
            self._done += sum(len(document.raw) for document in batch)
            self._progress("load", self._done, max(self._size, 1))
        indexes = [_index(each) for each in one.indexes if each["name"] != "_id_"]
        if indexes and name == one.name:
            database[name].create_indexes(indexes)

    def merge_users(self) -> None:
        """Take over users and roles as the servers' own tools do: nobody may write where they stand."""
        temporary = {"tempUsersCollection": "admin.temp_users", "tempRolesCollection": "admin.temp_roles"}
        there = set(self._client.admin.list_collection_names())
        given = {field: name for field, name in temporary.items() if name.removeprefix("admin.") in there}
        if given:
            self._client.admin.command(
                {"_mergeAuthzCollections": 1, **given, "drop": True, "db": "", "writeConcern": {"w": "majority"}}
            )
        for name in ("temp_users", "temp_roles"):
            self._client.admin.drop_collection(name)


def _collections(client: Client) -> Iterator[_Collection]:
    """Everything but what a server has for itself."""
    for database in sorted(client.list_database_names()):
        for found in client[database].list_collections():
            name, kind = found["name"], found["type"]
            if not _is_wanted(database, name):
                continue
            if kind == "timeseries":
                raise DumpError(f"{database}.{name} is a time series, which a dump cannot hold.", "Remove it.")
            indexes = [] if kind == "view" else [dict(index) for index in client[database][name].list_indexes()]
            yield _Collection(database, name, kind, found["options"], indexes)


def _is_wanted(database: str, name: str) -> bool:
    if database == "admin":
        return name in _USERS
    return database not in _SERVERS_OWN and not name.startswith("system.")


def _index(described: Mapping[str, Any]) -> IndexModel:
    options = {name: value for name, value in described.items() if name not in ("key", "v", "ns")}
    return IndexModel(list(described["key"].items()), **options)


def _size(client: Client, one: _Collection) -> int:
    return int(client[one.database].command("collStats", one.name)["size"])


def _count(batch: bytes) -> int:
    count = start = 0
    while start < len(batch):
        start += _LENGTH.unpack_from(batch, start)[0]
        count += 1
    return count
