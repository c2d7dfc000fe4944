"""Point-in-time recovery of a data directory: mongod itself replays the log that was archived after the copy.

The entries are appended to the copy's own oplog, and a mongod that recovers finds them there, as after a crash. It
replays what no client can: transactions, index builds, renames, users. docs/decisions/0030 says how it was measured.

Three things make mongod replay nothing, or not all, without a word, so each is dealt with here:

* A copy of a primary names a point after which the oplog has holes: mongod would first cut off what was appended.
* Once a recovery was begun, the data has no moment any more from which another could begin: entries that are appended
  then, and the rest of one that was killed, are applied in part. So all go in before, and who was killed takes a new
  copy.
* Nothing tells from outside where a recovery ended. So the last entry that is appended is one of our own, which makes a
  collection: when that is there, everything before it has been applied.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import bson
from bson.binary import Binary
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime, flush_folder
from loyalty.backup.raw import RAW, batches
from loyalty.backup.scratch import Document, Scratch

RECOVERY_S: Final = 24 * 3600.0
"""What a recovery may take. mongod answers nobody before it is over."""

_PROOF: Final = "loyalty_restore"
"""The database of the collection that proves how far a recovery came. Gone in the end."""

_BEGUN: Final = "recovery-begun"
_BATCH: Final = 2 << 20
_TRUNCATE_AFTER: Final = "replset.oplogTruncateAfterPoint"
_MEMBERSHIP: Final = (_TRUNCATE_AFTER, "system.replset", "replset.election", "replset.minvalid")
_ACCESS: Final = {"system.users": "dropAllUsersFromDatabase", "system.roles": "dropAllRolesFromDatabase"}


class ReplayError(BackupError):
    """The log cannot be replayed on this copy, or was not replayed to its end."""


def append(
    scratch: Scratch,
    entries: Iterable[bytes],
    *,
    base: ClusterTime,
    to: ClusterTime,
    progress: Callable[[int], None] = lambda entries: None,
) -> ClusterTime:
    """Append the log's entries after `base`, where the copy ends, up to `to` inclusive; the last one's time.

    `entries` are raw BSON in the order of time, repetitions allowed, and hold the entry at `base` if they hold any
    after it: that must be the very one that the copy has. May be called again after it was killed, with the same
    arguments: it goes on where it was. `progress` is called with the number of entries that went in.
    """
    _require_unrecovered(scratch)
    with scratch.standalone() as client:
        oplog = client.local["oplog.rs"].with_options(codec_options=RAW)
        # Read before anything is written: without a replica set, mongod never shows readers what comes in now.
        top = oplog.find(sort=[("$natural", -1)]).limit(1).next()
        own = oplog.find_one({"ts": base.timestamp})
        if own is None:
            raise ReplayError(
                f"The copy does not end at {base.instant:%Y-%m-%dT%H:%M:%SZ} ({base.hex}), as its manifest says.",
                "Take an older archive, or an earlier instant; and a new full: loyalty-backup full",
            )
        last = top
        if not _is_proof(top):
            missing = _missing(entries, bytes(own.raw), base=base, there=ClusterTime.of(top["ts"]), to=to)
            count = 0
            for batch in batches(missing, size=_BATCH):
                oplog.insert_many(batch)
                last = batch[-1]
                count += len(batch)
                progress(count)
            oplog.insert_one(RawBSONDocument(bson.encode(_proof(last))))
        client.local[_TRUNCATE_AFTER].delete_many({})
        return _before(top) if _is_proof(top) else ClusterTime.of(last["ts"])


def recover(scratch: Scratch, last: ClusterTime) -> None:
    """Let mongod replay all that was appended, up to `last`, once. ReplayError when it did not come to the end.

    When it was killed, begin with a new copy.
    """
    _require_unrecovered(scratch)
    (scratch.work / _BEGUN).touch()
    flush_folder(scratch.work)
    parameters = (
        "recoverFromOplogAsStandalone=true",
        "takeUnstableCheckpointOnShutdown=true",
        # Without it mongod keeps every state in between, in memory and on the disk, until the recovery is over.
        "startupRecoveryForRestore=true",
    )
    with scratch.standalone(*parameters, start_s=RECOVERY_S) as client:
        if last.hex not in client[_PROOF].list_collection_names():
            raise ReplayError(
                "mongod did not replay the log to its end.",
                f"Read {scratch.log}, remove {scratch.work}, and restore again.",
            )


def detach(scratch: Scratch, *, forget_users: bool = False) -> None:
    """Make the data forget the replica set it came from, so that it can begin as a new one. Again changes nothing.

    `forget_users`: also its users and roles, for a set whose administrator nobody has the password of. mongod lets its
    own host make a first user only while there is neither.
    """
    with scratch.standalone() as client:
        for name in _MEMBERSHIP:
            client.local[name].delete_many({})
        client.drop_database(_PROOF)
        if forget_users:
            for collection, drop in _ACCESS.items():
                for name in client.admin[collection].distinct("db"):
                    client[name].command(drop)


def was_begun(scratch: Scratch) -> bool:
    """Whether a recovery of this copy was begun, and perhaps killed."""
    return (scratch.work / _BEGUN).exists()


def _require_unrecovered(scratch: Scratch) -> None:
    if was_begun(scratch):
        raise ReplayError(
            f"A recovery of {scratch.data} was begun before.", f"Remove {scratch.work}, and restore again."
        )


def _missing(
    entries: Iterable[bytes], own: bytes, *, base: ClusterTime, there: ClusterTime, to: ClusterTime
) -> Iterator[bytes]:
    """The entries after `there` up to `to`, if the log is the one that the copy is of."""
    seen = False
    last = there
    for raw in entries:
        at = time_of(raw)
        if at > to:
            return
        if at == base:
            seen = True
            if raw != own:
                raise ReplayError(
                    f"The log has another entry at {at.hex} than the copy: they are of different histories.",
                    "Take an archive from before a member rolled back; and a new full: loyalty-backup full",
                )
        if at > base and not seen:
            raise ReplayError(
                f"The log begins at {at.hex}, after the end of the copy ({base.hex}).",
                "Restore to an earlier instant, or take an archive that is newer.",
            )
        if at > last:
            yield raw
            last = at


def time_of(raw: bytes) -> ClusterTime:
    """When a log entry happened."""
    return ClusterTime.of(RawBSONDocument(raw, RAW)["ts"])


def _proof(last: RawBSONDocument) -> Document:
    """An entry right after `last` that makes a collection with its name."""
    at = last["ts"]
    return {
        "op": "c",
        "ns": f"{_PROOF}.$cmd",
        "ui": Binary.from_uuid(uuid.uuid4()),
        "o": {"create": ClusterTime.of(at).hex, "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}},
        "ts": type(at)(at.time, at.inc + 1),
        "t": Int64(last["t"]),
        "v": Int64(2),
        "wall": last["wall"],
    }


def _is_proof(entry: RawBSONDocument) -> bool:
    return bool(entry["ns"] == f"{_PROOF}.$cmd")


def _before(proof: RawBSONDocument) -> ClusterTime:
    at = ClusterTime.of(proof["ts"])
    return ClusterTime(at.t, at.i - 1)
