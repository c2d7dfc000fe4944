"""rsync, and the SSH that it runs through."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_VANISHED: Final = 24  # something was removed while it looked, as whoever lives there may do
_FULL: Final = tuple(f"({number})" for number in (errno.ENOSPC, errno.EDQUOT))
_STALL_SECONDS: Final = 300


class RsyncError(Exception):
    """rsync did not do all that it was asked for. The message is its own first one."""

    def __init__(self, reason: str, *, is_full: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_full = is_full


def rsync(*arguments: str, shell: str | None = None, bytes_per_second: float = 0, progress: bool = False) -> None:
    """Run rsync. RsyncError says what failed first, and whether for want of room.

    `shell` is the remote shell, if one is needed. With `progress` it shows on the terminal how far it is.
    """
    # Whole files: what is kept is written once, so there is nothing to build from parts. And rsync 3.2.7 of Debian 12
    # would build from files of --link-dest that its own receiver refuses to open ("failed verification").
    command = ["rsync", "--recursive", "--times", "--whole-file", f"--timeout={_STALL_SECONDS}"]
    if shell is not None:
        command.append(f"--rsh={shell}")
    if bytes_per_second:
        command.append(f"--bwlimit={max(int(bytes_per_second) // 1024, 1)}k")
    if progress:
        command.append("--info=progress2")
    # With its parent it ends too: an abandoned one would go on writing beside the next.
    command = ["setpriv", "--pdeathsig", "KILL", *command, *arguments]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=None if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"},
    )
    if done.returncode in (0, _VANISHED):
        return
    said = done.stderr.decode(errors="replace").strip().splitlines()
    reason = said[0] if said else f"rsync ended with {done.returncode}"
    raise RsyncError(reason, is_full=any(mark in line for line in said for mark in _FULL))


def remote_shell(key_file: Path, known_hosts_file: Path, *, port: int = 22) -> str:
    """SSH with this key alone, to hosts that are known alone, that never asks and notices a host that is gone."""
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts_file),
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
    }
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return shlex.join(["ssh", "-F", "none", "-T", "-a", "-x", "-p", str(port), "-i", str(key_file), *given])


def escaped(path: str) -> str:
    """A path for a filter rule, in which some characters mean more than themselves."""
    return "".join(f"\\{character}" if character in "*?[\\" else character for character in path)


def folders_above(paths: Sequence[str]) -> list[str]:
    """Every folder on the way to the paths, the upper first."""
    above = {str(parent) for path in paths for parent in Path(path).parents if str(parent) != "."}
    return sorted(above)
