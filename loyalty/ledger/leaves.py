"""The hashes that seals are over, kept aside while the chains are read, so that the ledger is read only once.

A seal names entries of many members. To look each of them up again costs more than checking them, and on a ledger that
is larger than the memory it is a search of the whole disk. So number and hash of each entry go to files, 40 bytes an
entry, and are mapped when the seals' turn comes: memory does not grow with the ledger. The files only save time. What
is not in them, be it that the disk was full, is looked up in the ledger.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_ROOMY: Final = "/var/tmp"  # noqa: S108 - /tmp is memory on some machines; what we make in there is private
_NUMBER: Final = 8
_HASH: Final = 32
_BATCH: Final = 1000
_NO_NUMBERS: Final = memoryview(b"").cast("q")
_NO_HASHES: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Leaves:
    """A folder with two files of each process that reads chains: numbers, and at the same places hashes."""

    folder: Path

    @contextmanager
    def keeper(self) -> Iterator[Callable[[int, object], None]]:
        """What keeps the hash of an entry. Numbers ascend, also from one keeper of a process to its next."""
        numbers = array("q")
        hashes: list[bytes] = []

        def keep(number: int, digest: object) -> None:
            if type(digest) is bytes and len(digest) == _HASH:  # a damaged one is for who looks it up to judge
                numbers.append(number)
                hashes.append(digest)
                if len(hashes) == _BATCH:
                    write()

        def write() -> None:
            try:
                with open(paths[0], "ab") as file:
                    file.write(numbers.tobytes())
                with open(paths[1], "ab") as file:
                    file.write(b"".join(hashes))
            except OSError:  # no room is left; half of a batch would put every later hash beside another number
                for path in paths:
                    path.unlink(missing_ok=True)
            del numbers[:], hashes[:]

        paths = [self.folder / f"{os.getpid()}.{column}" for column in ("numbers", "hashes")]
        yield keep
        write()

    def read(self) -> KeptLeaves:
        """What all processes have kept by now."""
        kept = []
        for path in self.folder.glob("*.numbers"):
            numbers, hashes = _mapped(path), _mapped(path.with_suffix(".hashes"))
            count = min(len(numbers) // _NUMBER, len(hashes) // _HASH)  # their ends may not be written yet
            if count:
                kept.append((numbers[: count * _NUMBER].cast("q"), hashes))
        return KeptLeaves(kept)


class KeptLeaves:
    """Finds the hashes of entries among those that were kept."""

    def __init__(self, kept: Sequence[tuple[memoryview, memoryview]]) -> None:
        self._kept = kept

    def hashes_of(self, entries: Iterable[int]) -> list[bytes | None]:
        """The hash of each entry as it was read; None if it was not kept."""
        found: list[bytes | None] = []
        numbers, hashes, place = _NO_NUMBERS, _NO_HASHES, 0
        for entry in entries:
            place += 1
            if place >= len(numbers) or numbers[place] != entry:  # mostly it is the next one of the same member
                numbers, hashes, place = self._place_of(entry)
            found.append(bytes(hashes[place * _HASH : (place + 1) * _HASH]) if numbers else None)
        return found

    def _place_of(self, entry: int) -> tuple[memoryview, memoryview, int]:
        for numbers, hashes in self._kept:
            place = bisect_left(numbers, entry)
            if place < len(numbers) and numbers[place] == entry:
                return numbers, hashes, place
        return _NO_NUMBERS, _NO_HASHES, 0


@contextmanager
def kept_leaves() -> Iterator[Leaves]:
    """A folder for one verification, gone at its end."""
    with TemporaryDirectory(prefix="loyalty-verify-", dir=_ROOMY) as folder:
        yield Leaves(Path(folder))


def _mapped(path: Path) -> memoryview:
    try:
        with open(path, "rb") as file:
            return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ) if os.fstat(file.fileno()).st_size else b"")
    except FileNotFoundError:  # another process has only begun, or had no room
        return _NO_HASHES
