"""The log of the replica set, in slices: with a state before them they lead to every second after it.

Each slice begins with the entry that the one before ends with, byte for byte. So the archive proves by itself that
nothing is missing between two slices (else: a gap) and that the history was not replaced by another one (else:
diverged). It ends with the last entry that a majority has, because later ones may be rolled back.

Entries pass through as the bytes that they are, a batch of the server's at a time: memory does not grow with the log.
"""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError
from pyrage.x25519 import Identity  # type: ignore[import-untyped]

from loyalty import __version__
from loyalty.backup.errors import BackupError
from loyalty.backup.holdings import holdings
from loyalty.backup.manifest import (
    Archive,
    Catalogue,
    ClusterTime,
    Holdings,
    Target,
    flush_folder,
    log_leftovers,
    read_catalogue,
    remove,
    write_manifest,
)
from loyalty.backup.members import Client, Standing, connect, in_order, standings
from loyalty.backup.sealed import read_identity, write_sealed
from loyalty.backup.settings import Settings
from loyalty.backup.target import hold, require_room

SLICE_BYTES = 256 << 20
"""A slice is closed when it has so many, uncompressed: what was archived before a run died need not be read again."""

_ASKED_EVERY_S = 600
"""Where the log is followed closely, the source says so often what it holds, and after each full or incremental."""

_LENGTH = struct.Struct("<i")
_FULL = "Take a new full, from which the log goes on: loyalty-backup full"


class Gap(BackupError):
    """The members have already dropped entries that were not archived."""


class Diverged(BackupError):
    """The members' history is not the one that was archived: it was rolled back, or the set was restored."""


class Behind(BackupError):
    """The member has not yet what was archived last."""


class Narrow(BackupError):
    """The members' log hardly reaches back to what was archived last."""


class Anchor(NamedTuple):
    """An entry of the log that is archived, and where the log goes on."""

    at: ClusterTime
    sha256: str
    slice: str | None
    """The slice that ends with it; None where it is the end of a full or incremental."""


def archive_log(
    settings: Settings, target: Target, *, slice_bytes: int = SLICE_BYTES, sparing: bool = False
) -> list[Archive]:
    """Archive what is new in the log; the new slices. Gap or Diverged when it does not join what was archived.

    The source then says what it holds at their end. It reads all wallets for that, so `sparing` has it do so not every
    time.
    """
    with hold(target, "The log", part="log"):
        remove(log_leftovers(target))
        identity = read_identity(settings.identity_file)
        found = in_order(standings(settings), most_lag_s=settings.limits.most_lag_seconds)
        problem: BackupError | None = None
        # A member that has just copied the others has a young log. Only when nobody has more does it begin anew.
        for begins_anew in (False, True):
            for standing in found:
                try:
                    with connect(settings, standing.member) as client:
                        archiving = _Archiving(settings, target, identity, client, standing, slice_bytes, sparing)
                        return archiving.run(begins_anew=begins_anew)
                except (Gap, Behind, PyMongoError) as error:
                    problem = _as_problem(standing, error)
        raise problem or BackupError("No member can be asked for its log.", "Check the replica set: ./appliance status")


def _as_problem(standing: Standing, error: Gap | Behind | PyMongoError) -> BackupError:
    if isinstance(error, BackupError):
        return error
    return BackupError(f"{standing.member.address} does not give its log: {error}", "Check the unit mongod on it.")


def require_window(settings: Settings, target: Target, found: Sequence[Standing]) -> None:
    """Narrow when soon no member would have what was archived last, should archiving stop now, or had it before."""
    newest = max((piece.to for piece in read_catalogue(target).slices), default=None)
    if newest is None:
        return
    hours = max(_hours_back(settings, standing, newest) for standing in found)
    if hours < settings.log.window_hours:
        raise Narrow(
            f"The members' log reaches back only {max(hours, 0):.1f} h beyond what is archived: after a longer outage "
            f"of the archive it would have a gap. Wanted are {settings.log.window_hours:g} h.",
            "Enlarge the log of the members: mongodb_oplog_hours and mongodb_oplog_mb.",
        )


def _hours_back(settings: Settings, standing: Standing, archived: ClusterTime) -> float:
    """How far a member's log reaches back beyond a moment; without end while nothing has been dropped from it.

    The log of a set that was restored, or of a member that has copied the others, is young and not full.
    """
    try:
        with connect(settings, standing.member) as client:
            (first,) = client.local["oplog.rs"].find({}, {"ts": 1, "o.msg": 1}, sort=[("$natural", 1)], limit=1)
            is_dropping = _is_dropping(client)
    except PyMongoError:
        return 0
    if first.get("o", {}).get("msg") == "initiating set" or not is_dropping:
        return math.inf
    return (archived.t - ClusterTime.of(first["ts"]).t) / 3600


def _is_dropping(client: Client) -> bool:
    """Whether the log is so full that what is old may have been dropped from it."""
    room = client.local.command("collStats", "oplog.rs")
    return bool(room["size"] >= room["maxSize"] / 2)


class _Archiving:
    """One run, against one member."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        identity: Identity,
        client: Client,
        standing: Standing,
        slice_bytes: int,
        sparing: bool,
    ) -> None:
        self._settings = settings
        self._target = target
        self._identity = identity
        self._client = client
        self._standing = standing
        self._slice_bytes = slice_bytes
        self._sparing = sparing
        self._asked_from = ClusterTime(0, 0)
        version = client.admin.command("getParameter", featureCompatibilityVersion=1)["featureCompatibilityVersion"]
        self._facts: dict[str, Any] = {
            "server": standing.member.address,
            "role": standing.role,
            "server_version": client.server_info()["version"],
            "fcv": version["version"],
            "replica_set": settings.database.replica_set,
            "agent": __version__,
        }

    def run(self, *, begins_anew: bool) -> list[Archive]:
        catalogue = read_catalogue(self._target)
        anchor = self._anchor(catalogue, begins_anew=begins_anew)
        if self._sparing:
            self._asked_from = _asked_from(catalogue)
        return list(self._heal(catalogue)) + list(self._slices(anchor, self._standing.majority))

    def _anchor(self, catalogue: Catalogue, *, begins_anew: bool) -> Anchor:
        """Where to go on: at the last slice's end, or else (`begins_anew`) at the end of a later full or incremental.

        The history of another set always begins anew.
        """
        last = max(catalogue.slices, key=lambda piece: piece.to, default=None)
        problem: BackupError | None = None
        if last is not None:
            anchor = Anchor(last.to, last.last_sha256 or "", last.id)
            try:
                self._require(anchor)
            except Gap as error:
                if not begins_anew:
                    raise
                problem = error
            except Diverged as error:
                problem = error
            else:
                return anchor
        for archive in catalogue.physical:  # the oldest that the log reaches back to: from there every second counts
            if last is not None and archive.to <= last.to:
                continue
            anchor = Anchor(archive.to, archive.last_sha256 or "", None)
            try:
                self._require(anchor)
            except (Gap, Diverged) as error:
                problem = problem or error
            else:
                return anchor
        raise problem or Gap("There is no full that the log could follow.", _FULL)

    def _require(self, anchor: Anchor) -> None:
        """Gap, Diverged or Behind when the member's log does not hold the anchor."""
        if self._standing.top < anchor.at:
            if self._standing.role == "secondary":
                raise Behind(f"{self._standing.member.address} has not yet what was archived last.", "Wait for it.")
            # No full yet: slices that follow it could not be told from those of the other history by their times.
            raise BackupError(
                f"The replica set is at {self._standing.top.instant:%F %T} UTC, before what was archived last "
                f"({anchor.at.instant:%F %T} UTC): an earlier state was restored, or a clock was set back.",
                "Check the clocks. When that moment has passed, the log begins anew with a full by itself.",
            )
        entry = entry_at(self._client, anchor.at)
        if entry is None:
            if first_entry(self._client) > anchor.at:
                raise Gap(
                    f"The log has a gap: {self._standing.member.address} has dropped what followed "
                    f"{anchor.at.instant:%F %T} UTC. Seconds between there and the next full cannot be restored.",
                    _FULL,
                )
            raise _diverged(anchor)
        if hashlib.sha256(entry).hexdigest() != anchor.sha256:
            raise _diverged(anchor)

    def _heal(self, catalogue: Catalogue) -> Iterator[Archive]:
        """Archive again what is missing between slices, where the member has it still."""
        for before, after in zip(catalogue.spans, catalogue.spans[1:], strict=False):
            end = max(before.slices, key=lambda piece: piece.to)
            with suppress(Gap, Diverged):
                anchor = Anchor(end.to, end.last_sha256 or "", end.id)
                self._require(anchor)
                yield from self._slices(anchor, after.from_)

    def _slices(self, anchor: Anchor, until: ClusterTime) -> Iterator[Archive]:
        """Slices from the anchor to `until`, which both are entries of the log."""
        while anchor.at < until:
            require_room(self._settings, self._target, 0)
            archive = self._slice(anchor, until)
            if archive is None:
                return
            anchor = Anchor(archive.to, archive.last_sha256 or "", archive.id)
            yield archive

    def _slice(self, anchor: Anchor, until: ClusterTime) -> Archive | None:
        """A slice; None when nothing follows the anchor."""
        began = time.monotonic()
        entries = _Entries(self._client, anchor, until, self._slice_bytes)
        open_path = self._target.log / "open.slice"
        stored = write_sealed(open_path, entries, self._identity)
        if entries.count == 1:
            open_path.unlink()
            return None
        to = ClusterTime.of(RawBSONDocument(entries.last)["ts"])
        archive = Archive(
            kind="log",
            id=f"{anchor.at.hex}-{to.hex}",
            predecessor=anchor.slice,
            from_=anchor.at,
            to=to,
            at=to.instant.isoformat(),
            entries=entries.count,
            last_sha256=hashlib.sha256(entries.last).hexdigest(),
            bytes=entries.bytes,
            stored_bytes=stored.bytes,
            sha256=stored.sha256,
            holdings=self._holdings(to) if to == self._standing.majority and to >= self._asked_from else None,
            took_s=round(time.monotonic() - began, 3),
            **self._facts,
        )
        open_path.replace(self._target.slice(archive))
        flush_folder(self._target.log)
        write_manifest(self._target, archive)
        return archive

    def _holdings(self, at: ClusterTime) -> Holdings | None:
        """What the member says that it held then. That it cannot is no reason to have no log."""
        with suppress(PyMongoError):
            return holdings(self._client[self._settings.database.name], at)
        return None


class _Entries:
    """The raw entries from the anchor on, in batches, until there are enough; and what they came to."""

    def __init__(self, client: Client, anchor: Anchor, until: ClusterTime, most_bytes: int) -> None:
        self._client = client
        self._anchor = anchor
        self._until = until
        self._most_bytes = most_bytes
        self.count = 0
        self.bytes = 0
        self.last = b""

    def __iter__(self) -> Iterator[bytes]:
        within = {"ts": {"$gte": self._anchor.at.timestamp, "$lte": self._until.timestamp}}
        batch: Any
        with self._client.local["oplog.rs"].find_raw_batches(within) as cursor:
            for batch in cursor:
                if not batch:
                    continue
                starts = list(_starts(batch))
                if not self.count:
                    self._require_anchor(batch[: starts[1]] if len(starts) > 1 else batch)
                self.count += len(starts)
                self.bytes += len(batch)
                self.last = batch[starts[-1] :]
                yield batch
                if self.bytes >= self._most_bytes and self.count > 1:
                    return
        if not self.count:
            raise _diverged(self._anchor)

    def _require_anchor(self, first: bytes) -> None:
        """What was there when the anchor was looked up may have been dropped since."""
        if hashlib.sha256(first).hexdigest() != self._anchor.sha256:
            raise _diverged(self._anchor)


def _asked_from(catalogue: Catalogue) -> ClusterTime:
    """The moment from which on the source is asked again what it holds."""
    last = max((piece.to for piece in catalogue.slices if piece.holdings), default=None)
    if last is None or any(archive.to >= last for archive in catalogue.physical):
        return ClusterTime(0, 0)
    return ClusterTime(last.t + _ASKED_EVERY_S, 0)


def entry_at(client: Client, moment: ClusterTime) -> bytes | None:
    """The raw entry of the log at exactly that moment."""
    after = {"ts": {"$gte": moment.timestamp}}
    found: Any = next(client.local["oplog.rs"].find_raw_batches(after, limit=1), None)
    return bytes(found) if found and RawBSONDocument(found)["ts"] == moment.timestamp else None


def first_entry(client: Client) -> ClusterTime:
    """The oldest moment that the member's log still has."""
    (entry,) = client.local["oplog.rs"].find({}, {"ts": 1}, sort=[("$natural", 1)], limit=1)
    return ClusterTime.of(entry["ts"])


def _starts(batch: bytes) -> Iterator[int]:
    """Where each document of a batch begins."""
    start = 0
    while start < len(batch):
        yield start
        start += _LENGTH.unpack_from(batch, start)[0]


def _diverged(anchor: Anchor) -> Diverged:
    return Diverged(
        f"The history has diverged: the replica set holds another entry at {anchor.at.instant:%F %T} UTC than the one "
        "that was archived. It was rolled back or restored.",
        _FULL,
    )
