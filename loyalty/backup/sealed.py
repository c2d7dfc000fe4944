"""Files that only the site's key opens: compressed by zstd, then encrypted by age.

Both are read and written as streams, so memory does not grow with the file. age notices every changed, missing or
added byte when a file is read to its end. `age -d -i IDENTITY FILE | zstd -d` opens one where this program is not at
hand.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyrage  # type: ignore[import-untyped]
import zstandard

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import flush_folder
from loyalty.backup.settings import SettingsError, read_secret

_LEVEL = 3
_CHUNK = 1 << 16
_PIECE = 1 << 20


class Damaged(BackupError):
    """A file is not as it was written, or was written for another key."""


class Stored(NamedTuple):
    """What was written to the disk."""

    bytes: int
    sha256: str


def read_identity(path: Path) -> pyrage.x25519.Identity:
    """The site's key. SettingsError when the file holds none."""
    try:
        return pyrage.x25519.Identity.from_str(read_secret(path))
    except pyrage.IdentityError:
        raise SettingsError(f"{path} holds no age secret key (AGE-SECRET-KEY-1…).") from None


def write_sealed(path: Path, chunks: Iterable[bytes], identity: pyrage.x25519.Identity) -> Stored:
    """Write a new file for that key and flush it. What `chunks` raises, it raises; the file is then not there."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb", opener=_private) as file:
            writer = _Digested(file)
            reader = _Pulled(_compressed(chunks))
            try:
                pyrage.encrypt_io(reader, writer, [identity.to_public()])
            except Exception:
                for error in (reader.error, writer.error):
                    if error is not None:
                        raise error from None
                raise
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)
    return Stored(writer.bytes, writer.sha256.hexdigest())


def read_sealed(path: Path, identity: pyrage.x25519.Identity) -> Iterator[bytes]:
    """The content in pieces. Damaged as soon as a change is noticed, at the latest at the end: read to the end before
    you rely on what you read."""
    with path.open("rb") as file, _Decrypting(file, identity) as decrypted:
        try:
            yield from zstandard.ZstdDecompressor().read_to_iter(decrypted)  # type: ignore[arg-type]
        except zstandard.ZstdError as error:
            raise _damaged(path, str(error)) from None
        if decrypted.error is not None:
            raise _damaged(path, str(decrypted.error)) from None


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _damaged(path: Path, reason: str) -> Damaged:
    return Damaged(
        f"{path} cannot be read: {reason}.", "Use another archive or the second copy; check the disk, and the key."
    )


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    deflate = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            if packed := deflate.compress(chunk[start : start + _PIECE]):
                yield packed
    yield deflate.flush()


class _Pulled:
    """An iterator as the file that age reads from. An error of the iterator is kept: age would only name it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""
        self._given = 0
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            while self._given == len(self._held):
                self._held, self._given = next(self._chunks), 0
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        piece = self._held[self._given : self._given + size]
        self._given += len(piece)
        return piece


class _Digested:
    """A file whose size and checksum are known when it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except BaseException as error:
            self.error = error
            raise
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class _Decrypting:
    """What age decrypts, in pieces: age pushes into a pipe from a thread, and we pull."""

    def __init__(self, file: BinaryIO, identity: pyrage.x25519.Identity) -> None:
        self._encrypted = file
        self._identity = identity
        self.error: BaseException | None = None

    def __enter__(self) -> _Decrypting:
        reading, writing = os.pipe()
        self._reading = os.fdopen(reading, "rb", buffering=0)
        self._thread = threading.Thread(target=self._run, args=(writing,), daemon=True)
        self._thread.start()
        return self

    def read(self, size: int) -> bytes:
        piece = self._reading.read(size)
        if not piece:
            self._thread.join()
        return piece

    def __exit__(self, *_: object) -> None:
        self._reading.close()  # ends the thread, whose next write fails, when the reader has had enough
        self._thread.join()

    def _run(self, writing: int) -> None:
        try:
            with os.fdopen(writing, "wb", buffering=_CHUNK) as pipe:
                pyrage.decrypt_io(self._encrypted, pipe, [self._identity])
        except Exception as error:
            self.error = error
