"""The folder that keeps everything: it is the right one, there is room, and one run at a time writes there.

Log and files have locks of their own. A full takes hours where there is much data, and they must not wait for it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal

import msgspec

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import FORMAT, Target, flush_folder, write_whole
from loyalty.backup.settings import Settings
from loyalty.backup.space import Disks

Part = Literal["archives", "log", "files", "drill"]

_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"


class Busy(BackupError):
    """Another run is writing there. That is no fault: what it does may be the very thing that was asked for."""


class _Marker(msgspec.Struct):
    format: int
    site: str
    created_at: str


def initialise(settings: Settings) -> Target:
    """Make the folder a target. What it holds already is kept. BackupError when it belongs to another site."""
    target = Target(settings.target)
    if not target.root.is_dir():
        raise BackupError(f"There is no folder {target.root}.", "Mount the backup disk there, or create it.")
    _refuse_same_disk(settings)
    if target.marker.exists():
        return open_target(settings)
    for folder in (target.chains, target.log, target.dumps, target.files):
        folder.mkdir(mode=0o700, exist_ok=True)
    flush_folder(target.root)
    marker = _Marker(FORMAT, settings.site, _now())
    write_whole(target.marker, msgspec.json.encode(marker) + b"\n")
    return target


def open_target(settings: Settings) -> Target:
    """The target, after a look whether it may be written to. BackupError names what is wrong with it."""
    target = Target(settings.target)
    try:
        marker = msgspec.json.decode(target.marker.read_bytes(), type=_Marker)
    except FileNotFoundError:
        raise BackupError(
            f"{target.root} is not a backup target (no {target.marker.name} in it).",
            "Mount the backup disk there. If it is a new one, type: loyalty-backup init",
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(
            f"{target.marker} cannot be read ({error}).",
            "Check the disk; if all else is well, remove that file and type: loyalty-backup init",
        ) from None
    if marker.format > FORMAT:
        raise BackupError(f"{target.root} was written by a later version.", "Install that version on this host.")
    if marker.site != settings.site:
        raise BackupError(
            f"{target.root} keeps the backups of the site {marker.site}, not of {settings.site}.",
            "Mount the disk of this site, or name another folder as target.",
        )
    _refuse_same_disk(settings)
    return target


def made_at(target: Target) -> datetime:
    """When the folder was made a target."""
    marker = msgspec.json.decode(target.marker.read_bytes(), type=_Marker)
    return datetime.strptime(marker.created_at, _STAMP).replace(tzinfo=timezone.utc)


@contextmanager
def hold(target: Target, what: str, *, part: Part = "archives", patience_s: float = 0) -> Iterator[None]:
    """Be the only one who writes to that part. Busy says who else does, after so many seconds. The kernel frees it when
    we die."""
    path = target.root / (".lock" if part == "archives" else f".{part}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + patience_s
        while not _locked(descriptor):
            if time.monotonic() < give_up:
                time.sleep(0.1)  # a poll: flock itself would wait without an end
                continue
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another run"
            raise Busy(f"{holder} holds {path}.", "Wait until it has ended.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{what} (process {os.getpid()}, since {_now()})\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_bytes(target: Target) -> int:
    """Room on the target for whoever is root."""
    room = os.statvfs(target.root)
    return room.f_bfree * room.f_frsize


def require_room(settings: Settings, target: Target, needed: int) -> None:
    """BackupError when less than `needed` bytes and the reserve are free."""
    free = free_bytes(target)
    if free < needed + settings.reserve_bytes:
        raise BackupError(
            f"{target.root} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed besides the reserve of "
            f"{settings.reserve_bytes / 1e9:.1f} GB.",
            "Type: loyalty-backup prune. If that does not make enough room, use a larger disk or keep less.",
        )


def refuse_copy_on_same_disk(settings: Settings) -> None:
    """BackupError when the second copy would die with the first, or with the data. Of another host nobody can say."""
    second = settings.second_copy
    if second is not None and second.to.startswith("/") and not second.allow_same_disk:
        _refuse_shared(Path(second.to), (settings.target, *settings.data_paths), "backup_copy_same_disk_enabled")


def _refuse_same_disk(settings: Settings) -> None:
    if not settings.allow_same_disk:
        _refuse_shared(settings.target, settings.data_paths, "backup_same_disk_enabled")


def _refuse_shared(place: Path, others: Sequence[Path], unless: str) -> None:
    here = [path for path in others if path.exists()]
    for path, names in Disks().shared(place, here).items():
        raise BackupError(
            f"{place} is on the same disk as {path} ({', '.join(sorted(names))}): one broken disk would take both.",
            f"Mount another disk or a share there, or accept it: {unless}: true in the inventory.",
        )


def _now() -> str:
    return datetime.now(timezone.utc).strftime(_STAMP)
