"""Manifests: what each archive holds. An archive exists when its manifest does, and not before.

A manifest is written last, and as a whole: into a temporary file that is flushed and then renamed, with the folder
flushed after it. So whatever a run was doing when it died, no manifest claims more than is there; what has none is a
leftover. Its own checksum stands in it, so that a changed digit is noticed here and not by a restore.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from bson.timestamp import Timestamp

FORMAT = 1

Kind = Literal["full", "incremental", "log", "dump", "files", "site"]


class ManifestError(Exception):
    """A manifest cannot be read: it was damaged, or written by a later version. The message names it."""


class ClusterTime(NamedTuple):
    """A moment of the replica set: seconds since 1970 and the number of the operation within that second."""

    t: int
    i: int

    @classmethod
    def of(cls, timestamp: Timestamp) -> ClusterTime:
        """The moment that MongoDB calls `timestamp`."""
        return cls(timestamp.time, timestamp.inc)

    @classmethod
    def from_hex(cls, text: str) -> ClusterTime:
        """The moment that `hex` wrote; ValueError for other text."""
        if len(text) != 16:
            raise ValueError(f"{text!r} has not 16 hexadecimal digits")
        return cls(int(text[:8], 16), int(text[8:], 16))

    @classmethod
    def last_of(cls, instant: datetime) -> ClusterTime:
        """The last moment of the second that the aware `instant` lies in: restoring to a second includes the second."""
        return cls(int(instant.timestamp()), 0xFFFFFFFF)

    @property
    def hex(self) -> str:
        """16 digits whose order is that of time."""
        return f"{self.t:08x}{self.i:08x}"

    @property
    def timestamp(self) -> Timestamp:
        """As MongoDB writes it."""
        return Timestamp(self.t, self.i)

    @property
    def instant(self) -> datetime:
        """The second it lies in, aware, in UTC."""
        return datetime.fromtimestamp(self.t, timezone.utc)

    @property
    def stamp(self) -> str:
        """The second as it stands in the names of archives, such as 20261128T020000Z."""
        return self.instant.strftime("%Y%m%dT%H%M%SZ")


class Seal(msgspec.Struct, frozen=True):
    """The ledger's last seal at that moment."""

    number: int
    hash: str
    """In hexadecimal digits."""


class Holdings(msgspec.Struct, frozen=True):
    """What the ledger came to at one moment, as far as its projection had followed it."""

    members: int
    """Who have points, or had."""
    entries: int
    available: dict[str, int]
    """Points that members can spend, by program/wallet."""
    seal: Seal | None


class Archive(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One archive. What does not apply to its kind is None, zero or empty."""

    format: int = FORMAT
    kind: Kind
    id: str
    """Unique within its kind, and ordered by time."""
    chain: str | None = None
    """Full and incremental: the chain whose repository holds it."""
    predecessor: str | None = None
    """The id of the archive before it: in its chain, or in the log. None for the first."""
    from_: ClusterTime
    """Log: the first entry, which is the last of the predecessor. Else the same as `to`: the archive is a state."""
    to: ClusterTime
    """The last moment that it holds, inclusive."""
    at: str
    """`to` by the calendar, ISO 8601, UTC, seconds."""
    server: str
    """HOST:PORT it was taken from."""
    role: Literal["primary", "secondary"] | None = None
    server_version: str | None = None
    fcv: str | None = None
    """The feature version of the data, such as 6.0."""
    replica_set: str | None = None
    counts: dict[str, int] = {}
    """Documents of each `database.collection`, as the server estimates them; of a dump, as counted."""
    seal: Seal | None = None
    holdings: Holdings | None = None
    """Log: what the source said that it held at `to`. None where it was not asked, or could not say."""
    entries: int = 0
    """Log: entries in the slice, the repeated first one included. Files: how many there are."""
    last_sha256: str | None = None
    """Of the raw BSON of the log's entry at `to`. The log goes on from here with that very entry, or it has a gap."""
    bytes: int = 0
    """Before compression."""
    stored_bytes: int = 0
    """What it added to the target."""
    sha256: str | None = None
    """Of the stored file; of files, of the list of their checksums; of a full or incremental, borg's id of it."""
    took_s: float = 0
    locked_s: float = 0
    """How long the member took no writes."""
    agent: str
    """Version of the program that took it."""

    @property
    def is_physical(self) -> bool:
        """Whether it is a copy of a member's data folder."""
        return self.kind in ("full", "incremental")


class _Written(msgspec.Struct):
    archive: dict[str, Any]
    sha256: str
    """Of the fields as JSON without blanks, sorted by name."""


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


class _SiteFolder(msgspec.Struct):
    """What the control machine says of a copy of the site's folder, in a form of its own: roles/backup, `pack_site`."""

    id: str
    bytes: int
    sha256: str


class Chain(NamedTuple):
    """A full and the incrementals that follow it, in one repository."""

    id: str
    archives: tuple[Archive, ...]
    """By time, so that the full is first. Each can be restored without the others."""


class Span(NamedTuple):
    """A stretch of the log without a gap."""

    from_: ClusterTime
    to: ClusterTime
    slices: tuple[Archive, ...]


@dataclass(frozen=True)
class Target:
    """Where things are in the target folder."""

    root: Path

    @property
    def marker(self) -> Path:
        """The file that makes a folder a target."""
        return self.root / "loyalty-backup.json"

    @property
    def chains(self) -> Path:
        return self.root / "chains"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def dumps(self) -> Path:
        return self.root / "dumps"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def site(self) -> Path:
        return self.root / "site"

    def repository(self, chain: str) -> Path:
        """The borg repository of a chain."""
        return self.chains / chain / "repository"

    def slice(self, archive: Archive) -> Path:
        """The file of a slice of the log."""
        return self.log / f"{archive.id}.slice"

    def site_folder(self, archive: Archive) -> Path:
        """The file of a copy of the site's folder."""
        return self.site / f"{archive.id}.tar.vault"

    def manifest(self, archive: Archive) -> Path:
        """Where the manifest of an archive stands."""
        if archive.kind == "log":
            return self.log / f"{archive.id}.json"
        if archive.kind == "dump":
            return self.dumps / archive.id / "manifest.json"
        if archive.kind == "files":
            return self.files / f"{archive.id}.json"
        if archive.kind == "site":
            return self.site / f"{archive.id}.json"
        if archive.chain is None:
            raise ValueError(f"the archive {archive.id} names no chain")
        return self.chains / archive.chain / f"{archive.id}.json"


class Catalogue(NamedTuple):
    """Everything that the target holds, as its manifests say."""

    chains: tuple[Chain, ...]
    """By time."""
    slices: tuple[Archive, ...]
    """By (from, to)."""
    dumps: tuple[Archive, ...]
    files: tuple[Archive, ...]
    damaged: tuple[str, ...]
    """A sentence for each manifest that cannot be read."""
    site: tuple[Archive, ...] = ()
    """Copies of the site's folder."""

    @property
    def physical(self) -> tuple[Archive, ...]:
        """All fulls and incrementals by time."""
        return tuple(sorted((archive for chain in self.chains for archive in chain.archives), key=lambda one: one.to))

    @property
    def spans(self) -> tuple[Span, ...]:
        """The log by time, as few stretches without a gap as there are. One means that it is whole."""
        return _spans(self.slices)


def read_catalogue(target: Target) -> Catalogue:
    """What the target holds. Never fails for one bad manifest: it is named instead, and what it described left out."""
    damaged: list[str] = []

    def read_all(paths: Iterable[Path], read: Callable[[Path], Archive] = read_manifest) -> list[Archive]:
        found = []
        for path in paths:
            try:
                archive = read(path)
            except ManifestError as error:
                damaged.append(str(error))
                continue
            if target.manifest(archive) == path:
                found.append(archive)
            else:
                damaged.append(f"The manifest {path} describes another archive ({archive.id}).")
        return sorted(found, key=lambda archive: (archive.from_, archive.to, archive.id))

    by_chain: dict[str, list[Archive]] = {}
    for archive in read_all(target.chains.glob("*/*.json")):
        by_chain.setdefault(archive.chain or "", []).append(archive)
    return Catalogue(
        chains=tuple(Chain(name, tuple(archives)) for name, archives in sorted(by_chain.items())),
        slices=tuple(read_all(target.log.glob("*.json"))),
        dumps=tuple(read_all(target.dumps.glob("*/manifest.json"))),
        files=tuple(read_all(target.files.glob("*.json"))),
        site=tuple(read_all(target.site.glob("*.json"), _read_site_manifest)),
        damaged=tuple(sorted(damaged)),
    )


def read_manifest(path: Path) -> Archive:
    """The archive that a manifest describes. ManifestError when it is damaged or of a later format."""
    try:
        written = msgspec.json.decode(path.read_bytes(), type=_Written)
        if written.archive.get("format", FORMAT) > FORMAT:
            raise ManifestError(f"The manifest {path} was written by a later version of this program.")
        if written.sha256 != _checksum(written.archive):
            raise ManifestError(f"The manifest {path} is not as it was written.")
        return msgspec.convert(written.archive, Archive)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(f"The manifest {path} cannot be read: {error}.") from None


def _read_site_manifest(path: Path) -> Archive:
    try:
        written = msgspec.json.decode(path.read_bytes(), type=_SiteFolder)
        taken = ClusterTime(int(datetime.strptime(f"{written.id}+0000", "%Y%m%dT%H%M%SZ%z").timestamp()), 0)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ManifestError(f"The manifest {path} cannot be read: {error}.") from None
    return Archive(
        kind="site",
        id=written.id,
        from_=taken,
        to=taken,
        at=taken.instant.strftime("%Y-%m-%dT%H:%M:%SZ"),
        server="the control machine",
        bytes=written.bytes,
        stored_bytes=written.bytes,
        sha256=written.sha256,
        agent="pack_site",
    )


def write_manifest(target: Target, archive: Archive) -> None:
    """Say that an archive is complete. Everything that it names must be on the disk, flushed."""
    fields = msgspec.to_builtins(archive)
    written = msgspec.json.encode(_Written(fields, _checksum(fields)))
    write_whole(target.manifest(archive), msgspec.json.format(written, indent=1) + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file as a whole: whoever reads it, even after a power cut, finds the old content or the new one.

    Nobody but root reads what the backup host keeps.
    """
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    flush_folder(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(target: Target) -> list[Path]:
    """What runs that died left behind, apart from the log's: half-written files, and folders without any manifest.

    What a repository holds of an archive without a manifest is no file: the next run into that repository removes it.
    """
    found = [path for folder in ("chains/*", "dumps/*", "files") for path in target.root.glob(f"{folder}/.*.partial")]
    found += [path for path in _folders(target.chains) if not any(path.glob("*.json"))]
    found += [path for path in _folders(target.dumps) if not (path / "manifest.json").exists()]
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def log_leftovers(target: Target) -> list[Path]:
    """The same of the log."""
    slices = [path for path in target.log.glob("*.slice") if not path.with_suffix(".json").exists()]
    return sorted([*target.log.glob(".*.partial"), *slices])


def remove(paths: Iterable[Path]) -> None:
    """Remove leftovers. Only for whoever holds the lock that lets it write there (`loyalty.backup.target.hold`)."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if path.is_dir())


def _spans(slices: Sequence[Archive]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for piece in sorted(slices, key=lambda one: (one.from_, -one.to.t, -one.to.i)):
        last = spans[-1] if spans else None
        if last is None or piece.from_ > last.to:
            spans.append(Span(piece.from_, piece.to, (piece,)))
        elif piece.to > last.to:
            spans[-1] = Span(last.from_, piece.to, (*last.slices, piece))
    return tuple(spans)
