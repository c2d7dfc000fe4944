"""A part of an earlier state, to look at: one collection, or what one member's points rest on.

It comes from a folder that was restored, from a dump, or from a restore made for it. As extended JSON, one document a
line, it is for people and scripts; as BSON it can be put beside the live data, in a collection of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import bson
from bson import json_util
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.errors import CollectionInvalid

from loyalty.backup.dump import read_dump
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, ClusterTime, Target
from loyalty.backup.raw import RAW, batches, write_new
from loyalty.backup.restore import Progress, restore, room
from loyalty.backup.scratch import Client, Document, Scratch
from loyalty.backup.sealed import read_identity
from loyalty.backup.settings import Settings
from loyalty.infra.ids import member_number
from loyalty.ledger.entry import SEQUENCE_BITS

_BATCH: Final = 2 << 20


class Part(NamedTuple):
    """What is wanted: the documents of a collection whose `_id` lies in a range, or all."""

    collection: str
    from_: int | None = None
    before: int | None = None

    @property
    def filter(self) -> Document:
        """As a query."""
        return {} if self.from_ is None else {"_id": {"$gte": Int64(self.from_), "$lt": Int64(self.before or 0)}}

    def has(self, raw: bytes) -> bool:
        """Whether a raw document is one of them."""
        if self.from_ is None:
            return True
        number = bson.decode(raw, codec_options=RAW)["_id"]
        return isinstance(number, int) and self.from_ <= number < (self.before or 0)


def chain_of(member: str) -> Part:
    """The ledger's entries of a member, by its public id (mem_…). BackupError for another text."""
    number = member_number(member)
    if number is None:
        raise BackupError(f"{member} is no member's id.", "Ids look like mem_00000001; the console shows them.")
    return Part("ledger", number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS)


def from_dump(settings: Settings, target: Target, archive: Archive, part: Part) -> Iterator[bytes]:
    """The raw documents of that part in a dump."""
    name = f"{settings.database.name}.{part.collection}"
    if name not in archive.counts:
        raise BackupError(f"The dump {archive.id} has no collection {name}.", _there_is(settings, archive.counts))
    documents = read_dump(target, archive, name, read_identity(settings.identity_file))
    return (raw for raw in documents if part.has(raw))


@contextmanager
def from_restored(settings: Settings, folder: Path, part: Part) -> Iterator[Iterator[bytes]]:
    """The raw documents of that part in a folder that `restore` made, by a mongod that runs meanwhile."""
    with Scratch.in_folder(settings, folder).standalone() as client:
        yield _read(settings, client, part)


@contextmanager
def from_archives(
    settings: Settings, target: Target, to: ClusterTime | None, part: Part, *, progress: Progress
) -> Iterator[Iterator[bytes]]:
    """The raw documents of that part at a moment, by a restore that is gone in the end."""
    with room(settings, target, "An extract") as folder:
        restore(settings, to, folder, progress=progress)
        with from_restored(settings, folder, part) as documents:
            yield documents


def write(documents: Iterable[bytes], out: Path) -> int:
    """Write them to a new file, as BSON when its name ends with .bson, else as JSON lines; how many there were."""
    if out.suffix == ".bson":
        return write_new(out, documents)
    return write_new(out, (json_util.dumps(bson.decode(raw)).encode() + b"\n" for raw in documents))


def put_beside(documents: Iterable[bytes], uri: str, database: str, collection: str) -> int:
    """Insert them into a new collection of a live database; how many. BackupError when it exists already.

    The application knows nothing of that collection. Drop it when you have seen enough.
    """
    client: Client = MongoClient(uri, appname="loyalty-backup", serverSelectionTimeoutMS=10_000, w="majority")
    with client:
        try:
            client[database].create_collection(collection)
        except CollectionInvalid:
            raise BackupError(
                f"{database} has a collection {collection}.", "Drop it, or choose another name."
            ) from None
        count = 0
        for batch in batches(documents, size=_BATCH):
            client[database][collection].with_options(codec_options=RAW).insert_many(batch)
            count += len(batch)
        return count


def _read(settings: Settings, client: Client, part: Part) -> Iterator[bytes]:
    database = client[settings.database.name]
    names = database.list_collection_names()
    if part.collection not in names:
        raise BackupError(f"There was no collection {part.collection} then.", _there_is(settings, names))
    found: Any
    for found in database[part.collection].with_options(codec_options=RAW).find(part.filter, sort=[("_id", 1)]):
        yield bytes(found.raw)


def _there_is(settings: Settings, names: Iterable[str]) -> str:
    own = sorted(name.removeprefix(f"{settings.database.name}.") for name in names)
    return f"There are: {', '.join(own)}."
