"""Room for backups: on which disks a folder lies, and when the target will be full.

A copy on the disk of what it protects dies with it. So folders are compared by the disks under them: through
partitions, volumes, encryption, and files that are mounted as disks. A share of the network counts as the server that
it comes from. Virtual disks that lie on one real disk of their host cannot be told apart from inside.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

_ESCAPE = re.compile(r"\\([0-7]{3})")
_FITTED: Final = timedelta(days=14)  # what came before no longer tells how it grows now
_LEAST_FITTED: Final = timedelta(days=1)

_SHARES: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.glusterfs", "ceph", "9p", "virtiofs"})


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    device: str
    """MAJOR:MINOR; major 0 for what is no block device."""
    point: Path
    type: str
    source: str


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The mounts of a /proc/*/mountinfo, in the order of mounting. Blanks in it are written in octal."""
    mounts = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, device, _, point, *_ = fields.split(" ")
        kind, source, *_ = rest.split(" ")
        mounts.append(Mount(device, Path(_plain(point)), kind, _plain(source)))
    return mounts


class Disks:
    """What this machine knows of its disks. `sys` and `mountinfo` are given by tests alone."""

    def __init__(self, *, sys: Path = Path("/sys"), mountinfo: str | None = None) -> None:
        self._sys = sys
        self._mounts = parse_mounts(Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo)

    def under(self, folder: Path) -> frozenset[str]:
        """The names of the disks, or of the server, that what is in `folder` lies on; it need not exist yet.

        What is neither, such as memory, is a name of its own.
        """
        while not folder.exists():
            folder = folder.parent
        return frozenset(self._disks_of(folder, frozenset()))

    def shared(self, target: Path, others: Sequence[Path]) -> dict[Path, frozenset[str]]:
        """Those of `others` that lie on a disk of `target`, with the names of these disks."""
        mine = self.under(target)
        common = {other: mine & self.under(other) for other in others}
        return {other: disks for other, disks in common.items() if disks}

    def _disks_of(self, path: Path, seen: frozenset[str]) -> Iterator[str]:
        device = os.stat(path).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        if os.major(device):
            yield from self.of_device(number, seen)
            return
        # No block device of its own: a share, a pool, a layer over something, or memory. Its mount says which.
        mount = next((one for one in reversed(self._mounts) if one.device == number), None)
        if mount is None:
            yield number
        elif mount.type in _SHARES:
            yield f"server {_server(mount.source)}"
        elif mount.type == "zfs":
            yield f"pool {mount.source.partition('/')[0]}"
        elif behind := self._number_of(mount.source):  # btrfs
            yield from self.of_device(behind, seen)
        else:
            yield f"{mount.type} {number}"

    def _number_of(self, source: str) -> str | None:
        """MAJOR:MINOR of the block device that a mount names; None when it names none.

        By the names that the kernel knows: a sandboxed unit has no such files in its /dev.
        """
        if not source.startswith("/dev/"):
            return None
        devices = self._sys / "class" / "block"
        name = Path(source).name
        if (devices / name).exists():
            return (devices / name / "dev").read_text().strip()
        for mapped in devices.glob("dm-*/dm/name"):
            if mapped.read_text().strip() == name:
                return (mapped.parents[1] / "dev").read_text().strip()
        return None

    def of_device(self, number: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """The disks under the block device MAJOR:MINOR: itself, or those that it is made of."""
        if number in seen:
            return
        seen |= {number}
        entry = self._sys / "dev" / "block" / number
        if not entry.exists():
            yield number
            return
        entry = entry.resolve()
        if (entry / "partition").exists():
            entry = entry.parent
        parts = sorted((entry / "slaves").glob("*"))
        for part in parts:
            yield from self.of_device((part / "dev").read_text().strip(), seen)
        if parts:
            return
        backing = entry / "loop" / "backing_file"
        file = Path(backing.read_text().strip()) if backing.exists() else None
        if file is not None and file.is_file():
            yield from self._disks_of(file, seen)
        else:
            yield entry.name


class Sample(msgspec.Struct, frozen=True):
    """How full the target was at an instant. `size` is what it could hold in all, both in bytes."""

    at: datetime
    used: int
    size: int


class Forecast(NamedTuple):
    """How the target will fill if it goes on as lately."""

    free: int
    growth_per_day: int
    """Bytes; not positive when it does not grow."""
    full_at: datetime | None
    """None: not at this growth, or not known yet."""


def forecast(samples: Sequence[Sample]) -> Forecast | None:
    """When the target will be full, from samples by time; None without any.

    The growth is the median of the slopes between any two samples of the last two weeks, so that a single large run, or
    one after which much was let go, does not decide it. Less than a day of samples says nothing about growth.
    """
    if not samples:
        return None
    last = samples[-1]
    recent = [sample for sample in samples if last.at - sample.at <= _FITTED]
    free = last.size - last.used
    if last.at - recent[0].at < _LEAST_FITTED:
        return Forecast(free, 0, None)
    growth = statistics.median(
        (later.used - earlier.used) / (later.at - earlier.at).total_seconds()
        for earlier, later in combinations(recent, 2)
        if later.at > earlier.at
    )
    full_at = None
    if growth > 0:
        seconds = free / growth
        # Further away than a century is never; a date could not even hold it.
        full_at = last.at + timedelta(seconds=seconds) if seconds < 100 * 365 * 86_400 else None
    return Forecast(free, round(growth * 86_400), full_at)


def measure(folder: Path, *, now: datetime) -> Sample:
    """How full the file system of `folder` is now. What only root may use does not count as room."""
    space = os.statvfs(folder)
    used = (space.f_blocks - space.f_bfree) * space.f_frsize
    return Sample(now, used, used + space.f_bavail * space.f_frsize)


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda octal: chr(int(octal.group(1), 8)), text)


def _server(source: str) -> str:
    """The host in what a share is mounted from: HOST:/PATH, USER@HOST:PATH, //HOST/SHARE."""
    if source.startswith("//"):
        return source[2:].split("/", 1)[0]
    host = source.rsplit(":/", 1)[0] if ":/" in source else source.partition(":")[0]
    return host.rpartition("@")[2]
