"""Slices of a finished hour become one: an archive that follows the log closely would else have a million files a year.

The new slice is complete before the old ones go. Whoever reads in between, or after a crash in between, finds some
entries twice, which `Catalogue.spans` knows how to take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec
from pyrage.x25519 import Identity  # type: ignore[import-untyped]

from loyalty.backup.manifest import Archive, Target, flush_folder, log_leftovers, read_catalogue, remove, write_manifest
from loyalty.backup.oplog import SLICE_BYTES
from loyalty.backup.raw import documents
from loyalty.backup.sealed import Damaged, read_identity, read_sealed, write_sealed
from loyalty.backup.settings import Settings
from loyalty.backup.target import hold

_HOUR_S = 3600


def merge_hours(settings: Settings, target: Target, *, most_bytes: int = SLICE_BYTES) -> list[Archive]:
    """Merge what is whole and lies in finished hours; the merged slices. Damaged when one of the old ones cannot be
    read: nothing is then removed."""
    with hold(target, "The log", part="log"):
        remove(log_leftovers(target))
        identity = read_identity(settings.identity_file)
        return [_merge(target, identity, group) for group in _groups(target, most_bytes)]


def _groups(target: Target, most_bytes: int) -> Iterator[list[Archive]]:
    """Neighbours of one hour, as many together as one slice may hold; never of the newest hour."""
    spans = read_catalogue(target).spans
    newest = spans[-1].to.t // _HOUR_S if spans else 0
    for span in spans:
        for hour, pieces in groupby(span.slices, key=lambda piece: piece.from_.t // _HOUR_S):
            if hour >= newest:
                continue
            group: list[Archive] = []
            for piece in pieces:
                if group and (
                    piece.from_ != group[-1].to or sum(one.bytes for one in group) + piece.bytes > most_bytes
                ):
                    if len(group) > 1:
                        yield group
                    group = []
                group.append(piece)
            if len(group) > 1:
                yield group


def _merge(target: Target, identity: Identity, pieces: Sequence[Archive]) -> Archive:
    first, last = pieces[0], pieces[-1]
    merged = _Merged(target, identity, pieces)
    open_path = target.log / "open.slice"
    stored = write_sealed(open_path, merged, identity)
    archive = msgspec.structs.replace(
        last,
        id=f"{first.from_.hex}-{last.to.hex}",
        predecessor=first.predecessor,
        from_=first.from_,
        entries=merged.count,
        bytes=merged.bytes,
        stored_bytes=stored.bytes,
        sha256=stored.sha256,
        took_s=round(sum(piece.took_s for piece in pieces), 3),
    )
    open_path.replace(target.slice(archive))
    flush_folder(target.log)
    write_manifest(target, archive)
    # A slice without its manifest is a leftover, a manifest without its slice would be a lie.
    remove(path for piece in pieces for path in (target.manifest(piece), target.slice(piece)))
    flush_folder(target.log)
    return archive


class _Merged:
    """The entries of the pieces, each once."""

    def __init__(self, target: Target, identity: Identity, pieces: Sequence[Archive]) -> None:
        self._target = target
        self._identity = identity
        self._pieces = pieces
        self.count = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        before: Archive | None = None
        for piece in self._pieces:
            path = self._target.slice(piece)
            for number, entry in enumerate(documents(read_sealed(path, self._identity))):
                if number == 0 and before is not None:
                    if hashlib.sha256(entry).hexdigest() != before.last_sha256:
                        raise Damaged(f"{path} does not follow {before.id}.", "Take a new full: loyalty-backup full")
                    continue
                self.count += 1
                self.bytes += len(entry)
                yield entry
            before = piece
