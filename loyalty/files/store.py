"""The blob store: immutable contents under their SHA-256, in two levels of folders on the storage path.

    files/ab/cd/abcd…      a blob: whole, checked, on the disk
    files/incoming/…       uploads under way, and claims: `<sha256>.<random>` means "about to be referred to"
    files/locks/ab         serialises, across processes, placing and removing the blobs that begin with ab

A blob appears by a rename after its bytes and before its folder are fsynced, so a crash leaves nothing half-written;
at worst a blob that no record refers to, which housekeeping removes. Never the other way round: a blob is removed
only under its lock, when there is no claim on it and no record refers to it.

The storage may be a share of the network, which fails in two ways: with an error, or by never answering. Requests get
503 for both; so every call to the file system that a request waits for goes through `Bounded`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from loyalty.files.model import InsufficientStorage
from loyalty.infra.bounded import Bounded
from loyalty.infra.problems import Unavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

SNIFFED_BYTES: Final = 8192
"""How much of the beginning is kept to tell the type."""

_FILE_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOOK_SECONDS: Final = 2.0  # for a first look, which tells whether the storage is there at all
_LOCK_PAUSE_SECONDS: Final = 0.01
_SECONDS: Final = 10.0  # for a write or a flush of up to the largest upload, on a disk that is busy


@dataclass(frozen=True, slots=True)
class Content:
    """What an upload turned out to be. `head` is its first bytes."""

    sha256: str
    size: int
    head: bytes


class Incoming:
    """An upload under way: a temporary file that is hashed while it is written. Use as a context.

    It is gone at the end of the context unless `place` made a blob of it; a killed process leaves it to housekeeping.
    """

    def __init__(self, store: BlobStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._path = store.incoming / f"{secrets.token_hex(16)}.part"
        self._descriptor = store.bounded(lambda: _create(self._path), seconds=_LOOK_SECONDS, undo=os.close)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.tidy(self._discard)

    def write(self, data: bytes) -> int:
        """Append `data`. TooManyBytes beyond the limit, InsufficientStorage when the disk is full."""
        if self._size + len(data) > self._max_bytes:
            raise TooManyBytes
        if len(self._head) < SNIFFED_BYTES:
            self._head += data[: SNIFFED_BYTES - len(self._head)]
        self._store.bounded(lambda: self._write(data))
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _discard(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    def content(self) -> Content:
        """What was written so far."""
        return Content(self._hash.hexdigest(), self._size, self._head)

    def place(self, refer: Callable[[], None]) -> None:
        """Make the content a blob, durably, then call `refer`, which must make a record that refers to it.

        If `refer` fails, its outcome may be unknown (the database may yet apply it), so the claim stays and keeps
        the blob from being removed until housekeeping takes both, a grace period later.
        """
        self._store.bounded(lambda: os.fsync(self._descriptor))
        digest = self._hash.hexdigest()
        with self._store.locked(digest):
            claim = self._store.incoming / f"{digest}.{secrets.token_hex(8)}"
            self._store.bounded(lambda: self._adopt(claim, digest))
            refer()
            self._store.tidy(claim.unlink)

    def _adopt(self, claim: Path, digest: str) -> None:
        os.close(_create(claim))
        try:
            self._store.adopt(self._path, digest)
        except BaseException:
            claim.unlink()
            raise


class TooManyBytes(Exception):
    """The upload is larger than it may be."""


class BlobStore:
    """The folder `root` (`<storage_path>/files`), made on first use; its parent must exist."""

    def __init__(self, root: Path, *, reserve_bytes: int) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self._locks = root / "locks"
        self._reserve_bytes = reserve_bytes
        self._bounded = Bounded("the storage")

    def bounded(
        self, act: Callable[[], T], *, seconds: float = _SECONDS, undo: Callable[[T], object] | None = None
    ) -> T:
        """What `act` gives, which calls the file system. InsufficientStorage when it is full, Unavailable otherwise.

        One that is not mounted, read-only, broken or hangs is the operator's to mend, not the client's. `undo` is for
        what came too late.
        """
        try:
            return self._bounded.call(act, seconds=seconds, undo=undo)
        except OSError as error:
            if error.errno in _FULL:
                raise InsufficientStorage("The storage is full. Tell the operator, then try again.") from None
            log.error("the storage does not work", path=error.filename, reason=error.strerror)
            raise Unavailable(
                "The storage does not work at the moment. Tell the operator.", retry_after_seconds=30
            ) from None

    def tidy(self, act: Callable[[], object]) -> None:
        """Clear something away, now or when the storage is back; else housekeeping does."""
        self._bounded.tidy(act, seconds=_SECONDS)

    def receive(self, max_bytes: int, *, expected_bytes: int) -> Incoming:
        """Begin an upload. InsufficientStorage if `expected_bytes` would eat into the reserve."""
        space = self.bounded(self._prepare, seconds=_LOOK_SECONDS)
        if space.f_bavail * space.f_frsize < expected_bytes + self._reserve_bytes:
            raise InsufficientStorage("The storage has no room for this file. Tell the operator, then try again.")
        return Incoming(self, max_bytes)

    def _prepare(self) -> os.statvfs_result:
        for folder in (self.root, self.incoming, self._locks):
            _make_folder(folder)
        return os.statvfs(self.root)

    def has(self, digest: str) -> bool:
        """Whether the blob is there. Unavailable when the storage cannot say."""
        return self.bounded(self.path(digest).is_file, seconds=_LOOK_SECONDS)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self.root / self.relative(digest)

    @staticmethod
    def relative(digest: str) -> str:
        """The blob's path below the root."""
        return f"{digest[:2]}/{digest[2:4]}/{digest}"

    @contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """Hold the lock of the blob, against other threads and processes; the kernel frees it when a process dies."""
        path = self._locks / digest[:2]
        descriptor = self.bounded(
            lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE), undo=os.close
        )
        try:
            # Asked again and again rather than waited for: a lock that somebody holds is not a storage that hangs.
            give_up = time.monotonic() + _SECONDS
            while not self.bounded(lambda: _try_lock(descriptor)):
                if time.monotonic() > give_up:
                    raise Unavailable("Others are busy with the same content. Send the request again.")
                time.sleep(_LOCK_PAUSE_SECONDS)
            yield
        finally:
            self.tidy(lambda: os.close(descriptor))

    def adopt(self, path: Path, digest: str) -> None:
        """Rename the fsynced file `path` to be the blob, and put the new name on the disk. Call it under the lock.

        A blob with this content that was there before is replaced: its bytes are the same, its age begins anew.
        """
        target = self.path(digest)
        _make_folder(target.parent.parent)
        _make_folder(target.parent)
        os.replace(path, target)
        _sync_folder(target.parent)

    def renew(self, digest: str) -> None:
        """Let the age of the blob begin anew, if there is one."""
        self.bounded(lambda: _touch(self.path(digest)))

    def remove(self, digest: str, *, is_referred_to: Callable[[], bool]) -> bool:
        """Remove the blob unless it is claimed or referred to; whether it is gone."""
        with self.locked(digest):
            if self.bounded(lambda: any(self.incoming.glob(f"{digest}.*"))) or is_referred_to():
                return False
            self.bounded(lambda: self.path(digest).unlink(missing_ok=True))
            return True

    def blobs(self, *, unchanged_for_seconds: float) -> Iterator[str]:
        """The hashes of all blobs that were placed, or renewed, at least so long ago."""
        before = time.time() - unchanged_for_seconds
        for path in self.root.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
            if _older(path, before):
                yield path.name

    def forget_abandoned(self, *, unchanged_for_seconds: float) -> int:
        """Remove parts and claims of uploads that ended without a trace; how many."""
        before = time.time() - unchanged_for_seconds
        count = 0
        for path in self.incoming.glob("*"):
            if _older(path, before):
                path.unlink(missing_ok=True)
                count += 1
        return count


def _older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _touch(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.utime(path)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
