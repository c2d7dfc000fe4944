"""The restore drill: what is kept becomes a database on this host, and that is proved to be the right one.

It restores the newest snapshot of the files, and reads each of them there. It restores the newest chain and the log up
to the last moment of which the source has said what it held, and holds what came back against that: members, entries,
points and the last seal, exactly. Every file that a record refers to must have come back. It verifies the ledger from
its first entry, with the seals that the manifests and the snapshot of the files keep as witnesses, and rebuilds what is
derived. Then it takes a write. What was found is signed, and noted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymongo.write_concern import WriteConcern

from loyalty import __version__
from loyalty.backup import proof
from loyalty.backup.certificate import Certificate, read_key, sign
from loyalty.backup.files import absent, in_short, snapshot_for
from loyalty.backup.files import restore as restore_files
from loyalty.backup.holdings import differences, holdings
from loyalty.backup.manifest import Archive, Catalogue, ClusterTime, Target, read_catalogue, write_whole
from loyalty.backup.plan import plan
from loyalty.backup.restore import STEPS as RESTORE_STEPS
from loyalty.backup.restore import Progress, Restored, restore, room
from loyalty.backup.scratch import Client, Scratch
from loyalty.backup.settings import Settings
from loyalty.backup.verify import whole_snapshots
from loyalty.infra.mongo import Mongo, connect
from loyalty.jobs.sealing import witnesses
from loyalty.ledger.projection import rebuild
from loyalty.ledger.verify import Verification, Witness, verify

STEPS: Final = ("files", *RESTORE_STEPS, "start", "compare", "verify", "rebuild")

_T = TypeVar("_T")

_BATCH: Final = 1000


def drill(settings: Settings, target: Target, *, now: datetime, progress: Progress) -> Certificate:
    """Do it, and write the certificate, whatever it says. BackupError when nothing could be restored at all."""
    key = read_key(settings.drill.certificate_key_file)
    with room(settings, target, "A drill") as directory:
        found = _Drill(settings, target, directory, now, progress).run()
    folder = target.root / "certificates"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / f"{found.id}.json", sign(found, key))
    proof.note(target, found)
    proof.watch(settings, target, now=now)
    return found


class _Drill:
    def __init__(self, settings: Settings, target: Target, directory: Path, now: datetime, progress: Progress) -> None:
        self._settings = settings
        self._target = target
        self._database = directory / "database"
        self._files = directory / "files"
        self._now = now
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._defects: list[str] = []

    def run(self) -> Certificate:
        began = time.monotonic()
        snapshot = self._timed("files", self._restore_files)  # first: whether they have room is seen at once
        catalogue = read_catalogue(self._target)
        stated = _last_stated(catalogue)
        restored = restore(self._settings, stated.to if stated else None, self._database, progress=self._progress)
        self._seconds |= restored.seconds
        self._defects += restored.left_aside
        scratch = Scratch.in_folder(self._settings, self._database)
        started = time.monotonic()
        self._progress("start", 0, 0)
        with scratch.replica_set("drill") as client:
            self._seconds["start"] = round(time.monotonic() - started, 3)
            uri = scratch.uri(client)
            db = connect(uri, self._settings.database.name, serves_requests=False)
            try:
                # First, and before they are made anew: the wallets that came back are what the source spoke of. The
                # verification holds them against the ledger.
                files = self._timed("compare", lambda: self._compare(db, stated, snapshot))
                expected = db.ledger.estimated_document_count()
                found = self._timed("verify", lambda: self._verify(db, uri, catalogue, restored, expected))
                self._timed("rebuild", lambda: self._rebuild(db, found))
            finally:
                db.client.close()
            _take_a_write(client)
            rto = time.monotonic() - began
        return self._certificate(catalogue, stated, restored, found, snapshot, files, rto)

    def _restore_files(self) -> Archive | None:
        """Restore the snapshot that a restore would take; None when there is none."""
        snapshot = snapshot_for(whole_snapshots(self._target, read_catalogue(self._target)), None)
        if snapshot is not None:
            problem = in_short(restore_files(self._target, snapshot, self._files))
            self._defects += [f"files: {problem}"] if problem else []
        return snapshot

    def _verify(self, db: Mongo, uri: str, catalogue: Catalogue, restored: Restored, expected: int) -> Verification:
        found = verify(
            db,
            uri=uri,
            seal_key=self._seal_key(db),
            witnesses=list(_witnesses(self._target, catalogue, restored)),
            progress=self._of("verify", expected),
        )
        self._defects += [f"{defect.where}: {defect.what}" for defect in found.defects]
        return found

    def _seal_key(self, db: Mongo) -> Ed25519PublicKey | None:
        """The installation's key as the settings have it, else as the first seal says."""
        if self._settings.drill.seal_public_key is not None:
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._settings.drill.seal_public_key))
        first = db.seals.find_one({}, {"public_key": 1}, sort=[("_id", 1)])
        return Ed25519PublicKey.from_public_bytes(bytes(first["public_key"])) if first else None

    def _compare(self, db: Mongo, stated: Archive | None, snapshot: Archive | None) -> int:
        """Compare with what the source said; the number of files that were looked for."""
        if stated is not None and stated.holdings is not None:
            self._defects += differences(stated.holdings, holdings(db))
        return self._compare_files(db, snapshot) if snapshot else 0

    def _rebuild(self, db: Mongo, found: Verification) -> None:
        """What is made anew of a ledger must come to what the ledger came to."""
        rebuild(db, progress=self._of("rebuild", found.entries))
        made = holdings(db)
        if found.ok and (made.members, made.entries) != (found.chains, found.entries):
            self._defects.append(
                f"the projection was rebuilt for {made.members:,} members and {made.entries:,} entries, "
                f"the ledger has {found.chains:,} and {found.entries:,}"
            )

    def _compare_files(self, db: Mongo, snapshot: Archive) -> int:
        """What was recorded before the snapshot was begun must have come back with it."""
        recorded = db.files.find({"created_at": {"$lt": snapshot.to.instant}}, {"sha256": 1})
        digests = (record["sha256"] for record in recorded)
        count = 0
        while batch := list(islice(digests, _BATCH)):
            count += len(batch)
            self._defects += [
                f"files {digest}: the snapshot {snapshot.id} does not have it" for digest in absent(self._files, batch)
            ]
        return count

    def _certificate(
        self,
        catalogue: Catalogue,
        stated: Archive | None,
        restored: Restored,
        found: Verification,
        snapshot: Archive | None,
        files: int,
        rto: float,
    ) -> Certificate:
        return Certificate(
            id=self._now.strftime("%Y%m%dT%H%M%SZ"),
            site=self._settings.site,
            at=self._now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            ok=not self._defects,
            verified=found.ok,
            rto_seconds=round(rto, 1),
            rpo_seconds=round(max(self._now.timestamp() - _end_of_log(catalogue, restored.to).t, 0), 1),
            restored_to=restored.at,
            source=stated.holdings if stated else None,
            entries=found.entries,
            members=found.chains,
            seals=found.seals,
            sealed_entries=found.sealed_entries,
            available=found.available,
            files=files,
            snapshot=snapshot.id if snapshot else None,
            archive=restored.archive,
            chain=restored.chain,
            slices=restored.slices,
            log_entries=restored.entries,
            server_version=restored.server_version,
            seconds=self._seconds,
            defects=tuple(self._defects),
            agent=__version__,
        )

    def _timed(self, step: str, act: Callable[[], _T]) -> _T:
        self._progress(step, 0, 0)
        began = time.monotonic()
        result = act()
        self._seconds[step] = round(time.monotonic() - began, 3)
        return result

    def _of(self, step: str, whole: int) -> Callable[[int], None]:
        return lambda done: self._progress(step, done, whole)


def _last_stated(catalogue: Catalogue) -> Archive | None:
    """The last slice on the way to the last moment at whose end the source has said what it held."""
    return next((piece for piece in reversed(plan(catalogue, None).slices) if piece.holdings), None)


def _end_of_log(catalogue: Catalogue, moment: ClusterTime) -> ClusterTime:
    """How far the log goes on from there without a gap."""
    return next((span.to for span in catalogue.spans if span.from_ <= moment <= span.to), moment)


def _witnesses(target: Target, catalogue: Catalogue, restored: Restored) -> Iterator[Witness]:
    """Seals that were kept elsewhere before the moment: by the manifests, and by the snapshot of the files.

    Only those of the same past: since a site was restored to an earlier moment, what was kept of the time after it
    speaks of a ledger that is no more. The log tells, which has a break there.
    """
    here = next(archive for archive in catalogue.physical if archive.id == restored.archive)
    since = min((span.from_ for span in catalogue.spans if span.from_ <= here.to <= span.to), default=here.to)
    for archive in catalogue.physical:
        if archive.seal is not None and since <= archive.to <= restored.to:
            yield Witness(archive.seal.number, bytes.fromhex(archive.seal.hash), f"the archive {archive.id}")
    snapshots = [snapshot for snapshot in catalogue.files if since <= snapshot.to <= restored.to]
    if snapshots:
        yield from witnesses(target.files / max(snapshots, key=lambda one: one.id).id)


def _take_a_write(client: Client) -> None:
    """A server that a majority follows acknowledges it; any other raises an exception."""
    database = client.get_database("loyalty_drill", write_concern=WriteConcern(w="majority", j=True))
    database.proof.insert_one({})
