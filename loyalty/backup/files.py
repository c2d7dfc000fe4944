"""Snapshots of the file store: each a whole tree, unchanged files shared with the snapshot before by hard links.

    files/<id>/…           what the store held: files/ab/cd/<sha256>, seals/…
    files/<id>.sha256      the checksum of each, as `sha256sum --check` reads it
    files/<id>.json        the manifest, written last
    files/incoming/…       a snapshot under way; the next run goes on with it
    files/repository       a second copy of the same, by borg

We pull, by a key that starts a reading rsync and nothing else. The store cannot reach what we keep.

A file that a record refers to is in the snapshot that goes with this record. The store puts a content on its disk
before the record of it is written, and keeps it for two days after its last record is gone. A snapshot is begun after
the log was archived up to its `to`. So what the database refers to at a moment up to `to`, and no more than two days
before the snapshot began, was in the store all the while that the snapshot was taken. No clocks are compared for the
first half.

Snapshots share their inodes, so a rotten block is rotten in all of them. The checksum of a file is taken when it
arrives and handed on with its inode, never taken anew: reading a rotten file again would only declare it sound.
`mismatches` reads what is there and compares.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from loyalty import __version__
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import (
    Archive,
    Catalogue,
    ClusterTime,
    Target,
    flush_folder,
    read_catalogue,
    write_manifest,
)
from loyalty.backup.repository import Repository
from loyalty.backup.retention import taken_at
from loyalty.backup.rsync import RsyncError, rsync
from loyalty.backup.sealed import sha256_of

INCOMING: Final = "incoming"
REPOSITORY: Final = "repository"

_BLOB = re.compile(r"files/[0-9a-f]{2}/[0-9a-f]{2}/(?P<sha256>[0-9a-f]{64})")
_NOT_KEPT: Final = ("/files/incoming", "/files/locks", "/backups")  # uploads under way, locks, other people's backups
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHUNK: Final = 1 << 20


class FilesError(BackupError):
    """A snapshot could not be taken, or the store does not hold what it should."""


class Source(NamedTuple):
    """Where the file store is: a folder, or HOST::MODULE behind `shell`, the remote shell that rsync is to use."""

    location: str
    shell: str | None = None


class Taken(NamedTuple):
    """A snapshot, and the contents in it that are not what their names say: the store is damaged, or was changed."""

    snapshot: Archive
    wrong: tuple[str, ...]


def take(
    target: Target,
    source: Source,
    *,
    now: datetime,
    bytes_per_second: float = 0,
    accept_loss: bool = False,
    progress: bool = False,
) -> Taken:
    """Take a snapshot. Only for whoever holds the lock on the files. FilesError names what is wrong.

    One that died is gone on with. When the target is full, what came of it is removed: the log needs the room more.
    A store that has lost more than half of its files since the last snapshot is one that is not mounted, unless
    `accept_loss` says that it is meant.
    """
    began = time.monotonic()
    catalogue = read_catalogue(target)
    position = _archived_up_to(catalogue) or ClusterTime(int(now.timestamp()), 0)  # before anything is read
    previous = max(catalogue.files, key=lambda snapshot: snapshot.id, default=None)
    id = _next_id(now, previous)
    sweep(target, catalogue)
    incoming = target.files / INCOMING
    try:
        _pull(source, incoming, previous, bytes_per_second, progress)
        found = _list(target, incoming, id, previous)
        _refuse_loss(found, previous, accept_loss)
        _flush(incoming)
    except RsyncError as error:
        raise _failed(incoming, error.reason, is_full=error.is_full) from None
    except OSError as error:
        raise _failed(incoming, error.strerror or str(error), is_full=error.errno in _FULL) from None
    tree = target.files / id
    incoming.rename(tree)
    flush_folder(target.files)
    snapshot = Archive(
        kind="files",
        id=id,
        predecessor=previous.id if previous else None,
        from_=position,
        to=position,
        at=position.instant.strftime("%Y-%m-%dT%H:%M:%SZ"),
        server=source.location.partition("::")[0] if source.shell else "this host",
        entries=found.files,
        bytes=found.bytes,
        stored_bytes=found.new_bytes,
        sha256=sha256_of(_list_of(target, id)),
        took_s=round(time.monotonic() - began, 3),
        agent=__version__,
    )
    write_manifest(target, snapshot)
    return Taken(snapshot, found.wrong)


def snapshot_for(snapshots: Iterable[Archive], moment: ClusterTime | None) -> Archive | None:
    """The snapshot that has the files of the database at `moment`: the first that came after it, else the newest, which
    is also that of the last moment (None).

    None when there is none at all. The newest has what the store had when it was begun; what came later it lacks.
    """
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.id)
    after = (snapshot for snapshot in ordered if moment is not None and snapshot.to >= moment)
    return next(after, ordered[-1] if ordered else None)


def restore(target: Target, snapshot: Archive, into: Path) -> Iterator[str]:
    """Restore a snapshot into a folder and read there what came: a sentence for each file that is not as it should be.

    FilesError when there is no room for it. Where the disk can clone files it takes none, but nobody knows before.
    """
    into.mkdir(mode=0o700, parents=True)
    free = shutil.disk_usage(into).free
    if free < snapshot.bytes:
        raise FilesError(
            f"{into} has {free / 1e9:,.1f} GB free; the files of the snapshot need {snapshot.bytes / 1e9:,.1f} GB.",
            "Name a folder on a larger disk: backup_work_path, in the settings drill.directory.",
        )
    # With us it ends too: nobody else would know of it.
    command = ("setpriv", "--pdeathsig", "KILL", "cp", "--recursive", "--reflink=auto", "--no-target-directory")
    done = subprocess.run(
        [*command, str(target.files / snapshot.id), str(into)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode != 0:
        yield os.fsdecode(done.stderr).strip().splitlines()[-1]
    yield from mismatches(target, snapshot, into)


def absent(tree: Path, digests: Iterable[str]) -> list[str]:
    """Those contents, by SHA-256, that a snapshot, or what was restored of it, does not have."""
    root = tree / "files"
    return [digest for digest in digests if not (root / digest[:2] / digest[2:4] / digest).is_file()]


def mismatches(target: Target, snapshot: Archive, restored: Path | None = None) -> Iterator[str]:
    """Read every file of a snapshot: a sentence for each that is not as it should be, is missing, or is too much.

    With `restored`, read there what came of it.
    """
    listing = _list_of(target, snapshot.id)
    if not listing.exists() or sha256_of(listing) != snapshot.sha256:
        yield f"{listing} is not as it was written"
        return
    tree = target.files / snapshot.id
    read = restored or tree
    expected = _listed(listing)
    current = next(expected, None)
    for path in _walk(read):
        while current is not None and _order(current[0]) < _order(path):
            yield f"{tree / current[0]} is missing"
            current = next(expected, None)
        if current is None or current[0] != path:
            yield f"{tree / path} was not in the snapshot"
            continue
        try:
            if sha256_of(read / path) != current[1]:
                yield f"{tree / path} is not as it was written"
            elif not _is_what_it_says(path, current[1]):
                yield f"{tree / path} is not what its name says, and was not when it arrived"
        except OSError as error:
            yield f"{tree / path} cannot be read ({error.strerror})"
        current = next(expected, None)
    while current is not None:
        yield f"{tree / current[0]} is missing"
        current = next(expected, None)


def in_short(problems: Iterator[str]) -> str | None:
    """The first of them, and how many more there are; None when there is none."""
    first = next(problems, None)
    more = sum(1 for _ in problems)
    return f"{first}; and {more:,} more" if first and more else first


def copy_into_repository(target: Target, snapshot: Archive, passphrase: str) -> None:
    """Store a snapshot a second time, where no block is shared with the first. Blocks that are there already stay.

    It reads every file, so it is for once a day. RepositoryError when borg does not succeed.
    """
    repository = files_repository(target, passphrase)
    if not repository.path.exists():
        repository.create()
    if snapshot.id in repository.archives():
        return
    tree = target.files / snapshot.id
    command = ["tar", "--create", "--sort=name", "--numeric-owner", "-C", str(tree), "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        repository.import_tar(snapshot.id, _whole_stream(tar, snapshot))


def files_repository(target: Target, passphrase: str) -> Repository:
    """The second copy of all snapshots."""
    return Repository(target.files / REPOSITORY, passphrase)


def remove(target: Target, snapshot: Archive) -> None:
    """Remove a snapshot: first its manifest, so that none ever claims what is going."""
    target.manifest(snapshot).unlink(missing_ok=True)
    flush_folder(target.files)
    _list_of(target, snapshot.id).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(target.files / snapshot.id)


def sweep(target: Target, catalogue: Catalogue) -> None:
    """Remove what runs that died left, except the snapshot under way. Only for whoever holds the lock on the files."""
    known = {snapshot.id for snapshot in catalogue.files}
    for path in target.files.glob("*T*Z*"):
        name = path.name.partition(".")[0]
        if name in known or path.suffix == ".json":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _archived_up_to(catalogue: Catalogue) -> ClusterTime | None:
    return max((archive.to for archive in (*catalogue.physical, *catalogue.slices)), default=None)


def _next_id(now: datetime, previous: Archive | None) -> str:
    """The second of `now`; after a clock that went back, the one after the previous snapshot, to keep their order."""
    if previous is not None:
        now = max(now, taken_at(previous) + timedelta(seconds=1))
    return now.strftime("%Y%m%dT%H%M%SZ")


def _pull(source: Source, into: Path, previous: Archive | None, bytes_per_second: float, progress: bool) -> None:
    into.mkdir(mode=0o700, exist_ok=True)
    rsync(
        "--chmod=D700,F600",  # whose they are is known where they are restored
        "--delete",  # what an earlier attempt has and the store has no more
        "--delete-excluded",
        *(f"--exclude={pattern}" for pattern in _NOT_KEPT),
        *([f"--link-dest=../{previous.id}"] if previous else []),
        "--",
        f"{source.location.rstrip('/')}/",
        f"{into}/",
        shell=source.shell,
        bytes_per_second=bytes_per_second,
        progress=progress,
    )


def _refuse_loss(found: _Listed, previous: Archive | None, accept_loss: bool) -> None:
    if previous is not None and found.files * 2 < previous.entries and not accept_loss:
        raise FilesError(
            f"The file store has {found.files:,} files; the snapshot {previous.id} has {previous.entries:,}.",
            "See whether the store is mounted. If so many were deleted on purpose: loyalty-backup files --accept-loss",
        )


def _flush(tree: Path) -> None:
    """Have a tree on the disk: everything of its file system, since it may be a million files."""
    done = subprocess.run(["sync", "--file-system", str(tree)], stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise OSError(errno.EIO, done.stderr.strip())


def _failed(incoming: Path, reason: str, *, is_full: bool) -> FilesError:
    if is_full:
        shutil.rmtree(incoming, ignore_errors=True)
        return FilesError(
            "The target is full: no snapshot of the files was taken.",
            "Type: loyalty-backup prune. If that does not make enough room, use a larger disk or keep less.",
        )
    return FilesError(
        f"No snapshot of the files was taken: {reason}.",
        "See that the file store is mounted and its host answers; the next run goes on where this one stopped.",
    )


class _Listed(NamedTuple):
    wrong: tuple[str, ...]
    files: int
    bytes: int
    new_bytes: int


def _list(target: Target, tree: Path, id: str, previous: Archive | None) -> _Listed:
    """Write the checksums of a tree."""
    wrong: list[str] = []
    count = size = new = 0
    old_tree = target.files / previous.id if previous else None
    old = _listed(_list_of(target, previous.id)) if previous else iter(())
    known = next(old, None)
    with _list_of(target, id).open("wb") as file:
        for path in _walk(tree):
            while known is not None and _order(known[0]) < _order(path):
                known = next(old, None)
            status = os.stat(tree / path)
            count += 1
            size += status.st_size
            if old_tree and known and known[0] == path and _same_inode(status, old_tree / path):
                digest = known[1]
            else:
                new += status.st_size
                digest = sha256_of(tree / path)
            if not _is_what_it_says(path, digest):
                wrong.append(path)
            file.write(_line(path, digest))
        file.flush()
        os.fsync(file.fileno())
    return _Listed(tuple(wrong), count, size, new)


def _is_what_it_says(path: str, digest: str) -> bool:
    blob = _BLOB.fullmatch(path)
    return blob is None or blob["sha256"] == digest


def _same_inode(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, os.stat(path))
    except FileNotFoundError:
        return False


def _walk(tree: Path, below: str = "") -> Iterator[str]:
    """The files of a tree, as paths below it, in the order of `_order`."""
    with os.scandir(tree / below) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        path = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(tree, f"{path}/")
        else:
            yield path


def _order(path: str) -> list[bytes]:
    return os.fsencode(path).split(b"/")


def _list_of(target: Target, id: str) -> Path:
    return target.files / f"{id}.sha256"


def _line(path: str, digest: str) -> bytes:
    """A line of sha256sum, which escapes what would break it."""
    name = os.fsencode(path)
    if b"\\" in name or b"\n" in name:
        name = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        return b"\\" + digest.encode() + b"  " + name + b"\n"
    return digest.encode() + b"  " + name + b"\n"


def _listed(listing: Path) -> Iterator[tuple[str, str]]:
    """The paths and checksums of a list, in its order."""
    with listing.open("rb") as file:
        for line in file:
            digest, _, name = line.rstrip(b"\n").partition(b"  ")
            if digest.startswith(b"\\"):
                digest = digest[1:]
                name = re.sub(rb"\\(.)", lambda mark: b"\n" if mark[1] == b"n" else mark[1], name)
            yield os.fsdecode(name), digest.decode()


def _whole_stream(tar: subprocess.Popen[bytes], snapshot: Archive) -> Iterator[bytes]:
    if tar.stdout is None:
        raise AssertionError("tar was started with a pipe")
    while chunk := tar.stdout.read(_CHUNK):
        yield chunk
    if tar.wait() != 0:
        raise FilesError(f"The snapshot {snapshot.id} cannot be read.", f"Type: loyalty-backup verify {snapshot.id}")
