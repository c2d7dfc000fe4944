"""What is mounted where, overlay mounts, and removing a tree without ever following a mount out of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from loyalty.ops.errors import Failure
from loyalty.ops.process import run

_ESCAPE = re.compile(r"\\([0-7]{3})")


def parse_mountinfo(text: str) -> list[Path]:
    """Return the mount points of a ``/proc/*/mountinfo``, in mount order (the kernel escapes blanks in octal)."""
    points = (line.split(" ")[4] for line in text.splitlines() if line)
    return [Path(_ESCAPE.sub(lambda octal: chr(int(octal.group(1), 8)), point)) for point in points]


def mounted_under(directory: Path) -> list[Path]:
    """Return the mount points at or under ``directory``, the deepest and latest first."""
    points = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    return [point for point in reversed(points) if point == directory or directory in point.parents]


def is_mounted(directory: Path) -> bool:
    """Say whether something is mounted exactly at ``directory``."""
    return directory in parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def mount_overlay(*, lower: Path, upper: Path, work: Path, merged: Path) -> None:
    """Mount ``upper`` over the read-only ``lower`` at ``merged``; nothing to do if it is there already."""
    if is_mounted(merged):
        return
    for directory in (upper, work, merged):
        directory.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)])


def unmount_under(directory: Path) -> None:
    """Unmount everything at or under ``directory``."""
    for point in mounted_under(directory):
        try:
            run(["umount", str(point)])
        except Failure:
            # A dying process may hold it for a moment more: detach now, the kernel lets go when it can.
            run(["umount", "--lazy", str(point)])


def remove_tree(directory: Path) -> None:
    """Unmount and delete ``directory``. Never deletes through a mount: if one is left, it refuses."""
    unmount_under(directory)
    if left := mounted_under(directory):
        raise Failure(f"{left[0]} is still mounted.", f"Find who uses it (fuser -vm {left[0]}), then run again.")
    if directory.exists():
        shutil.rmtree(directory)
