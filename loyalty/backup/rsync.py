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
_READING_SECONDS: Final = 3600  # a side that reads says nothing meanwhile


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
    options = [f"--timeout={_STALL_SECONDS}"]
    if bytes_per_second:
        options.append(f"--bwlimit={max(int(bytes_per_second) // 1024, 1)}k")
    if progress:
        options.append("--info=progress2")
    _run([*options, *arguments], shell, stdout=None if progress else subprocess.DEVNULL)


def differing(*arguments: str, shell: str | None = None) -> list[str]:
    """The files that rsync would have to send, going by checksums that each side works out of what it reads.

    Nothing is sent. RsyncError as of `rsync`.
    """
    options = ("--dry-run", "--checksum", "--out-format=%i %n", f"--timeout={_READING_SECONDS}")
    changes = (line.partition(" ") for line in _run([*options, *arguments], shell, stdout=subprocess.PIPE).splitlines())
    # Such as ">f.s......"; where times alone differ it begins with a dot.
    return [name for change, _, name in changes if change[:2] in ("<f", ">f")]


def _run(arguments: Sequence[str], shell: str | None, *, stdout: int | None) -> str:
    # Whole files: what is kept is written once, so there is nothing to build from parts. And rsync 3.2.7 of Debian 12
    # would build from files of --link-dest that its own receiver refuses to open ("failed verification").
    command = ["rsync", "--recursive", "--times", "--whole-file"]
    if shell is not None:
        command.append(f"--rsh={shell}")
    # With its parent it ends too: an abandoned one would go on writing beside the next.
    command = ["setpriv", "--pdeathsig", "KILL", *command, *arguments]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"},
    )
    if done.returncode in (0, _VANISHED):
        return (done.stdout or b"").decode(errors="replace")
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
